//! Durations and byte sizes as people write them in YAML (`15m`, `7d`, `16Mi`).

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time: a whole number and one unit of `s`, `m`, `h`, `d` or `w`, such as `30s` or `7d`.
///
/// The text is kept as written, so that what a user reads back is what was applied.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

/// A number of bytes: a whole number, alone or with one unit of `Ki`, `Mi` or `Gi`, such as `16Mi`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ByteSizeText(pub String);

impl DurationText {
    /// The length of time, or `None` where the text is no duration or does not fit (100 years at most).
    pub fn parse(&self) -> Option<Duration> {
        let (number, seconds_per_unit) =
            split_unit(&self.0, &[("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("w", 604_800)])?;
        let seconds = number.checked_mul(seconds_per_unit)?;
        (seconds <= 100 * 366 * 86_400).then(|| Duration::from_secs(seconds))
    }
}

impl ByteSizeText {
    /// The number of bytes, or `None` where the text is no size or does not fit into 63 bits.
    pub fn parse(&self) -> Option<u64> {
        let (number, bytes_per_unit) =
            split_unit(&self.0, &[("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("", 1)])?;
        number.checked_mul(bytes_per_unit).filter(|bytes| *bytes <= i64::MAX as u64)
    }
}

/// Splits `12w` into its number and the factor of its unit. Zero, signs and fractions are no numbers here.
fn split_unit(text: &str, units: &[(&str, u64)]) -> Option<(u64, u64)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    let number = number.parse::<u64>().ok().filter(|number| *number > 0)?;
    Some((number, *factor))
}

impl fmt::Display for DurationText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for ByteSizeText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<&str> for DurationText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<&str> for ByteSizeText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "DurationText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 10, "pattern": "^[1-9][0-9]*(s|m|h|d|w)$"})
    }
}

impl JsonSchema for ByteSizeText {
    fn schema_name() -> Cow<'static, str> {
        "ByteSizeText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 14, "pattern": "^[1-9][0-9]*(Ki|Mi|Gi)?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_one_unit() {
        let seconds = |text: &str| DurationText::from(text).parse().map(|duration| duration.as_secs());
        assert_eq!(seconds("30s"), Some(30));
        assert_eq!(seconds("15m"), Some(900));
        assert_eq!(seconds("24h"), Some(86_400));
        assert_eq!(seconds("7d"), Some(604_800));
        assert_eq!(seconds("12w"), Some(7_257_600));
        for wrong in ["", "0s", "-1s", "1.5h", "30", "s", "1h30m", "1y", "99999999999999999999w", "9999999w"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_a_number_and_an_optional_binary_unit() {
        let bytes = |text: &str| ByteSizeText::from(text).parse();
        assert_eq!(bytes("512"), Some(512));
        assert_eq!(bytes("64Ki"), Some(65_536));
        assert_eq!(bytes("16Mi"), Some(16 << 20));
        assert_eq!(bytes("2Gi"), Some(2 << 30));
        for wrong in ["", "0", "1M", "1.5Mi", "Mi", "99999999999Gi"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
