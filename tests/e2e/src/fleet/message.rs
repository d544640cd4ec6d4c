//! What devices say: readings, and the ways in which a message can be wrong. Pure.

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// One reading of one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The device, such as `press-017`.
    pub device: String,
    /// The number of the reading, counted by the device.
    pub seq: i64,
    /// When it was read, to the millisecond.
    pub time: Timestamp,
    /// Degrees Fahrenheit.
    pub temp_f: f64,
    /// Millimetres per second.
    pub vibration: Option<f64>,
    /// State of charge from 0 to 1.
    pub battery: Option<f64>,
    /// Whatever else the device says of itself.
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// Whether a message is as it should be, and what is wrong with it if not.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Read just now.
    OnTime,
    /// Read minutes to hours ago.
    Late,
    /// The message before it, once more.
    Repeated,
    /// The JSON text ends too early.
    BrokenJson,
    /// The temperature is a word.
    WrongType,
    /// The device does not say who it is.
    MissingDevice,
    /// The device's clock stands in January 1970.
    ClockNotSet,
}

/// A message that can be published, and what is to become of it.
#[derive(Clone, Debug)]
pub struct Message {
    /// What kind of message it is.
    pub kind: Kind,
    /// The bytes to publish.
    pub payload: Vec<u8>,
    /// The reading in it, which it is about even where it is malformed.
    pub reading: Reading,
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Self; 7] = [
        Self::OnTime,
        Self::Late,
        Self::Repeated,
        Self::BrokenJson,
        Self::WrongType,
        Self::MissingDevice,
        Self::ClockNotSet,
    ];

    /// Whether the message can become no row.
    pub fn is_malformed(self) -> bool {
        matches!(self, Self::BrokenJson | Self::WrongType | Self::MissingDevice | Self::ClockNotSet)
    }
}

impl Message {
    /// The message of this kind about `reading`. [`Kind::Repeated`] differs in name only.
    pub fn new(kind: Kind, reading: Reading) -> Self {
        let mut payload = reading.payload();
        match kind {
            Kind::OnTime | Kind::Late | Kind::Repeated => {}
            Kind::BrokenJson => payload.truncate(payload.len() * 2 / 3),
            Kind::WrongType => payload = reading.document(|document| document.temp_f = "warm".into()),
            Kind::MissingDevice => payload = reading.document(|document| document.device = None),
            Kind::ClockNotSet => {
                let uptime = Timestamp::from_millisecond(reading.seq.rem_euclid(86_400) * 1_000);
                payload = reading.document(|document| document.ts = uptime.unwrap_or_default().to_string());
            }
        }
        Self { kind, payload, reading }
    }
}

impl Reading {
    /// A short hash of everything that becomes a column: equal for a reading and for the row of it.
    pub fn fingerprint(&self) -> String {
        let Self { device, seq, time, temp_f, vibration, battery, details: _ } = self;
        let text = format!("{device}|{seq}|{}|{temp_f}|{vibration:?}|{battery:?}", time.as_millisecond());
        Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn payload(&self) -> Vec<u8> {
        self.document(|_| ())
    }

    fn document(&self, damage: impl FnOnce(&mut Document<'_>)) -> Vec<u8> {
        let mut document = Document {
            device: Some(&self.device),
            seq: self.seq,
            ts: self.time.to_string(),
            temp_f: self.temp_f.into(),
            vibration: self.vibration,
            battery: self.battery,
            details: &self.details,
        };
        damage(&mut document);
        // A document of plain fields always has a JSON form.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    seq: i64,
    ts: String,
    temp_f: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    vibration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    battery: Option<f64>,
    #[serde(flatten)]
    details: &'a serde_json::Map<String, serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading {
            device: "press-017".to_owned(),
            seq: 42,
            time: "2026-03-01T08:15:00.25Z".parse().unwrap(),
            temp_f: 71.25,
            vibration: Some(0.31),
            battery: Some(0.97),
            details: serde_json::from_str(r#"{"state":"running"}"#).unwrap(),
        }
    }

    fn text(kind: Kind) -> String {
        String::from_utf8(Message::new(kind, reading()).payload).unwrap()
    }

    #[test]
    fn a_message_is_the_json_that_the_quickstart_reads() {
        assert_eq!(
            text(Kind::OnTime),
            r#"{"device":"press-017","seq":42,"ts":"2026-03-01T08:15:00.25Z","temp_f":71.25,"vibration":0.31,"battery":0.97,"state":"running"}"#
        );
        assert_eq!(text(Kind::Repeated), text(Kind::OnTime));
    }

    #[test]
    fn each_malformed_message_is_wrong_in_one_way() {
        assert!(serde_json::from_str::<serde_json::Value>(&text(Kind::BrokenJson)).is_err());
        assert!(text(Kind::WrongType).contains(r#""temp_f":"warm""#));
        assert!(!text(Kind::MissingDevice).contains("device"));
        assert!(text(Kind::ClockNotSet).contains(r#""ts":"1970-01-01T00:00:42Z""#));
        for kind in Kind::ALL {
            assert_eq!(kind.is_malformed(), text(kind) != text(Kind::OnTime), "{kind:?}");
        }
    }

    #[test]
    fn a_fingerprint_tells_readings_apart_by_each_column() {
        let changes: [fn(&mut Reading); 6] = [
            |reading| reading.device.push('x'),
            |reading| reading.seq += 1,
            |reading| reading.time = "2026-03-01T08:15:00.251Z".parse().unwrap(),
            |reading| reading.temp_f = 71.250_000_000_000_01,
            |reading| reading.vibration = None,
            |reading| reading.battery = Some(0.9700001),
        ];
        assert_eq!(reading().fingerprint(), reading().fingerprint());
        for change in changes {
            let mut changed = reading();
            change(&mut changed);
            assert_ne!(changed.fingerprint(), reading().fingerprint(), "{changed:?}");
        }
    }
}
