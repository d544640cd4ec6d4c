//! The headers of a Kafka record: what the bridge says of an MQTT message, and how the processor reads it. Pure.

use std::borrow::Cow;

use crds::names::header;
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use rdkafka::message::{Header, Headers, OwnedHeaders};

/// Prints RFC 3339 with microseconds.
const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// Where a record came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin<'a> {
    /// The MQTT topic.
    pub topic: Cow<'a, str>,
    /// The QoS with which the broker delivered the message: 0, 1 or 2.
    pub qos: u8,
    /// Whether the broker sent it as a retained message.
    pub retained: bool,
    /// Whether the broker marked it as delivered before (a hint only).
    pub duplicate: bool,
    /// When the bridge received it.
    pub ingested_at: Timestamp,
    /// The MQTT 5 content type.
    pub content_type: Option<Cow<'a, str>>,
    /// The MQTT 5 user properties, in order; names may repeat.
    pub properties: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// What the record stands for, where it is not the message itself.
    pub stub: Option<Stub<'a>>,
}

/// What a stub stands for: a message that no record of the topic can hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stub<'a> {
    /// Why it is one.
    pub reason: Cow<'a, str>,
    /// The length of the whole payload.
    pub payload_bytes: u64,
    /// The SHA-256 of the whole payload.
    pub payload_sha256: [u8; 32],
}

/// What one user property takes in a record beside its name and value at most: the prefix and four lengths, bytes.
const PROPERTY_OVERHEAD_BYTES: usize = header::PROPERTY_PREFIX.len() + 10;

/// The headers of a record. What is false or absent takes no header. User properties take `properties_room` bytes
/// at most: how many do not fit, a header of its own says.
pub fn encode(origin: &Origin<'_>, properties_room: usize) -> OwnedHeaders {
    let Origin { topic, qos, retained, duplicate, ingested_at, content_type, properties, stub } = origin;
    let qos = match qos {
        0 => "0",
        1 => "1",
        _ => "2",
    };
    let mut headers = OwnedHeaders::new_with_capacity(6 + properties.len());
    headers = insert(headers, header::TOPIC, topic);
    headers = insert(headers, header::QOS, qos);
    if *retained {
        headers = insert(headers, header::RETAINED, "true");
    }
    if *duplicate {
        headers = insert(headers, header::DUPLICATE, "true");
    }
    headers = insert(headers, header::INGESTED_AT, &PRINTER.timestamp_to_string(ingested_at));
    if let Some(content_type) = content_type {
        headers = insert(headers, header::CONTENT_TYPE, content_type);
    }
    let kept = how_many_fit(properties, properties_room);
    for (name, value) in &properties[..kept] {
        headers = insert(headers, &format!("{}{name}", header::PROPERTY_PREFIX), value);
    }
    if kept < properties.len() {
        headers = insert(headers, header::PROPERTIES_OMITTED, &(properties.len() - kept).to_string());
    }
    match stub {
        Some(stub) => mark_stub(headers, stub),
        None => headers,
    }
}

/// The same headers, of a stub.
pub fn mark_stub(headers: OwnedHeaders, stub: &Stub<'_>) -> OwnedHeaders {
    let Stub { reason, payload_bytes, payload_sha256 } = stub;
    let hash: String = payload_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = insert(headers, header::STUB, reason);
    let headers = insert(headers, header::STUB_PAYLOAD_BYTES, &payload_bytes.to_string());
    insert(headers, header::STUB_PAYLOAD_SHA256, &hash)
}

fn how_many_fit(properties: &[(Cow<'_, str>, Cow<'_, str>)], room: usize) -> usize {
    let mut taken = 0;
    let fits = |(name, value): &&(Cow<'_, str>, Cow<'_, str>)| {
        taken += name.len() + value.len() + PROPERTY_OVERHEAD_BYTES;
        taken <= room
    };
    properties.iter().take_while(fits).count()
}

/// Where a record came from; `None` where the bridge did not write it. Headers it does not know are skipped.
pub fn decode<H: Headers>(headers: &H) -> Option<Origin<'_>> {
    let mut topic = None;
    let mut ingested_at = None;
    let (mut stub_reason, mut stub_bytes, mut stub_hash) = (None, None, None);
    let mut origin = Origin {
        topic: Cow::Borrowed(""),
        qos: 0,
        retained: false,
        duplicate: false,
        ingested_at: Timestamp::UNIX_EPOCH,
        content_type: None,
        properties: Vec::new(),
        stub: None,
    };
    for Header { key, value } in headers.iter() {
        let Some(value) = value.map(String::from_utf8_lossy) else { continue };
        match key {
            header::TOPIC => topic = Some(value),
            header::QOS => origin.qos = value.parse().unwrap_or_default(),
            header::RETAINED => origin.retained = value == "true",
            header::DUPLICATE => origin.duplicate = value == "true",
            header::INGESTED_AT => ingested_at = value.parse().ok(),
            header::CONTENT_TYPE => origin.content_type = Some(value),
            header::STUB => stub_reason = Some(value),
            header::STUB_PAYLOAD_BYTES => stub_bytes = value.parse().ok(),
            header::STUB_PAYLOAD_SHA256 => stub_hash = decode_hash(&value),
            key => {
                if let Some(name) = key.strip_prefix(header::PROPERTY_PREFIX) {
                    origin.properties.push((Cow::Borrowed(name), value));
                }
            }
        }
    }
    if let (Some(reason), Some(payload_bytes), Some(payload_sha256)) = (stub_reason, stub_bytes, stub_hash) {
        origin.stub = Some(Stub { reason, payload_bytes, payload_sha256 });
    }
    Some(Origin { topic: topic?, ingested_at: ingested_at?, ..origin })
}

fn decode_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(hash)
}

fn insert(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1024;

    fn full() -> Origin<'static> {
        Origin {
            topic: "plants/7/ü".into(),
            qos: 2,
            retained: true,
            duplicate: true,
            ingested_at: Timestamp::from_microsecond(1_790_000_000_000_001).unwrap(),
            content_type: Some("application/json".into()),
            properties: vec![("unit".into(), "°C".into()), ("unit".into(), "".into())],
            stub: None,
        }
    }

    fn text(headers: &OwnedHeaders) -> Vec<String> {
        headers
            .iter()
            .map(|Header { key, value }| format!("{key}={}", String::from_utf8_lossy(value.unwrap())))
            .collect()
    }

    #[test]
    fn the_processor_reads_what_the_bridge_wrote() {
        assert_eq!(decode(&encode(&full(), ROOM)), Some(full()));
        let plain = Origin {
            qos: 0,
            retained: false,
            duplicate: false,
            content_type: None,
            properties: vec![],
            ..full()
        };
        assert_eq!(decode(&encode(&plain, ROOM)), Some(plain));
    }

    #[test]
    fn what_is_false_or_absent_takes_no_header() {
        let plain = Origin {
            qos: 1,
            retained: false,
            duplicate: false,
            content_type: None,
            properties: vec![],
            ..full()
        };
        assert_eq!(
            text(&encode(&plain, ROOM)),
            ["mqtt.topic=plants/7/ü", "mqtt.qos=1", "ingested_at=2026-09-21T14:13:20.000001Z"]
        );
        assert_eq!(text(&encode(&full(), ROOM)).last().unwrap(), "mqtt.property.unit=");
    }

    #[test]
    fn properties_that_do_not_fit_are_counted() {
        let room = "unit".len() + "°C".len() + PROPERTY_OVERHEAD_BYTES;
        assert_eq!(text(&encode(&full(), room)).last().unwrap(), "mqtt.properties_omitted=1");
        assert_eq!(text(&encode(&full(), 0)).last().unwrap(), "mqtt.properties_omitted=2");
        assert_eq!(decode(&encode(&full(), room)).unwrap().properties, full().properties[..1]);
    }

    #[test]
    fn a_stub_says_what_it_stands_for_and_a_broken_mark_is_none() {
        let stub =
            Stub { reason: "RecordTooLarge".into(), payload_bytes: 7_000_000, payload_sha256: [0xa5; 32] };
        let origin = Origin { stub: Some(stub), ..full() };
        let headers = encode(&origin, ROOM);
        assert_eq!(decode(&headers), Some(origin));
        assert_eq!(
            text(&headers).last().unwrap(),
            &format!("iotpipeline.payload_sha256={}", "a5".repeat(32))
        );
        let broken = insert(encode(&full(), ROOM), header::STUB, "RecordTooLarge");
        assert_eq!(decode(&insert(broken, header::STUB_PAYLOAD_SHA256, "+1é")).unwrap().stub, None);
    }

    #[test]
    fn records_of_others_have_no_origin() {
        assert_eq!(decode(&OwnedHeaders::new()), None);
        let foreign = insert(OwnedHeaders::new(), "ingested_at", "2026-09-21T14:13:20Z");
        assert_eq!(decode(&foreign), None);
        let without_value = OwnedHeaders::new().insert(Header::<&str> { key: header::TOPIC, value: None });
        assert_eq!(decode(&without_value), None);
    }
}
