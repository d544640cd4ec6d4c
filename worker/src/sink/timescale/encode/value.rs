//! One value as one column type, in PostgreSQL's binary form. Pure. The table in `docs/columns.md` says the same
//! in words; a change here is a change there.

use crds::pipeline::ColumnType;
use jiff::{SignedDuration, civil::DateTime, fmt::temporal::Pieces};
use program::Value;

use super::json;
use crate::rejection::Reason;

/// Why a value does not fit: the reason, and the rest of the sentence that begins with the column.
pub type Misfit = (Reason, String);

/// Appends a value that is not null.
///
/// # Errors
/// Says why it does not fit the type.
pub fn write(column_type: ColumnType, value: &Value, buffer: &mut Vec<u8>) -> Result<(), Misfit> {
    match column_type {
        ColumnType::Boolean => match value {
            Value::Boolean(value) => buffer.push(u8::from(*value)),
            other => return Err(wrong_type(other, "a boolean")),
        },
        ColumnType::Smallint => {
            let number = i16::try_from(integer(value)?).map_err(|_| out_of_range(column_type))?;
            buffer.extend_from_slice(&number.to_be_bytes());
        }
        ColumnType::Integer => {
            let number = i32::try_from(integer(value)?).map_err(|_| out_of_range(column_type))?;
            buffer.extend_from_slice(&number.to_be_bytes());
        }
        ColumnType::Bigint => buffer.extend_from_slice(&integer(value)?.to_be_bytes()),
        ColumnType::Real => buffer.extend_from_slice(&single(value)?.to_be_bytes()),
        ColumnType::DoublePrecision => buffer.extend_from_slice(&double(value)?.to_be_bytes()),
        ColumnType::Text => write_text(value, buffer)?,
        ColumnType::Timestamptz => write_timestamp(timestamp(value)?, buffer),
        ColumnType::Jsonb => {
            buffer.push(json::JSONB_VERSION);
            json::write(value, buffer)?;
        }
        ColumnType::Uuid => buffer.extend_from_slice(&uuid(value)?),
    }
    Ok(())
}

/// Appends microseconds since 1970 as a timestamptz.
pub fn write_timestamp(micros: i64, buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&(micros - MICROS_FROM_1970_TO_2000).to_be_bytes());
}

/// A point in time in microseconds since 1970: a timestamp of a program, RFC 3339 text, or a number since 1970
/// whose magnitude tells seconds, milliseconds, microseconds and nanoseconds apart.
///
/// # Errors
/// Says why it is none.
pub fn timestamp(value: &Value) -> Result<i64, Misfit> {
    let micros = match value {
        Value::Timestamp(time) => time.timestamp_micros(),
        Value::Integer(number) => epoch_integer(*number),
        Value::Float(number) => epoch_float(number.into_inner()),
        Value::Bytes(_) | Value::String(_) => {
            let text = text(value)?;
            let micros = match text.parse::<jiff::Timestamp>() {
                Ok(time) => Some(time.as_microsecond()),
                Err(_) => late_timestamp(text),
            };
            micros.ok_or_else(|| {
                let message = "the text is no time as RFC 3339 writes it (2026-11-23T10:00:00Z)";
                (Reason::WrongType, message.to_owned())
            })?
        }
        other => return Err(wrong_type(other, "a time")),
    };
    if ACCEPTED_MICROS.contains(&micros) {
        Ok(micros)
    } else {
        Err((Reason::OutOfRange, "the time is not between the years 1 and 9999".to_owned()))
    }
}

/// The same of the last hours of the year 9999, a favourite for "never", which are beyond what a `Timestamp` holds.
fn late_timestamp(text: &str) -> Option<i64> {
    let pieces = Pieces::parse(text).ok()?;
    let local = pieces.date().to_datetime(pieces.time()?);
    let since_1970 = local.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    let offset = SignedDuration::from_secs(pieces.to_numeric_offset()?.seconds().into());
    i64::try_from(since_1970.checked_sub(offset)?.as_micros()).ok()
}

const MICROS_FROM_1970_TO_2000: i64 = 946_684_800_000_000;

/// 0001-01-01T00:00:00Z to the end of the year 9999.
const ACCEPTED_MICROS: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;

// Below 10^11 a number is seconds (until the year 5138), then milliseconds, microseconds and nanoseconds, three
// digits more each.
const SECONDS_BELOW: u64 = 100_000_000_000;
const MILLISECONDS_BELOW: u64 = 100_000_000_000_000;
const MICROSECONDS_BELOW: u64 = 100_000_000_000_000_000;

fn epoch_integer(number: i64) -> i64 {
    match number.unsigned_abs() {
        0..SECONDS_BELOW => number * 1_000_000,
        SECONDS_BELOW..MILLISECONDS_BELOW => number * 1_000,
        MILLISECONDS_BELOW..MICROSECONDS_BELOW => number,
        _ => number.div_euclid(1_000),
    }
}

fn epoch_float(number: f64) -> i64 {
    let micros = match number.abs() {
        magnitude if magnitude < SECONDS_BELOW as f64 => number * 1e6,
        magnitude if magnitude < MILLISECONDS_BELOW as f64 => number * 1e3,
        magnitude if magnitude < MICROSECONDS_BELOW as f64 => number,
        _ => number / 1e3,
    };
    // The cast saturates, and what saturates is outside of the accepted years.
    micros.round() as i64
}

fn integer(value: &Value) -> Result<i64, Misfit> {
    match value {
        Value::Integer(number) => Ok(*number),
        Value::Float(number) => {
            let number = number.into_inner();
            if number.fract() != 0.0 {
                return Err((Reason::WrongType, "a number with a fraction, an integer is needed".to_owned()));
            }
            // 2^63 itself is no i64, and -2^63 is.
            if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number) {
                Ok(number as i64)
            } else {
                Err(out_of_range(ColumnType::Bigint))
            }
        }
        other => Err(wrong_type(other, "an integer")),
    }
}

fn double(value: &Value) -> Result<f64, Misfit> {
    match value {
        Value::Integer(number) => Ok(*number as f64),
        Value::Float(number) if number.is_finite() => Ok(number.into_inner()),
        Value::Float(_) => Err(out_of_range(ColumnType::DoublePrecision)),
        other => Err(wrong_type(other, "a number")),
    }
}

fn single(value: &Value) -> Result<f32, Misfit> {
    let number = double(value)? as f32;
    if number.is_finite() { Ok(number) } else { Err(out_of_range(ColumnType::Real)) }
}

fn write_text(value: &Value, buffer: &mut Vec<u8>) -> Result<(), Misfit> {
    match value {
        Value::Bytes(_) | Value::String(_) => {
            let text = text(value)?;
            json::check_nul(text)?;
            buffer.extend_from_slice(text.as_bytes());
            Ok(())
        }
        // Scalars as JSON writes them, a timestamp without its quotes.
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => json::write(value, buffer),
        Value::Timestamp(time) => {
            json::write_timestamp(time.timestamp_micros(), buffer);
            Ok(())
        }
        other => Err(wrong_type(other, "text")),
    }
}

fn text(value: &Value) -> Result<&str, Misfit> {
    let bytes = value.as_bytes().map_or(&[][..], |bytes| bytes.as_ref());
    std::str::from_utf8(bytes).map_err(|_| (Reason::InvalidUtf8, "the text is no UTF-8".to_owned()))
}

/// 32 hexadecimal digits, with hyphens or without, in braces or not.
fn uuid(value: &Value) -> Result<[u8; 16], Misfit> {
    let text = match value {
        Value::Bytes(_) | Value::String(_) => text(value)?,
        other => return Err(wrong_type(other, "a UUID")),
    };
    parse_uuid(text).ok_or_else(|| (Reason::WrongType, "the text is no UUID".to_owned()))
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(text);
    let hyphens_fit = match text.len() {
        32 => !text.contains('-'),
        36 => [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-'),
        _ => false,
    };
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        let high = char::from(digits.next()?).to_digit(16)?;
        let low = char::from(digits.next()?).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    (hyphens_fit && digits.next().is_none()).then_some(uuid)
}

fn out_of_range(column_type: ColumnType) -> Misfit {
    (Reason::OutOfRange, format!("the number is outside of {}", column_type.sql()))
}

fn wrong_type(found: &Value, needed: &str) -> Misfit {
    (Reason::WrongType, format!("{}, {needed} is needed", program::kind_name(found)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::json::decode;

    fn written(column_type: ColumnType, json: &str) -> Result<Vec<u8>, Reason> {
        let mut buffer = Vec::new();
        write(column_type, &decode(json.as_bytes()).unwrap(), &mut buffer)
            .map(|()| buffer)
            .map_err(|(reason, _)| reason)
    }

    fn check(column_type: ColumnType, cases: &[(&str, Result<&[u8], Reason>)]) {
        for (json, expected) in cases {
            assert_eq!(written(column_type, json).as_deref().map_err(|reason| *reason), *expected, "{json}");
        }
    }

    #[test]
    fn booleans() {
        let wrong = Err(Reason::WrongType);
        check(
            ColumnType::Boolean,
            &[("true", Ok(&[1])), ("false", Ok(&[0])), ("1", wrong), ("\"true\"", wrong), ("[]", wrong)],
        );
    }

    #[test]
    fn integers() {
        let (wrong, outside) = (Err(Reason::WrongType), Err(Reason::OutOfRange));
        check(
            ColumnType::Smallint,
            &[
                ("-2", Ok(&[255, 254])),
                ("3.0", Ok(&[0, 3])),
                ("32768", outside),
                ("3.5", wrong),
                ("\"3\"", wrong),
            ],
        );
        check(
            ColumnType::Integer,
            &[("258", Ok(&[0, 0, 1, 2])), ("2147483648", outside), ("true", wrong), ("{}", wrong)],
        );
        check(
            ColumnType::Bigint,
            &[
                ("9223372036854775807", Ok(&i64::MAX.to_be_bytes())),
                ("9223372036854775808", outside),
                ("-9223372036854775808", Ok(&i64::MIN.to_be_bytes())),
                ("1e30", outside),
            ],
        );
    }

    #[test]
    fn floats() {
        let (wrong, outside) = (Err(Reason::WrongType), Err(Reason::OutOfRange));
        check(
            ColumnType::Real,
            &[("1.5", Ok(&1.5_f32.to_be_bytes())), ("1e39", outside), ("2", Ok(&2_f32.to_be_bytes()))],
        );
        check(
            ColumnType::DoublePrecision,
            &[("-1e300", Ok(&(-1e300_f64).to_be_bytes())), ("\"1.5\"", wrong), ("false", wrong)],
        );
        let infinite = Value::from_f64_or_zero(f64::INFINITY);
        let mut buffer = Vec::new();
        assert_eq!(
            write(ColumnType::DoublePrecision, &infinite, &mut buffer).unwrap_err().0,
            Reason::OutOfRange
        );
    }

    #[test]
    fn text_takes_scalars() {
        check(
            ColumnType::Text,
            &[
                ("\"é\"", Ok("é".as_bytes())),
                ("\"\"", Ok(b"")),
                ("12", Ok(b"12")),
                ("1.50", Ok(b"1.5")),
                ("true", Ok(b"true")),
                ("[1]", Err(Reason::WrongType)),
                ("{}", Err(Reason::WrongType)),
                ("\"\\u0000\"", Err(Reason::NulCharacter)),
            ],
        );
        let mut buffer = Vec::new();
        let not_utf8 = Value::from(&[0xff_u8][..]);
        assert_eq!(write(ColumnType::Text, &not_utf8, &mut buffer).unwrap_err().0, Reason::InvalidUtf8);
    }

    #[test]
    fn times_of_every_notation_are_one_point() {
        for json in [
            "\"2026-11-23T10:00:00Z\"",
            "\"2026-11-23T12:00:00+02:00\"",
            "\"2026-11-23 10:00:00.000000Z\"",
            "1795428000",
            "1795428000.0",
            "1795428000000",
            "1795428000000000",
            "1795428000000000000",
            "1.795428e15",
        ] {
            let micros = timestamp(&decode(json.as_bytes()).unwrap());
            assert_eq!(micros, Ok(1_795_428_000_000_000), "{json}");
        }
        assert_eq!(timestamp(&decode(b"1795428000.25").unwrap()), Ok(1_795_428_000_250_000));
        assert_eq!(timestamp(&decode(b"-1").unwrap()), Ok(-1_000_000));
        assert_eq!(written(ColumnType::Timestamptz, "946684800"), Ok(vec![0; 8]));
    }

    #[test]
    fn the_last_moment_of_the_accepted_years_is_a_time() {
        let micros = |text: &str| timestamp(&Value::from(text));
        assert_eq!(micros("9999-12-31T23:59:59.999999Z"), Ok(ACCEPTED_MICROS.end - 1));
        assert_eq!(micros("9999-12-31T23:59:59-00:01").unwrap_err().0, Reason::OutOfRange);
        assert_eq!(micros("9999-12-31T23:59:59").unwrap_err().0, Reason::WrongType);
        assert_eq!(micros("9999-12-31T22:00:00+02:00"), Ok(ACCEPTED_MICROS.end - 4 * 3_600_000_000));
    }

    #[test]
    fn what_is_no_time() {
        for (json, expected) in [
            ("\"2026-11-23T10:00:00\"", Reason::WrongType),
            ("\"yesterday\"", Reason::WrongType),
            ("\"\"", Reason::WrongType),
            ("true", Reason::WrongType),
            ("1e300", Reason::OutOfRange),
            ("\"-000001-01-01T00:00:00Z\"", Reason::OutOfRange),
        ] {
            assert_eq!(timestamp(&decode(json.as_bytes()).unwrap()).unwrap_err().0, expected, "{json}");
        }
    }

    #[test]
    fn uuids() {
        let bytes: Vec<u8> = (0..16).map(|index| index * 17).collect();
        for text in [
            "00112233-4455-6677-8899-aabbccddeeff",
            "00112233445566778899AABBCCDDEEFF",
            "{00112233-4455-6677-8899-aabbccddeeff}",
        ] {
            assert_eq!(written(ColumnType::Uuid, &format!("\"{text}\"")), Ok(bytes.clone()), "{text}");
        }
        for json in [
            "\"\"",
            "7",
            "\"0011223344556677-8899-aabb-ccddeeff\"",
            "\"00112233-4455-6677-8899-aabbccddeefg\"",
            "\"+0112233-4455-6677-8899-aabbccddeeff\"",
            "\"ééééééééééééééééé-\"",
        ] {
            assert_eq!(written(ColumnType::Uuid, json), Err(Reason::WrongType), "{json}");
        }
    }

    #[test]
    fn jsonb_takes_anything() {
        assert_eq!(written(ColumnType::Jsonb, r#"{"a": [1, null]}"#), Ok(b"\x01{\"a\":[1,null]}".to_vec()));
        assert_eq!(written(ColumnType::Jsonb, "\"x\""), Ok(b"\x01\"x\"".to_vec()));
    }
}
