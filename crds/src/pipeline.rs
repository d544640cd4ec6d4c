//! The `IoTPipeline` resource: one struct for each block of the YAML, each CEL rule beside its field.
//!
//! Doc comments here are what `kubectl explain` prints. Rules about change over time stand on parents that
//! are always present, so that a field which appears or disappears is caught too.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    status::IoTPipelineStatus,
    units::{ByteSizeText, DurationText},
};

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
    /// What becomes of topic and table when this resource is deleted. Only what it created is ever deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicySpec,
    /// Which workers stand still: None (default), Processor (database maintenance: the bridge goes on and messages
    /// gather in Kafka) or All (they gather at the MQTT broker as far as its limits allow).
    #[serde(default)]
    pub suspend: Suspend,
}

/// The MQTT broker and what to take from it.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.tls) || self.url.startsWith('mqtts://') || self.url.startsWith('wss://')")
        .message("tls needs a url that begins with mqtts:// or wss://")
        .field_path(".tls"),
)]
pub struct MqttSpec {
    /// `mqtt://host:port` (port 1883 by default), `mqtts://` (8883), `ws://host:port/path` (80) or `wss://` (443).
    /// A host without a dot is a Service in this namespace.
    #[schemars(
        length(max = 300),
        regex(
            pattern = r"^(mqtts?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?|wss?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?)$"
        )
    )]
    pub url: String,
    /// The version of MQTT: V5 (default) or V3_1_1.
    #[serde(default)]
    pub protocol_version: ProtocolVersion,
    /// The client id, under which the broker keeps the session; default `<clusterName>-<namespace>-<name>`. No other
    /// client may have it: each would end the other's session. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_.:-]+$"))]
    pub client_id: Option<String>,
    /// The topic filters to subscribe to. One that leaves the list is unsubscribed.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.filter == a.filter))")
        .message("each filter may be listed once"))]
    pub subscriptions: Vec<SubscriptionSpec>,
    /// How bridges share the subscriptions. Single (default): one bridge, ordered.
    #[serde(default)]
    pub session: Session,
    /// How long the broker keeps the session, with its queued messages, while the bridge is away; default 24h.
    /// MQTT 3.1.1 cannot say it: there the broker's own setting counts.
    #[serde(default = "default_session_expiry")]
    pub session_expiry: DurationText,
    /// The largest MQTT packet to accept; default 1Mi. The topic's `max.message.bytes` follows it.
    #[serde(default = "default_max_packet_size")]
    pub max_packet_size: ByteSizeText,
    /// The largest number of messages that are not yet acknowledged; default 1000.
    #[serde(default = "default_max_in_flight")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_in_flight: i32,
    /// The largest sum of their bytes; default 16Mi. Together the bound on the bridge's memory.
    #[serde(default = "default_max_in_flight_bytes")]
    pub max_in_flight_bytes: ByteSizeText,
    /// A Secret of this namespace with the keys `username` and `password`; without it the bridge gives no user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Certificates, for `mqtts://` and `wss://`. The server's certificate is always verified and must name the host;
    /// without this block the authorities that the system trusts decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<MqttTlsSpec>,
}

/// Certificates of the connection to the MQTT broker.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MqttTlsSpec {
    /// The certificate authorities that the server's certificate may come from; default those that the system
    /// trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// The client certificate: a Secret with `tls.crt` and `tls.key` (cert-manager), or `user.crt` and `user.key`
    /// (Strimzi).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretRef>,
    /// Protocols to offer by ALPN, such as `mqtt` or AWS IoT Core's `x-amzn-mqtt-ca`; default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 64), regex(pattern = r"^[!-~]+$")))]
    pub alpn: Vec<String>,
}

/// Certificates of the connection to Kafka. `tls: {}` encrypts with the authorities that the system trusts.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaTlsSpec {
    /// The certificate authorities that the brokers' certificates may come from; default those that the system
    /// trusts. Strimzi keeps them in `<cluster>-cluster-ca-cert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// The client certificate: a Secret with `tls.crt` and `tls.key` (cert-manager), or `user.crt` and `user.key`
    /// (Strimzi).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretRef>,
}

/// Certificates of the connection to the database.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.mode != 'Disable' || !(has(self.caSecretRef) || has(self.clientSecretRef))")
        .message("mode Disable uses no certificates; leave caSecretRef and clientSecretRef out, or choose another mode"),
    validation = Rule::new("self.mode != 'Require' || !has(self.caSecretRef)")
        .message("mode Require checks no certificate; choose VerifyCa or VerifyFull, or leave caSecretRef out")
        .field_path(".caSecretRef"),
)]
pub struct DatabaseTlsSpec {
    /// Disable: no encryption. Require: encryption, whoever the server is. VerifyCa: its certificate comes from a
    /// trusted authority. VerifyFull (default): and names the host.
    #[serde(default = "default_database_tls_mode")]
    pub mode: DatabaseTlsMode,
    /// The certificate authorities that the server's certificate may come from. The database's driver accepts those
    /// that the system trusts beside them, so leave `mode` at VerifyFull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// The client certificate: a Secret with `tls.crt` and `tls.key` (cert-manager), or `user.crt` and `user.key`
    /// (Strimzi).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretRef>,
}

/// What of the database server is checked. The names are those of PostgreSQL's `sslmode`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum DatabaseTlsMode {
    /// No encryption.
    #[default]
    Disable,
    /// Encryption, whoever the server is.
    Require,
    /// The server's certificate comes from a trusted authority.
    VerifyCa,
    /// The server's certificate comes from a trusted authority and names the host.
    VerifyFull,
}

/// One topic filter.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubscriptionSpec {
    /// The topic filter, such as `plants/+/lines/+/telemetry`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('$share/')")
        .message("a shared subscription is not written into the filter"))]
    #[x_kube(validation = Rule::new("self.matches('^([^+#]*|[+])(/([^+#]*|[+]))*(/#)?$') || self == '#'")
        .message("+ and # must stand alone in a topic level, and # must be the last one"))]
    pub filter: String,
    /// The highest QoS at which the broker shall deliver: 0, 1 (default) or 2. QoS 0 is best effort: what is on its way
    /// when a connection ends is gone.
    #[serde(default = "default_qos")]
    #[schemars(range(min = 0, max = 2))]
    pub qos: i32,
}

/// The version of MQTT to speak.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ProtocolVersion {
    /// MQTT 5.
    #[default]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "V3_1_1")]
    V311,
}

/// How bridges share the subscriptions.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Session {
    /// One bridge with one session: messages stay in order.
    #[default]
    Single,
}

/// A Secret of the pipeline's own namespace.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Certificates in a Secret of the pipeline's own namespace.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaSecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key with the certificates, PEM; default ca.crt.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub key: String,
}

/// A password in a Secret of the pipeline's own namespace.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordSecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key with the password; default password.
    #[serde(default = "default_password_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub key: String,
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

/// The backbone.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaSpec {
    /// Brokers to begin with: comma-separated `host:port`. A host without a dot is a Service in this namespace.
    #[schemars(
        length(min = 1, max = 2048),
        regex(pattern = r"^[A-Za-z0-9.-]+:[0-9]{1,5}(,[A-Za-z0-9.-]+:[0-9]{1,5})*$")
    )]
    pub bootstrap_servers: String,
    /// Certificates; with this block, even an empty one, the connection is encrypted, and the brokers' certificates are
    /// verified and must name the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTlsSpec>,
    /// User and password, where the brokers ask for them (SASL).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslSpec>,
    /// The topic, and who keeps it.
    pub topic: TopicSpec,
    /// What becomes the key of the record, which decides partition and order; default the MQTT topic. Records with one
    /// key stay in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeySpec>,
    /// Where a pipeline without a stored position begins: Earliest (default), Latest or an RFC 3339 time. A later change
    /// moves no position.
    #[serde(default = "default_start_from")]
    #[schemars(
        length(max = 40),
        regex(
            pattern = r"^(Earliest|Latest|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2}))$"
        )
    )]
    pub start_from: String,
    /// The consumer group, for ACLs and lag tools; default `iotp.<namespace>.<name>`. Positions do not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub consumer_group: Option<String>,
}

/// A user of Kafka.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SaslSpec {
    /// Plain, ScramSha256 or ScramSha512. Plain shows the password to whoever listens: use it with tls.
    pub mechanism: SaslMechanism,
    /// The user's name.
    #[schemars(length(min = 1, max = 256))]
    pub username: String,
    /// The user's password.
    pub password_secret_ref: PasswordSecretRef,
}

/// How a password is shown to the broker.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum SaslMechanism {
    /// As it is (RFC 4616).
    Plain,
    /// By proof of knowing it, with SHA-256 (RFC 5802, RFC 7677).
    ScramSha256,
    /// By proof of knowing it, with SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    /// The mechanism's registered name.
    pub fn kafka_name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// The Kafka topic.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.management != 'Managed' || (has(self.partitions) && has(self.replicationFactor))")
        .message("a topic that the operator manages needs partitions and replicationFactor"),
    validation = Rule::new("self.management != 'External' || !(has(self.partitions) || has(self.replicationFactor) || has(self.retention) || has(self.config))")
        .message("a topic whose management is External is as somebody else set it; leave partitions, replicationFactor, retention and config out"),
)]
pub struct TopicSpec {
    /// Managed (default): the operator creates and keeps it. External: somebody else does. Cannot change.
    #[serde(default)]
    pub management: Management,
    /// The topic's name. Cannot change.
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    #[x_kube(validation = Rule::new("self != '.' && self != '..'").message("'.' and '..' are no topic names"))]
    #[x_kube(validation = Rule::new("!self.startsWith('__')").message("names that begin with __ are Kafka's own"))]
    pub name: String,
    /// How many partitions; may grow, never shrink. Needed where the operator manages the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub partitions: Option<i32>,
    /// How many brokers keep each partition; used at creation, and a later change is refused with the command that makes
    /// it. Needed where the operator manages the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 15))]
    pub replication_factor: Option<i32>,
    /// How long Kafka keeps records; default 7d. Make it longer than the time in which the database may be restored: what
    /// is restored is replayed from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<DurationText>,
    /// More topic settings by their Kafka names. Only the named ones are managed; all others stay as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("!self.exists(name, name == 'retention.ms' || name == 'max.message.bytes')")
        .message("retention.ms follows topic.retention, and max.message.bytes follows mqtt.maxPacketSize"))]
    #[x_kube(validation = Rule::new("!('cleanup.policy' in self) || self['cleanup.policy'] == 'delete'")
        .message("cleanup.policy must be delete: compaction would remove messages that are not yet rows"))]
    pub config: BTreeMap<String, ConfigValue>,
}

/// The value of a topic setting.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ConfigValue(pub String);

impl JsonSchema for ConfigValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ConfigValue".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "maxLength": 256})
    }
}

/// What becomes the key of the Kafka record.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.level) == (self.from == 'TopicLevel')")
        .message("level is needed for from: TopicLevel and only there")
        .field_path(".level"),
    validation = Rule::new("has(self.path) == (self.from == 'Field')")
        .message("path is needed for from: Field and only there")
        .field_path(".path"),
)]
pub struct KeySpec {
    /// Topic (default): the MQTT topic. TopicLevel: one level of it. Field: a field of the payload.
    #[serde(default)]
    pub from: KeyFrom,
    /// Which level of the MQTT topic, counted from 0. A topic with fewer levels is its own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 127))]
    pub level: Option<i32>,
    /// Which field of the payload, such as `.device.id`. A payload without it has its MQTT topic as key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^(\.[A-Za-z_][A-Za-z0-9_-]*)+$"))]
    pub path: Option<String>,
}

/// Where the key of the Kafka record comes from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum KeyFrom {
    /// The MQTT topic.
    #[default]
    Topic,
    /// One level of the MQTT topic.
    TopicLevel,
    /// A field of the payload.
    Field,
}

/// How a payload becomes rows.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessingSpec {
    /// The format of the payload.
    #[serde(default)]
    pub codec: CodecSpec,
    /// A VRL program, at most 16 KiB. It sees the event as `.` and where it came from as `%`. One that does not compile is
    /// refused with the compiler's diagnostic. Without it the event is taken as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub program: Option<String>,
    /// Which event times to accept; what lies outside becomes a dead letter.
    #[serde(default)]
    pub accept_time: AcceptTimeSpec,
}

/// How bytes become an event.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CodecSpec {
    /// Json (default): one JSON value a message.
    #[serde(default, rename = "type")]
    pub codec_type: CodecType,
}

/// The format of the payload.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum CodecType {
    /// One JSON value a message.
    #[default]
    Json,
}

/// Which event times to accept, relative to the processor's clock.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptTimeSpec {
    /// How old an event may be, by the processor's clock; without it any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_late: Option<DurationText>,
    /// How far ahead of the processor's clock an event may be; without it any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ahead: Option<DurationText>,
}

/// The hypertable.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.columns.exists(column, column.name == self.timeColumn && column.type == 'timestamptz')")
        .message("timeColumn must name a column of type timestamptz")
        .field_path(".timeColumn"),
    validation = Rule::new("!has(self.extraColumn) || !self.columns.exists(column, column.name == self.extraColumn)")
        .message("extraColumn is a column of its own and must not be listed in columns")
        .field_path(".extraColumn"),
    validation = Rule::new("!has(self.indexes) || self.indexes.all(index, index.columns.all(entry, self.columns.exists(column, entry == column.name || entry == column.name + ' DESC' || entry == column.name + ' ASC')))")
        .message("an index may hold declared columns only, each alone or followed by ASC or DESC")
        .field_path(".indexes"),
    validation = Rule::new("self.management != 'External' || !(has(self.chunkInterval) || has(self.indexes) || has(self.retention))")
        .message("a table whose management is External is as somebody else made it; leave chunkInterval, indexes and retention out"),
)]
pub struct TimescaleSpec {
    /// A Secret of this namespace with `fqdn-uri`, `uri`, or `host`, `port`, `dbname`, `username` and `password`: the
    /// role that reads and writes. CloudNativePG's `<cluster>-app` fits.
    pub secret_ref: SecretRef,
    /// Such a Secret for the operator alone: the role that creates, alters, and grants the other role no more than
    /// workers need. May name another host, so that workers go through a pooler and the operator does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_secret_ref: Option<SecretRef>,
    /// Encryption and certificates; without this block the connection is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<DatabaseTlsSpec>,
    /// Managed (default): the operator creates and keeps the table. External: somebody else does. Cannot change.
    #[serde(default)]
    pub management: Management,
    /// Where rows go. Cannot change.
    pub table: TableRef,
    /// The columns. May grow; types never change, and a column that leaves the list stays in the table.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.name == a.name))")
        .message("each column may be listed once"))]
    pub columns: Vec<ColumnSpec>,
    /// The column of type timestamptz that partitions the hypertable. Cannot change.
    #[schemars(length(min = 1, max = 63))]
    pub time_column: String,
    /// A jsonb column for the fields that no other column takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    pub extra_column: Option<String>,
    /// The span of time of a chunk; default 1d. A change holds for new chunks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_interval: Option<DurationText>,
    /// The indexes; none by default. One that leaves the list stays on the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub indexes: Vec<IndexSpec>,
    /// How long rows stay; without it for ever. A shorter time waits for approval, because it drops rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
}

/// A table by schema and name.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TableRef {
    /// The schema; created where it does not exist. None of PostgreSQL's or TimescaleDB's own.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('pg_') && !self.startsWith('_timescaledb') && !self.startsWith('timescaledb') && self != 'information_schema'")
        .message("this schema belongs to PostgreSQL or TimescaleDB"))]
    pub schema: String,
    /// The table, at most 50 characters, so that `<name>_dead_letters` is a legal name too.
    #[schemars(length(min = 1, max = 50), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('_iotpipeline_')").message("names that begin with _iotpipeline_ are the operator's own"))]
    pub name: String,
}

/// One column.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ColumnSpec {
    /// The column's name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    pub name: String,
    /// Its SQL type. docs/columns.md says which values each takes. Cannot change.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// The field it takes, such as `.sensor.value`; default the field of the column's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^(\.[A-Za-z_][A-Za-z0-9_-]*)+$"))]
    pub from: Option<String>,
    /// Whether the field may be missing or null; default true, and false for the time column. Where it may not, such a
    /// message is a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nullable: Option<bool>,
}

/// The SQL types that a column may have.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// true or false.
    Boolean,
    /// 16-bit integer.
    Smallint,
    /// 32-bit integer.
    Integer,
    /// 64-bit integer.
    Bigint,
    /// 32-bit floating point.
    Real,
    /// 64-bit floating point.
    #[serde(rename = "double precision")]
    DoublePrecision,
    /// Text.
    Text,
    /// A point in time.
    Timestamptz,
    /// Any JSON value.
    Jsonb,
    /// A UUID.
    Uuid,
}

impl ColumnType {
    /// The type as SQL spells it, which is also what `format_type` answers.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Smallint => "smallint",
            Self::Integer => "integer",
            Self::Bigint => "bigint",
            Self::Real => "real",
            Self::DoublePrecision => "double precision",
            Self::Text => "text",
            Self::Timestamptz => "timestamp with time zone",
            Self::Jsonb => "jsonb",
            Self::Uuid => "uuid",
        }
    }
}

/// One index.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IndexSpec {
    /// Columns in order, each alone or followed by ` ASC` or ` DESC`.
    #[schemars(length(min = 1, max = 8), inner(length(max = 70)))]
    pub columns: Vec<String>,
}

/// How long rows stay.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetentionSpec {
    /// Chunks whose rows are all older than this are dropped.
    pub drop_after: DurationText,
}

/// The workers from MQTT to Kafka.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgeSpec {
    /// How many bridges; a Single session allows one.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 1))]
    pub replicas: i32,
    /// CPU and memory of each; by default a limit on memory that follows `mqtt.maxInFlightBytes`, and none on CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How the pods are placed and labelled.
    #[serde(default)]
    pub pod: PodSpec,
}

/// The workers from Kafka to TimescaleDB.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessorSpec {
    /// Who decides how many there are. Fixed (default): `replicas`.
    #[serde(default)]
    pub mode: ProcessorMode,
    /// How many processors; `kubectl scale` writes it too. At most one for each partition has work.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// CPU and memory of each; by default a limit on memory, and none on CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How the pods are placed and labelled.
    #[serde(default)]
    pub pod: PodSpec,
}

/// Who decides how many processors there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ProcessorMode {
    /// The spec's `replicas`.
    #[default]
    Fixed,
}

/// How a worker's pods are placed and labelled.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// Secrets of this namespace with the credentials of an image registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Where the pods should or must be placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The pods' priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// More annotations on the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// More labels on the pods. Those of the operator win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What becomes of topic and table when the IoTPipeline is deleted.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeletionPolicySpec {
    /// Retain (default) or Delete the Kafka topic, with all records.
    #[serde(default)]
    pub topic: DeletionPolicy,
    /// Retain (default) or Delete the hypertable, its dead letters and its positions.
    #[serde(default)]
    pub table: DeletionPolicy,
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

impl Default for BridgeSpec {
    fn default() -> Self {
        Self { replicas: default_replicas(), resources: None, pod: PodSpec::default() }
    }
}

impl Default for ProcessorSpec {
    fn default() -> Self {
        Self {
            mode: ProcessorMode::default(),
            replicas: default_replicas(),
            resources: None,
            pod: PodSpec::default(),
        }
    }
}

fn default_session_expiry() -> DurationText {
    "24h".into()
}

fn default_max_packet_size() -> ByteSizeText {
    "1Mi".into()
}

fn default_max_in_flight() -> i32 {
    1000
}

fn default_max_in_flight_bytes() -> ByteSizeText {
    "16Mi".into()
}

fn default_qos() -> i32 {
    1
}

fn default_start_from() -> String {
    "Earliest".to_owned()
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

fn default_password_key() -> String {
    "password".to_owned()
}

fn default_database_tls_mode() -> DatabaseTlsMode {
    DatabaseTlsMode::VerifyFull
}

fn default_replicas() -> i32 {
    1
}
