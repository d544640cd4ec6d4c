//! Values as JSON text that PostgreSQL's jsonb takes. Pure.

use std::io::Write;

use program::Value;

use super::value::Misfit;
use crate::{codec::json::MAX_DEPTH, rejection::Reason};

/// The byte before the text in jsonb's binary form.
pub const JSONB_VERSION: u8 = 1;

/// Appends a value as JSON.
///
/// # Errors
/// Says what jsonb cannot hold.
pub fn write(value: &Value, buffer: &mut Vec<u8>) -> Result<(), Misfit> {
    write_nested(value, 0, buffer)
}

/// Appends an object of these members.
///
/// # Errors
/// Says what jsonb cannot hold.
pub fn write_object<'a>(
    members: impl Iterator<Item = (&'a str, &'a Value)>,
    buffer: &mut Vec<u8>,
) -> Result<(), Misfit> {
    write_members(members, 0, buffer)
}

/// Appends microseconds since 1970 as RFC 3339, without quotes.
pub fn write_timestamp(micros: i64, buffer: &mut Vec<u8>) {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => write_display(format_args!("{time}"), buffer),
        // Outside of the years that have a notation: the number.
        Err(_) => write_display(format_args!("{micros}"), buffer),
    }
}

/// Refuses text with U+0000.
///
/// # Errors
/// Where there is one.
pub fn check_nul(text: &str) -> Result<(), Misfit> {
    if text.as_bytes().contains(&0) {
        return Err((
            Reason::NulCharacter,
            "the text holds U+0000, which PostgreSQL cannot store".to_owned(),
        ));
    }
    Ok(())
}

fn write_nested(value: &Value, depth: usize, buffer: &mut Vec<u8>) -> Result<(), Misfit> {
    match value {
        Value::Null => buffer.extend_from_slice(b"null"),
        Value::Boolean(true) => buffer.extend_from_slice(b"true"),
        Value::Boolean(false) => buffer.extend_from_slice(b"false"),
        Value::Integer(number) => write_display(format_args!("{number}"), buffer),
        Value::Float(number) if !number.is_finite() => {
            return Err((Reason::OutOfRange, "JSON has no infinite numbers".to_owned()));
        }
        // The debug form is the shortest text that reads back as the same number, and valid JSON.
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            // Of the two zeros the sum is the one without a sign.
            write_display(format_args!("{:.0}", number.into_inner() + 0.0), buffer);
        }
        Value::Float(number) => write_display(format_args!("{:?}", number.into_inner()), buffer),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => write_string(text, buffer)?,
            Err(_) => return Err((Reason::InvalidUtf8, "the text is no UTF-8".to_owned())),
        },
        Value::String(text) => write_string(text, buffer)?,
        Value::Regex(regex) => write_string(regex.as_str(), buffer)?,
        Value::Timestamp(time) => {
            buffer.push(b'"');
            write_timestamp(time.timestamp_micros(), buffer);
            buffer.push(b'"');
        }
        Value::Array(_) | Value::Object(_) if depth >= MAX_DEPTH => {
            return Err((Reason::TooDeep, format!("the value nests deeper than {MAX_DEPTH} levels")));
        }
        Value::Array(elements) => {
            buffer.push(b'[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    buffer.push(b',');
                }
                write_nested(element, depth + 1, buffer)?;
            }
            buffer.push(b']');
        }
        Value::Object(members) => {
            write_members(members.iter().map(|(name, value)| (name.as_str(), value)), depth, buffer)?;
        }
    }
    Ok(())
}

fn write_members<'a>(
    members: impl Iterator<Item = (&'a str, &'a Value)>,
    depth: usize,
    buffer: &mut Vec<u8>,
) -> Result<(), Misfit> {
    buffer.push(b'{');
    for (index, (name, value)) in members.enumerate() {
        if index > 0 {
            buffer.push(b',');
        }
        write_string(name, buffer)?;
        buffer.push(b':');
        write_nested(value, depth + 1, buffer)?;
    }
    buffer.push(b'}');
    Ok(())
}

fn write_string(text: &str, buffer: &mut Vec<u8>) -> Result<(), Misfit> {
    buffer.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            continue;
        }
        buffer.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        match byte {
            0 => check_nul(text)?,
            b'"' | b'\\' => buffer.extend_from_slice(&[b'\\', *byte]),
            b'\n' => buffer.extend_from_slice(b"\\n"),
            b'\r' => buffer.extend_from_slice(b"\\r"),
            b'\t' => buffer.extend_from_slice(b"\\t"),
            _ => write_display(format_args!("\\u{byte:04x}"), buffer),
        }
    }
    buffer.extend_from_slice(&bytes[written..]);
    buffer.push(b'"');
    Ok(())
}

fn write_display(text: std::fmt::Arguments<'_>, buffer: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = buffer.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::json::decode;

    fn round_trip(json: &str) -> String {
        let mut buffer = Vec::new();
        write(&decode(json.as_bytes()).unwrap(), &mut buffer).unwrap();
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn what_was_decoded_is_written_again() {
        for json in [
            r#"{"a":[1,-2.5,true,false,null,{"b":{}}],"c":[]}"#,
            r#""quote \" backslash \\ line \n\r\t bell \u0007 é 😀""#,
            "1e300",
            "1e-7",
            "0.1",
            "-9223372036854775808",
            "20",
        ] {
            assert_eq!(round_trip(json), json);
        }
        assert_eq!(round_trip("20.0"), "20");
        assert_eq!(round_trip("-1e-400"), "0");
        assert_eq!(round_trip("1.0e2"), "100");
    }

    #[test]
    fn a_value_that_a_program_nested_too_deep_is_refused() {
        let nested = |levels: usize| (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        assert!(write(&nested(MAX_DEPTH), &mut Vec::new()).is_ok());
        assert_eq!(write(&nested(MAX_DEPTH + 1), &mut Vec::new()).unwrap_err().0, Reason::TooDeep);
    }

    #[test]
    fn infinity_is_refused() {
        let infinite = Value::from_f64_or_zero(f64::NEG_INFINITY);
        assert_eq!(write(&infinite, &mut Vec::new()).unwrap_err().0, Reason::OutOfRange);
    }

    #[test]
    fn times_are_text() {
        let mut buffer = Vec::new();
        write_timestamp(1_795_428_000_250_000, &mut buffer);
        assert_eq!(buffer, b"2026-11-23T10:00:00.25Z");
    }
}
