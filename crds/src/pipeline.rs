//! The `IoTPipeline` resource: one struct for each block of the YAML, each CEL rule beside its field.
//!
//! Doc comments here are what `kubectl explain` prints. Rules about change over time stand on parents that
//! are always present, so that a field which appears or disappears is caught too.

mod kafka;
mod mqtt;
mod processing;
mod rollups;
mod secrets;
mod timescale;
mod workers;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::kafka::{
    ConfigValue, KafkaSpec, KafkaTlsSpec, KeyFrom, KeySpec, OnOffsetLost, SaslMechanism, SaslSpec, TopicSpec,
};
pub use self::mqtt::{MqttSpec, MqttTlsSpec, ProtocolVersion, Session, SpoolSpec, SubscriptionSpec};
pub use self::processing::{AcceptTimeSpec, CodecSpec, CodecType, ProcessingSpec};
pub use self::rollups::{RefreshSpec, RollupSpec};
pub use self::secrets::{CaSecretRef, PasswordSecretRef, SecretRef};
pub use self::timescale::{
    ColumnSpec, ColumnType, ColumnstoreSpec, DatabaseTlsMode, DatabaseTlsSpec, DeadLettersSpec, IndexSpec,
    RetentionSpec, TableRef, TimescaleSpec,
};
pub use self::workers::{BridgeMode, BridgeSpec, PodSpec, ProcessorMode, ProcessorSpec};
use crate::status::IoTPipelineStatus;

/// A pipeline of device messages: from MQTT topics through a Kafka topic and a program into a TimescaleDB
/// hypertable.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "iotpipeline.dev",
    version = "v1alpha1",
    kind = "IoTPipeline",
    plural = "iotpipelines",
    singular = "iotpipeline",
    shortname = "iotp",
    category = "iot",
    namespaced,
    status = "IoTPipelineStatus",
    derive = "PartialEq",
    doc = "A pipeline of device messages: from MQTT topics through a Kafka topic and a program into a TimescaleDB hypertable.",
    scale(
        spec_replicas_path = ".spec.processor.replicas",
        status_replicas_path = ".status.processor.replicas",
        label_selector_path = ".status.processor.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topic.name"),
    printcolumn(name = "Table", type_ = "string", json_path = ".status.table.name"),
    printcolumn(name = "Bridge", type_ = "integer", json_path = ".status.bridge.readyReplicas"),
    printcolumn(name = "Processor", type_ = "integer", json_path = ".status.processor.readyReplicas"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag.messages", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 40 && !self.metadata.name.contains('.')")
        .message("metadata.name must be a DNS label of at most 40 characters, because pods and Services derive their names from it"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.timescale.table == oldSelf.timescale.table")
        .message("timescale.table cannot change; create another IoTPipeline for another table")
        .field_path(".timescale.table"),
    validation = Rule::new("self.timescale.timeColumn == oldSelf.timescale.timeColumn")
        .message("timescale.timeColumn cannot change, because the hypertable is partitioned by it")
        .field_path(".timescale.timeColumn"),
    validation = Rule::new("self.kafka.topic.name == oldSelf.kafka.topic.name")
        .message("kafka.topic.name cannot change; create another IoTPipeline for another topic")
        .field_path(".kafka.topic.name"),
    validation = Rule::new("self.kafka.topic.management == oldSelf.kafka.topic.management")
        .message("kafka.topic.management cannot change; create another IoTPipeline")
        .field_path(".kafka.topic.management"),
    validation = Rule::new("self.timescale.management == oldSelf.timescale.management")
        .message("timescale.management cannot change; create another IoTPipeline")
        .field_path(".timescale.management"),
    validation = Rule::new("has(self.mqtt) == has(oldSelf.mqtt)")
        .message("mqtt can neither be added nor removed; create another IoTPipeline")
        .field_path(".mqtt"),
    validation = Rule::new("has(self.mqtt) || !has(self.bridge)")
        .message("without mqtt there is no bridge; leave bridge out")
        .field_path(".bridge"),
    validation = Rule::new("!has(self.mqtt) || !has(self.bridge) || self.bridge.replicas == 1 || self.mqtt.session == 'Shared'")
        .message("a Single session belongs to one bridge; set mqtt.session to Shared, or bridge.replicas to 1")
        .field_path(".bridge"),
    validation = Rule::new("!has(self.mqtt) || !has(self.bridge) || self.bridge.mode != 'BuiltIn' || self.mqtt.session == 'Shared'")
        .message("only bridges of a Shared session are scaled; set mqtt.session to Shared, or bridge.mode to Fixed")
        .field_path(".bridge"),
    validation = Rule::new("has(self.mqtt) || !has(self.kafka.key)")
        .message("without mqtt nobody here writes records, so their keys are not decided here; leave kafka.key out")
        .field_path(".kafka.key"),
    validation = Rule::new("self.kafka.topic.management != 'External' || !has(self.deletionPolicy) || self.deletionPolicy.topic == 'Retain'")
        .message("a topic whose management is External is never deleted; set deletionPolicy.topic to Retain")
        .field_path(".deletionPolicy"),
    validation = Rule::new("self.timescale.management != 'External' || !has(self.deletionPolicy) || self.deletionPolicy.table == 'Retain'")
        .message("a table whose management is External is never deleted; set deletionPolicy.table to Retain")
        .field_path(".deletionPolicy"),
    validation = Rule::new("!has(self.kafka.topic.partitions) || !has(oldSelf.kafka.topic.partitions) || self.kafka.topic.partitions >= oldSelf.kafka.topic.partitions")
        .message("kafka.topic.partitions may grow but never shrink; Kafka cannot remove partitions")
        .field_path(".kafka.topic.partitions"),
    validation = Rule::new("!has(self.mqtt) || !has(oldSelf.mqtt) || (has(self.mqtt.clientId) == has(oldSelf.mqtt.clientId) && (!has(self.mqtt.clientId) || self.mqtt.clientId == oldSelf.mqtt.clientId))")
        .message("mqtt.clientId cannot change, because the broker keeps the session and its queued messages under it; create another IoTPipeline")
        .field_path(".mqtt"),
    validation = Rule::new("!has(self.mqtt) || !has(oldSelf.mqtt) || !has(self.mqtt.spool) || !has(oldSelf.mqtt.spool) || quantity(self.mqtt.spool.size).compareTo(quantity(oldSelf.mqtt.spool.size)) >= 0")
        .message("mqtt.spool.size may grow but never shrink; Kubernetes cannot shrink volumes")
        .field_path(".mqtt"),
    validation = Rule::new("!has(self.mqtt) || !has(oldSelf.mqtt) || !has(self.mqtt.spool) || !has(oldSelf.mqtt.spool) || (has(self.mqtt.spool.storageClassName) == has(oldSelf.mqtt.spool.storageClassName) && (!has(self.mqtt.spool.storageClassName) || self.mqtt.spool.storageClassName == oldSelf.mqtt.spool.storageClassName))")
        .message("mqtt.spool.storageClassName cannot change; leave spool out until its volume is gone, then name it anew")
        .field_path(".mqtt"),
)]
pub struct IoTPipelineSpec {
    /// The MQTT broker and what to take from it; left out where something else fills the Kafka topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttSpec>,
    /// The Kafka topic between bridge and processor, and how to reach it.
    pub kafka: KafkaSpec,
    /// How a payload becomes rows: its format, a program, and which times to accept.
    #[serde(default)]
    pub processing: ProcessingSpec,
    /// The hypertable, and how to reach its database.
    pub timescale: TimescaleSpec,
    /// The workers from MQTT to Kafka; only with `mqtt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeSpec>,
    /// The workers from Kafka to TimescaleDB.
    #[serde(default)]
    pub processor: ProcessorSpec,
    /// What becomes of topic, table, dead letters and consumer group when this resource is deleted. Only what it created
    /// is ever deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicySpec,
    /// What becomes of a topic or table that exists and that no IoTPipeline created: Fail (default) refuses it, and Adopt
    /// takes it over, if it fits. What another IoTPipeline has is never taken, and what was adopted is never deleted.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
    /// Which workers stand still: None (default), Processor (database maintenance: the bridge goes on and messages
    /// gather in Kafka) or All (they gather at the MQTT broker as far as its limits allow).
    #[serde(default)]
    pub suspend: Suspend,
    /// Enforce (default), or Observe: nothing is created, changed or deleted, and `status.plan` lists what would be.
    #[serde(default)]
    pub mode: Mode,
}

/// Who keeps a topic or a table as the spec says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Management {
    /// The operator: it creates it, repairs drift, and deletes it where the deletion policy says so.
    #[default]
    Managed,
    /// Somebody else: it is checked for fit and never altered, claimed or deleted.
    External,
}

/// What becomes of what is outside of Kubernetes when the IoTPipeline is deleted.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeletionPolicySpec {
    /// Retain (default) or Delete the Kafka topic, with all records.
    #[serde(default)]
    pub topic: DeletionPolicy,
    /// Retain (default) or Delete the hypertable, and with it its positions: they say which records are rows of it.
    #[serde(default)]
    pub table: DeletionPolicy,
    /// Retain or Delete the table of dead letters; default as `table`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<DeletionPolicy>,
    /// Retain (default) or Delete the consumer group in Kafka, with the offsets that are committed in it for lag tools. No
    /// record is read anew for that: where to go on is in the positions, beside the table.
    #[serde(default)]
    pub offsets: DeletionPolicy,
}

impl DeletionPolicySpec {
    /// What becomes of the dead letters: they go with their table, unless something else is said of them.
    pub fn dead_letters(&self) -> DeletionPolicy {
        self.dead_letters.unwrap_or(self.table)
    }
}

/// Keep or delete.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// Keep it: a pipeline of the same name goes on where this one stood.
    #[default]
    Retain,
    /// Delete it, if this pipeline created it.
    Delete,
}

/// What becomes of a topic or table that exists and that no IoTPipeline created.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum AdoptionPolicy {
    /// It is refused, and left as it is.
    #[default]
    Fail,
    /// It is taken over if it fits: kept as the spec says, and never deleted.
    Adopt,
}

/// Whether the spec is brought about.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Mode {
    /// It is.
    #[default]
    Enforce,
    /// It is only compared with what there is.
    Observe,
}

/// Which workers stand still.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Suspend {
    /// None: messages flow.
    #[default]
    None,
    /// The processor: messages gather in Kafka.
    Processor,
    /// Both: messages gather at the MQTT broker as far as its limits allow.
    All,
}
