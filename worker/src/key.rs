//! The key of a Kafka record, which decides its partition and so its order. Pure.

use std::borrow::Cow;

use crds::{names::MAX_KEY_BYTES, worker::KeyConfig};
use sonic_rs::{JsonType, JsonValueTrait};

/// The key of a message. Where the configured part does not exist, the MQTT topic.
pub fn record_key<'a>(config: &KeyConfig, topic: &'a [u8], payload: &'a [u8]) -> Cow<'a, [u8]> {
    match config {
        KeyConfig::Topic => Cow::Borrowed(topic),
        KeyConfig::TopicLevel(level) => Cow::Borrowed(topic_level(topic, *level).unwrap_or(topic)),
        KeyConfig::Field(path) => json_field(payload, path)
            .filter(|field| field.len() <= MAX_KEY_BYTES)
            .unwrap_or(Cow::Borrowed(topic)),
    }
}

fn topic_level(topic: &[u8], level: u32) -> Option<&[u8]> {
    topic.split(|byte| *byte == b'/').nth(usize::try_from(level).ok()?)
}

/// A string's content, or a number or boolean as it stands in the text; `None` for anything else, which
/// includes payloads that are no JSON. The payload behind the field is not looked at.
fn json_field<'a>(payload: &'a [u8], path: &[String]) -> Option<Cow<'a, [u8]>> {
    let value = sonic_rs::get(payload, path).ok()?;
    match value.get_type() {
        JsonType::String => Some(match value.as_raw_cow() {
            // Without a backslash the content is the text between the quotes.
            Cow::Borrowed(raw) if !raw.contains('\\') => Cow::Borrowed(raw.get(1..raw.len() - 1)?.as_bytes()),
            _ => Cow::Owned(value.as_str()?.as_bytes().to_vec()),
        }),
        JsonType::Number | JsonType::Boolean => Some(match value.as_raw_cow() {
            Cow::Borrowed(raw) => Cow::Borrowed(raw.as_bytes()),
            Cow::Owned(raw) => Cow::Owned(raw.into_bytes()),
        }),
        JsonType::Null | JsonType::Object | JsonType::Array => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "plants/7/lines/3/telemetry";

    fn check(config: &KeyConfig, payload: &str, expect: &str) {
        let key = record_key(config, TOPIC.as_bytes(), payload.as_bytes());
        assert_eq!(String::from_utf8_lossy(&key), expect, "{config:?} {payload}");
    }

    fn field(path: &[&str]) -> KeyConfig {
        KeyConfig::Field(path.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_field_too_long_for_a_key_is_none() {
        let payload = format!(r#"{{"device":"{}"}}"#, "x".repeat(MAX_KEY_BYTES + 1));
        check(&field(&["device"]), &payload, TOPIC);
    }

    #[test]
    fn the_topic_or_one_of_its_levels() {
        check(&KeyConfig::Topic, "", TOPIC);
        check(&KeyConfig::TopicLevel(0), "", "plants");
        check(&KeyConfig::TopicLevel(3), "", "3");
        check(&KeyConfig::TopicLevel(5), "", TOPIC);
    }

    #[test]
    fn a_field_of_the_payload() {
        check(&field(&["device"]), r#"{"t": 1, "device": "press-4"}"#, "press-4");
        check(&field(&["device", "id"]), r#"{"device": {"id": 42}}"#, "42");
        check(&field(&["device"]), r#"{"device": -4.20}"#, "-4.20");
        check(&field(&["device"]), r#"{"device": true}"#, "true");
        check(&field(&["device"]), r#"{"device": "a\"bé"}"#, "a\"bé");
        check(&field(&["device"]), r#"{"device": ""}"#, "");
    }

    #[test]
    fn the_topic_where_there_is_no_such_field() {
        for payload in [
            "",
            "{}",
            "[1]",
            "no json",
            r#"{"device": null}"#,
            r#"{"device": {}}"#,
            r#"{"device": [1]}"#,
            "\u{0}",
        ] {
            check(&field(&["device"]), payload, TOPIC);
        }
        let key = record_key(&field(&["device"]), b"t", b"{\"device\": \"\xff\xfe\"}");
        assert_eq!(*key, *b"t", "not UTF-8");
    }
}
