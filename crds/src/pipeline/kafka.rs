//! `spec.kafka`: the backbone, its topic, and how to reach it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Management,
    secrets::{CaSecretRef, PasswordSecretRef, SecretRef},
};
use crate::units::DurationText;

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
    /// What becomes of a partition whose next record Kafka no longer has, because its retention passed it or the topic was
    /// created again. Fail (default): the partition stands still, and the condition says what is lost. Earliest: it goes
    /// on at the oldest record there is, and a dead letter says what was skipped.
    #[serde(default)]
    pub on_offset_lost: OnOffsetLost,
    /// The consumer group, for ACLs and lag tools; default `iotp.<namespace>.<name>`. Positions do not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub consumer_group: Option<String>,
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

/// What becomes of a partition whose next record Kafka no longer has.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum OnOffsetLost {
    /// It stands still until a person decides.
    #[default]
    Fail,
    /// It goes on at the oldest record there is.
    Earliest,
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

impl KafkaSpec {
    /// The consumer group of the pipeline of this name.
    pub fn consumer_group(&self, namespace: &str, pipeline: &str) -> String {
        let default = || crate::names::default_consumer_group(namespace, pipeline);
        self.consumer_group.clone().unwrap_or_else(default)
    }
}

/// The Kafka topic.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.management != 'Managed' || (has(self.partitions) && has(self.replicationFactor))")
        .message("a topic that the operator manages needs partitions and replicationFactor"),
    validation = Rule::new("self.management != 'External' || !(has(self.partitions) || has(self.replicationFactor) || has(self.allowReorder) || has(self.retention) || has(self.config))")
        .message("a topic whose management is External is as somebody else set it; leave partitions, replicationFactor, allowReorder, retention and config out"),
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
    /// How many partitions; may grow, never shrink. Needed where the operator manages the topic. More partitions put a key's
    /// records elsewhere, so the topic grows once everything in it is rows; the bridge holds meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub partitions: Option<i32>,
    /// How many brokers keep each partition; used at creation, and a later change is refused with the command that makes
    /// it. Needed where the operator manages the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 15))]
    pub replication_factor: Option<i32>,
    /// Whether the topic may grow at once: records of one key that come before may then be written after those that come
    /// later. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_reorder: Option<bool>,
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

fn default_start_from() -> String {
    "Earliest".to_owned()
}
