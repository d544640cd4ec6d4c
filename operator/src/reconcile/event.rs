//! What a person should know of an object, and how the API server keeps it. Pure.
//!
//! The name of an Event follows from what it says. So the API server remembers for every instance of this operator what was
//! said, and what is said again while it keeps the Event, which is an hour by default, is counted there and not repeated.

use std::hash::{DefaultHasher, Hash, Hasher};

use crds::names::FIELD_MANAGER;
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use serde_json::{Value, json};
use strum::IntoStaticStr;

/// The longest note, in bytes; the API server refuses longer ones.
const MAX_NOTE_BYTES: usize = 1024;

/// What the operator does when it has something to say.
const ACTION: &str = "Reconcile";

/// Something that a person should know of an object.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whether it is bad.
    pub type_: EventType,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub note: String,
}

/// Whether something is bad.
#[derive(Clone, Copy, Debug, Eq, Hash, IntoStaticStr, PartialEq)]
pub enum EventType {
    /// It is as it should be.
    Normal,
    /// It is not.
    Warning,
}

impl Event {
    /// With as much of the note as an Event may hold.
    pub fn new(type_: EventType, reason: &str, mut note: String) -> Self {
        note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
        Self { type_, reason: reason.to_owned(), note }
    }

    /// As it is kept when it is said for the first time, by this instance of the operator.
    pub fn first(&self, regarding: ObjectReference, instance: &str, now: Timestamp) -> v1::Event {
        let type_: &str = self.type_.into();
        v1::Event {
            metadata: ObjectMeta {
                name: Some(self.name(&regarding)),
                namespace: regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(ACTION.to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(self.note.clone()),
            reason: Some(self.reason.clone()),
            regarding: Some(regarding),
            reporting_controller: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(instance.to_owned()),
            type_: Some(type_.to_owned()),
            ..v1::Event::default()
        }
    }

    fn name(&self, regarding: &ObjectReference) -> String {
        let mut hasher = DefaultHasher::new();
        (&regarding.uid, self.type_, &self.reason, &self.note).hash(&mut hasher);
        format!("{}.{:016x}", regarding.name.as_deref().unwrap_or_default(), hasher.finish())
    }
}

/// What changes of an Event that is said again.
pub fn said_again(before: &v1::Event, now: Timestamp) -> Value {
    let count = before.series.as_ref().map_or(1, |series| series.count) + 1;
    json!({"series": {"count": count, "lastObservedTime": MicroTime(now)}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(uid: &str, note: &str) -> v1::Event {
        let regarding = ObjectReference {
            name: Some("line".to_owned()),
            namespace: Some("plant-7".to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let event = Event::new(EventType::Warning, "NotReady", note.to_owned());
        event.first(regarding, "operator-0", Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn an_event_says_all_that_the_api_server_asks_for() {
        let event = kept("1", "Kafka is away");
        let expected = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": event.metadata.name, "namespace": "plant-7"},
            "action": "Reconcile",
            "eventTime": "1970-01-01T00:00:00.000000Z",
            "note": "Kafka is away",
            "reason": "NotReady",
            "regarding": {"name": "line", "namespace": "plant-7", "uid": "1"},
            "reportingController": "iotpipeline-operator",
            "reportingInstance": "operator-0",
            "type": "Warning",
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
    }

    #[test]
    fn the_same_words_about_the_same_object_have_the_same_name() {
        let name = |uid, note| kept(uid, note).metadata.name.unwrap();
        assert_eq!(name("1", "Kafka is away"), name("1", "Kafka is away"));
        assert_ne!(name("1", "Kafka is away"), name("1", "the database is away"));
        assert_ne!(name("1", "Kafka is away"), name("2", "Kafka is away"));
        assert!(name("1", "").starts_with("line.") && name("1", "").len() == "line.".len() + 16);
    }

    #[test]
    fn what_is_said_again_is_counted() {
        let mut event = kept("1", "Kafka is away");
        for count in [2, 3] {
            let patch = said_again(&event, Timestamp::UNIX_EPOCH);
            let last = "1970-01-01T00:00:00.000000Z";
            assert_eq!(patch, json!({"series": {"count": count, "lastObservedTime": last}}));
            event.series = serde_json::from_value(patch["series"].clone()).unwrap();
        }
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = kept("1", &"ä".repeat(2000)).note.unwrap();
        assert_eq!(note, "ä".repeat(MAX_NOTE_BYTES / 2));
    }
}
