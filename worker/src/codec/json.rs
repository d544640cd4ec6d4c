//! JSON. Pure.
//!
//! Of two members with one name the last counts. Integers beyond 64 bits become floats. U+0000 in text passes
//! here and is rejected where it would reach a column.

use program::Value;

use crate::rejection::{Reason, Rejection, Stage};

/// How deep values may nest.
pub const MAX_DEPTH: usize = 128;

/// How much memory the values of one payload may take.
const MAX_VALUES_BYTES: usize = 64 * 1024 * 1024;

/// A payload that is not longer than this cannot take more, whatever it holds.
const WEIGHED_BYTES: usize = 128 * 1024;

/// Decodes one JSON value.
///
/// # Errors
/// Says why the bytes are none; never panics, however deep they nest.
pub fn decode(payload: &[u8]) -> Result<Value, Rejection> {
    let reject = |reason, message: String| Err(Rejection::new(reason, Stage::Decode, message));
    if payload.is_empty() {
        return reject(Reason::Empty, "the payload is empty".into());
    }
    if nests_deeper_than(payload, MAX_DEPTH) {
        return reject(Reason::TooDeep, format!("the payload nests deeper than {MAX_DEPTH} levels"));
    }
    if payload.len() > WEIGHED_BYTES && weight(payload) > MAX_VALUES_BYTES {
        let limit = MAX_VALUES_BYTES / 1024 / 1024;
        return reject(
            Reason::TooLarge,
            format!("the payload holds so many values that they would take more than {limit} MiB of memory"),
        );
    }
    match sonic_rs::from_slice(payload) {
        Ok(value) => Ok(value),
        Err(error) => match std::str::from_utf8(payload) {
            Err(utf8) => {
                reject(Reason::InvalidUtf8, format!("the payload is no UTF-8 at byte {}", utf8.valid_up_to()))
            }
            Ok(_) => reject(Reason::InvalidJson, first_line(&error.to_string())),
        },
    }
}

/// Whether brackets outside of strings nest deeper than `limit`. Parsers recurse, so this is asked before.
fn nests_deeper_than(payload: &[u8], limit: usize) -> bool {
    // Nearly every payload has too few brackets to nest so deep, whatever their order; counting is cheap.
    payload.len() > limit && count_opening(payload) > limit && depth(payload) > limit
}

/// How many `{` and `[` there are. What is counted in a byte is counted sixteen at a time.
fn count_opening(payload: &[u8]) -> usize {
    let count = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    payload.chunks(u8::MAX.into()).map(|chunk| usize::from(count(chunk))).sum()
}

fn depth(payload: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for_each_outside_strings(payload, |byte| match byte {
        b'{' | b'[' => {
            depth += 1;
            deepest = deepest.max(depth);
        }
        b'}' | b']' => depth = depth.saturating_sub(1),
        _ => {}
    });
    deepest
}

/// About how much memory the values take, bytes: a small object is a node of a tree with room for eleven members,
/// which makes a payload of many such objects a hundred times as large.
fn weight(payload: &[u8]) -> usize {
    let mut weight = payload.len();
    for_each_outside_strings(payload, |byte| {
        weight += match byte {
            b'{' => 768,
            b'[' => 192,
            b',' => 112,
            _ => 0,
        }
    });
    weight
}

fn for_each_outside_strings(payload: &[u8], mut call: impl FnMut(u8)) {
    let (mut in_string, mut escaped) = (false, false);
    for byte in payload {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            byte if !in_string => call(*byte),
            _ => {}
        }
    }
}

/// The parser's message without its drawing of the place.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(payload: &[u8]) -> Option<Reason> {
        decode(payload).err().map(|rejection| rejection.reason)
    }

    #[test]
    fn values_of_every_kind_decode() {
        let value =
            decode(br#"{"a":1,"b":-2.5,"c":"\u00e9\n","d":[true,null],"e":{"f":18446744073709551615}}"#)
                .unwrap();
        let object = value.as_object().unwrap();
        assert_eq!(object["a"], Value::from(1));
        assert_eq!(object["b"], Value::from_f64_or_zero(-2.5));
        assert_eq!(object["c"], Value::from("é\n"));
        assert_eq!(object["d"], Value::Array(vec![Value::from(true), Value::Null]));
        assert_eq!(
            object["e"].as_object().unwrap()["f"],
            Value::from_f64_or_zero(18_446_744_073_709_551_615.0)
        );
    }

    #[test]
    fn of_two_members_with_one_name_the_last_counts() {
        assert_eq!(decode(br#"{"a":1,"a":2}"#).unwrap().as_object().unwrap()["a"], Value::from(2));
    }

    #[test]
    fn every_kind_of_broken_payload_has_its_reason() {
        for (payload, expected) in [
            (&b""[..], Reason::Empty),
            (b"   ", Reason::InvalidJson),
            (b"\xff\xfe", Reason::InvalidUtf8),
            (b"{\"a\":\"\xc3\x28\"}", Reason::InvalidUtf8),
            (b"{\"a\":NaN}", Reason::InvalidJson),
            (b"{\"a\":Infinity}", Reason::InvalidJson),
            (b"{\"a\":1e400}", Reason::InvalidJson),
            (b"{\"a\":-1e400}", Reason::InvalidJson),
            (b"{\"a\":1", Reason::InvalidJson),
            (b"{\"a\":1}x", Reason::InvalidJson),
            (b"{\"a\":01}", Reason::InvalidJson),
            (b"{'a':1}", Reason::InvalidJson),
            (b"{\"a\":\"\x01\"}", Reason::InvalidJson),
            (b"{\"a\":\"\x00\"}", Reason::InvalidJson),
            (b"{\"a\":\"\\ud800\"}", Reason::InvalidJson),
            (b"\0", Reason::InvalidJson),
            (b"temperature=21.5", Reason::InvalidJson),
        ] {
            assert_eq!(reason(payload), Some(expected), "{}", String::from_utf8_lossy(payload));
        }
    }

    #[test]
    fn depth_is_counted_to_the_level_and_not_in_strings() {
        let nested = |levels: usize| [b"[".repeat(levels), b"]".repeat(levels)].concat();
        assert_eq!(reason(&nested(MAX_DEPTH)), None);
        assert_eq!(reason(&nested(MAX_DEPTH + 1)), Some(Reason::TooDeep));
        assert_eq!(reason(&b"[".repeat(10_000)), Some(Reason::TooDeep));
        assert_eq!(reason(&br#"{"a":"#.repeat(10_000)), Some(Reason::TooDeep));
        assert_eq!(reason(&[b"\"", &b"[".repeat(10_000)[..], b"\\\"[\""].concat()), None);
        assert_eq!(reason(&[b"[", &b"[],".repeat(10_000)[..], b"1]"].concat()), None);
    }

    #[test]
    fn a_message_is_one_line_and_says_where() {
        let message = decode(b"{\"a\":nul}").unwrap_err().message;
        assert!(!message.contains('\n') && message.contains("line 1"), "{message}");
    }

    #[test]
    fn values_that_would_fill_the_memory_are_refused() {
        let many = |value: &str, count: usize| format!("[{}0]", format!("{value},").repeat(count));
        assert_eq!(reason(many(r#"{"a":0}"#, 100_000).as_bytes()), Some(Reason::TooLarge));
        assert_eq!(reason(many("[]", 300_000).as_bytes()), Some(Reason::TooLarge));
        assert_eq!(reason(many("0", 1_000_000).as_bytes()), Some(Reason::TooLarge));
        assert_eq!(reason(many(r#"{"a":0}"#, 50_000).as_bytes()), None);
        let text = format!("\"{}\"", r#"{[,\\\""#.repeat(1_000_000));
        assert_eq!(reason(text.as_bytes()), None);
        // The densest payload that is not weighed.
        let dense = "{".repeat(WEIGHED_BYTES / 2);
        assert!(weight(dense.as_bytes()) < MAX_VALUES_BYTES);
    }
}
