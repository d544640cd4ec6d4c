//! Where an event came from, as a program sees it below `%`. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use vrl::{
    path::{OwnedSegment, OwnedTargetPath, PathPrefix},
    value::{KeyString, Kind, ObjectMap, Value, kind::Collection},
};

use crate::clock::Shift;

/// How far another delivery is away: another year, month, day, weekday, hour, minute and second.
const ELSEWHEN: Duration = Duration::from_secs(400 * 86_400 + 3_600 + 60 + 1);

/// Where an event came from, and when. Borrowed from the Kafka record; only what the program reads is copied.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    /// `%topic`: the MQTT topic.
    pub topic: Option<&'a str>,
    /// `%qos`: 0, 1 or 2.
    pub qos: Option<u8>,
    /// `%retained`.
    pub retained: Option<bool>,
    /// `%properties`: the MQTT 5 user properties; of two with one name the last counts.
    pub properties: Option<&'a [(&'a str, &'a str)]>,
    /// `%ingested_at`: when the bridge received the message.
    pub ingested_at: Option<SystemTime>,
    /// `%partition`: the Kafka partition.
    pub partition: i32,
    /// `%offset`: the Kafka offset.
    pub offset: i64,
    /// By how much `now()` differs from the clock.
    pub clock: Shift,
}

impl Default for Metadata<'_> {
    fn default() -> Self {
        Self {
            topic: None,
            qos: None,
            retained: None,
            properties: None,
            ingested_at: None,
            partition: 0,
            offset: 0,
            clock: Shift::NONE,
        }
    }
}

impl Metadata<'_> {
    /// The same message delivered otherwise: long ago and long from now, elsewhere in Kafka, and once with other
    /// marks of MQTT. Whatever a program makes the same of all of them belongs to the message.
    pub fn other_deliveries(&self) -> [Self; 2] {
        let ingested = |shift: Shift| self.ingested_at.map(|time| shift.of(time));
        [
            Self {
                qos: self.qos.map(|qos| (qos + 1) % 3),
                retained: self.retained.map(|retained| !retained),
                // By another length of time than the clock, so that the time in between differs too.
                ingested_at: ingested(Shift::Earlier(2 * ELSEWHEN)),
                partition: self.partition.wrapping_add(1),
                offset: self.offset.wrapping_add(1_000_003),
                clock: Shift::Earlier(ELSEWHEN),
                ..*self
            },
            Self {
                ingested_at: ingested(Shift::Later(2 * ELSEWHEN)),
                partition: self.partition.wrapping_add(2),
                offset: self.offset.wrapping_add(7),
                clock: Shift::Later(ELSEWHEN),
                ..*self
            },
        ]
    }
}

/// Who writes the records of a topic, which decides what a program may rely on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TopicWriter {
    /// A bridge of the pipeline: every record says where it came from.
    Bridge,
    /// Others: a record may say nothing.
    Others,
}

/// What the compiler is told about `%`.
pub(crate) fn metadata_kind(writer: TopicWriter) -> Kind {
    let origin = |kind: Kind| match writer {
        TopicWriter::Bridge => kind,
        TopicWriter::Others => kind.or_undefined(),
    };
    let properties = Collection::from_unknown(Kind::bytes().or_undefined());
    let known: BTreeMap<_, Kind> = BTreeMap::from([
        ("topic".into(), origin(Kind::bytes())),
        ("qos".into(), origin(Kind::integer())),
        ("retained".into(), origin(Kind::boolean())),
        ("properties".into(), origin(Kind::object(properties))),
        ("ingested_at".into(), origin(Kind::timestamp())),
        ("partition".into(), Kind::integer()),
        ("offset".into(), Kind::integer()),
    ]);
    Kind::object(Collection::from(known))
}

/// Which fields of `%` a program can touch, found at compile time so that the rest need not be built.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct UsedMetadata {
    topic: bool,
    qos: bool,
    retained: bool,
    properties: bool,
    ingested_at: bool,
    partition: bool,
    offset: bool,
}

impl UsedMetadata {
    const ALL: Self = Self {
        topic: true,
        qos: true,
        retained: true,
        properties: true,
        ingested_at: true,
        partition: true,
        offset: true,
    };

    pub(crate) fn of<'a>(paths: impl Iterator<Item = &'a OwnedTargetPath>) -> Self {
        let mut used = Self::default();
        for path in paths.filter(|path| path.prefix == PathPrefix::Metadata) {
            match path.path.segments.first() {
                Some(OwnedSegment::Field(name)) => used.add(name),
                _ => return Self::ALL,
            }
        }
        used
    }

    /// Whether there is anything that only a bridge says.
    pub(crate) fn has_origin(self) -> bool {
        self.topic || self.qos || self.retained || self.properties || self.ingested_at
    }

    fn add(&mut self, name: &str) {
        match name {
            "topic" => self.topic = true,
            "qos" => self.qos = true,
            "retained" => self.retained = true,
            "properties" => self.properties = true,
            "ingested_at" => self.ingested_at = true,
            "partition" => self.partition = true,
            "offset" => self.offset = true,
            _ => {}
        }
    }
}

/// Builds `%` with the fields that are used and known.
pub(crate) fn metadata_value(metadata: &Metadata<'_>, used: UsedMetadata) -> Value {
    let mut object = ObjectMap::new();
    if used == UsedMetadata::default() {
        return Value::Object(object);
    }
    let mut add = |used: bool, name: &str, value: Option<Value>| {
        if let (true, Some(value)) = (used, value) {
            object.insert(KeyString::from(name), value);
        }
    };
    add(used.topic, "topic", metadata.topic.map(Value::from));
    add(used.qos, "qos", metadata.qos.map(Value::from));
    add(used.retained, "retained", metadata.retained.map(Value::from));
    if let (true, Some(properties)) = (used.properties, metadata.properties) {
        let properties = properties.iter().map(|(name, value)| (KeyString::from(*name), Value::from(*value)));
        add(true, "properties", Some(Value::Object(properties.collect())));
    }
    add(used.ingested_at, "ingested_at", metadata.ingested_at.map(|time| Value::Timestamp(time.into())));
    add(used.partition, "partition", Some(Value::from(metadata.partition)));
    add(used.offset, "offset", Some(Value::from(metadata.offset)));
    Value::Object(object)
}
