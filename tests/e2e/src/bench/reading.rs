//! What the benchmark's devices say, and what becomes of it: payload, program, table. Pure.

use crds::{
    pipeline::ColumnType,
    worker::{ColumnConfig, TableConfig},
};

/// How many devices there are.
pub const DEVICES: u64 = 10_000;

/// How many partitions the topic has.
pub const PARTITIONS: i32 = 8;

/// The schema of the benchmark's tables.
pub const SCHEMA: &str = "bench";

/// The hypertable.
pub const TABLE: &str = "readings";

/// What the processor does with each message: convert, compute, sort out, normalise.
pub const PROGRAM: &str = "\
.temperature = (to_float!(.temperature_f) - 32.0) * 5.0 / 9.0
.power = to_float!(.voltage) * to_float!(.current)
if to_float!(.vibration) > 100.0 { abort }
.device = downcase!(.device)
";

/// Columns and types, with the fields that they take.
pub const COLUMNS: [(&str, ColumnType, &str); 9] = [
    ("time", ColumnType::Timestamptz, "ts"),
    ("device", ColumnType::Text, "device"),
    ("temperature", ColumnType::DoublePrecision, "temperature"),
    ("humidity", ColumnType::DoublePrecision, "humidity"),
    ("pressure", ColumnType::DoublePrecision, "pressure"),
    ("vibration", ColumnType::DoublePrecision, "vibration"),
    ("voltage", ColumnType::DoublePrecision, "voltage"),
    ("current", ColumnType::DoublePrecision, "current"),
    ("power", ColumnType::DoublePrecision, "power"),
];

/// The table as the processor is told of it, with a natural key or without.
pub fn table(is_unique: bool) -> TableConfig {
    let column = |(name, column_type, field): (&str, ColumnType, &str)| ColumnConfig {
        name: name.to_owned(),
        column_type,
        from: vec![field.to_owned()],
        nullable: !matches!(name, "time" | "device"),
    };
    TableConfig {
        schema: SCHEMA.to_owned(),
        name: TABLE.to_owned(),
        columns: COLUMNS.map(column).to_vec(),
        time_column: "time".to_owned(),
        extra_column: None,
        unique_by: if is_unique { vec!["device".to_owned(), "time".to_owned()] } else { Vec::new() },
    }
}

/// One message of one device. All devices speak in turn.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Counts all messages.
    pub number: u64,
    /// The time that it tells, microseconds since 1970.
    pub micros: i64,
}

impl Reading {
    /// A reading of the past: 2026-11-23, a thousand a second, so that all are in one chunk.
    pub fn past(number: u64) -> Self {
        Self { number, micros: 1_795_428_000_000_000 + 1_000 * number as i64 }
    }

    /// Who speaks.
    pub fn device(&self) -> String {
        // A prime, so that neighbours in time are no neighbours in the index.
        format!("Device-{:05}", self.number * 7_919 % DEVICES)
    }

    /// The partition of its device.
    pub fn partition(&self) -> i32 {
        (self.number % PARTITIONS as u64) as i32
    }

    /// 180 bytes of JSON with six metrics.
    pub fn payload(&self) -> String {
        let dice = scattered(self.number);
        let digits = |place: u32, below: u64| (dice >> (8 * place)) % below;
        format!(
            "{{\"ts\":{},\"device\":\"{}\",\"temperature_f\":{}.{:02},\"humidity\":{}.{:02},\"pressure\":{}.{:02},\
             \"vibration\":0.{:04},\"voltage\":{}.{:02},\"current\":{}.{:03},\"firmware\":\"v2.14.107\"}}",
            self.micros,
            self.device(),
            digits(0, 50) + 50,
            digits(1, 100),
            digits(1, 80) + 10,
            digits(2, 100),
            digits(2, 50) + 1000,
            digits(3, 100),
            digits(3, 10_000),
            digits(4, 30) + 210,
            digits(4, 100),
            digits(5, 9) + 1,
            digits(5, 1_000),
        )
    }
}

/// The time that a payload tells.
pub fn micros_of(payload: &[u8]) -> Option<i64> {
    let payload: serde_json::Value = serde_json::from_slice(payload).ok()?;
    payload["ts"].as_i64()
}

/// A number that looks like chance and is always the same (the finaliser of SplitMix64).
fn scattered(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_payload_has_180_bytes_and_six_metrics() {
        for number in (0..1_000_000).step_by(997) {
            let payload = Reading::past(number).payload();
            assert_eq!(payload.len(), 180, "{payload}");
            let object: serde_json::Value = serde_json::from_str(&payload).unwrap();
            let metrics = object.as_object().unwrap().values().filter(|value| value.is_f64());
            assert_eq!(metrics.count(), 6, "{payload}");
            assert_eq!(micros_of(payload.as_bytes()), Some(Reading::past(number).micros));
        }
    }

    #[test]
    fn all_devices_speak_in_turn_each_in_one_partition() {
        let devices: BTreeSet<(String, i32)> = (0..3 * DEVICES)
            .map(Reading::past)
            .map(|reading| (reading.device(), reading.partition()))
            .collect();
        assert_eq!(devices.len(), 10_000);
    }
}
