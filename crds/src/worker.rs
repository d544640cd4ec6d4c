//! What the operator tells a worker (`WorkerConfig`, a ConfigMap without secrets) and what a worker
//! answers (`WorkerStatus`, at `GET /status`).

mod bridge;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

pub use self::bridge::{BridgeConfig, KeyConfig, MqttTransport, SharedConfig, SpoolConfig, Subscription};
use crate::pipeline::{ColumnType, DatabaseTlsMode, SaslMechanism};

/// The version of [`WorkerConfig`] that this build writes and reads. A worker refuses any other.
pub const WORKER_CONFIG_VERSION: u32 = 1;

/// The configuration of one worker. Everything in it was validated by the operator; times are in
/// seconds and sizes in bytes, as the field names say.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerConfig {
    /// [`WORKER_CONFIG_VERSION`] of the operator that wrote it.
    pub version: u32,
    /// Whose worker this is.
    pub pipeline: PipelineId,
    /// The backbone, the same for both workers.
    pub kafka: KafkaConfig,
    /// What the worker does.
    pub role: RoleConfig,
}

impl WorkerConfig {
    /// Which kind of worker it is for.
    pub fn component(&self) -> Component {
        match self.role {
            RoleConfig::Bridge(_) => Component::Bridge,
            RoleConfig::Processor(_) => Component::Processor,
        }
    }
}

/// A pipeline's identity. Not the object's UID, which changes when a cluster is restored.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineId {
    /// The chart value `clusterName`.
    pub cluster_name: String,
    /// The namespace of the IoTPipeline.
    pub namespace: String,
    /// The name of the IoTPipeline.
    pub name: String,
}

/// Where the backbone is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaConfig {
    /// Comma-separated `host:port`.
    pub bootstrap_servers: String,
    /// The pipeline's topic.
    pub topic: String,
    /// Certificates, where the connection is to be encrypted.
    pub tls: Option<TlsConfig>,
    /// The user, where the brokers ask for one.
    pub sasl: Option<SaslConfig>,
}

/// Which certificates of a connection are mounted; they are read again at every connect.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// Whether to trust [`crate::names::CA_FILE`] rather than the authorities that the system trusts.
    pub has_ca: bool,
    /// Whether to show [`crate::names::CERTIFICATE_FILE`].
    pub has_client_certificate: bool,
}

/// A user of Kafka; the password is mounted as [`crate::names::PASSWORD_FILE`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SaslConfig {
    /// How the password is shown to the broker.
    pub mechanism: SaslMechanism,
    /// The user.
    pub username: String,
}

/// The part of the configuration that only one kind of worker has.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RoleConfig {
    /// MQTT to Kafka.
    Bridge(BridgeConfig),
    /// Kafka to TimescaleDB.
    Processor(ProcessorConfig),
}

/// Kafka to TimescaleDB.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessorConfig {
    /// The consumer group.
    pub consumer_group: String,
    /// Where a topic without any stored position begins.
    pub start_from: StartFrom,
    /// What becomes of a partition whose next record Kafka no longer has.
    pub on_offset_lost: crate::pipeline::OnOffsetLost,
    /// How a payload becomes an event.
    pub codec: crate::pipeline::CodecType,
    /// Whether a bridge of this pipeline writes the topic, so that every record says where it came from.
    pub has_bridge: bool,
    /// The VRL program; without one the event goes to the columns as it was decoded.
    pub program: Option<String>,
    /// Accepted event times relative to the worker's clock; `None` accepts all.
    pub accept_time: AcceptTimeConfig,
    /// The processor pauses where it rejects more than this share of its latest messages; 100 is never.
    pub max_rejected_percent: u8,
    /// Whether and how the connection to the database is encrypted.
    pub database_tls: DatabaseTlsConfig,
    /// The target table.
    pub table: TableConfig,
}

/// Whether and how the connection to the database is encrypted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatabaseTlsConfig {
    /// What of the server is checked.
    pub mode: DatabaseTlsMode,
    /// Which certificates are mounted.
    pub certificates: TlsConfig,
}

/// Where a topic without any stored position begins.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StartFrom {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    Latest,
    /// At the first record not older than this time, milliseconds since 1970.
    Timestamp(i64),
}

/// Accepted event times relative to the worker's clock.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptTimeConfig {
    /// Older events become dead letters, seconds.
    pub max_late_seconds: Option<u64>,
    /// Events further in the future become dead letters, seconds.
    pub max_ahead_seconds: Option<u64>,
}

/// The target table.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TableConfig {
    /// The schema of the table and of its bookkeeping.
    pub schema: String,
    /// The hypertable.
    pub name: String,
    /// The columns in COPY order.
    pub columns: Vec<ColumnConfig>,
    /// The name of the column of `columns` that partitions the hypertable.
    pub time_column: String,
    /// The jsonb column that takes the fields no other column takes; not part of `columns`.
    pub extra_column: Option<String>,
    /// The natural key: names of `columns`, none of them nullable, on which the table has a unique index; empty where
    /// every row is a row of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unique_by: Vec<String>,
}

/// One column and where its value comes from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ColumnConfig {
    /// The column's name.
    pub name: String,
    /// Its SQL type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// The path of its value in the event (`["ts"]`).
    pub from: Vec<String>,
    /// Whether an event without this value is a row (NULL) or a dead letter.
    pub nullable: bool,
}

/// The two kinds of worker.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    /// MQTT to Kafka.
    Bridge,
    /// Kafka to TimescaleDB.
    Processor,
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Bridge => "bridge",
            Self::Processor => "processor",
        })
    }
}

/// What a worker says of itself at `GET /status`. Fields are only ever added; a reader ignores unknown ones.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Which kind of worker answers.
    pub component: Component,
    /// The version of the worker's build.
    pub version: String,
    /// Whether it does its work now (the same as `/readyz`).
    pub ready: bool,
    /// Why it does not, for a person: what went wrong, where, what to do. Holds no secrets.
    pub problem: Option<WorkerProblem>,
    /// What has become of the session, where the configuration says `retire` (bridge only).
    #[serde(default)]
    pub retirement: Option<Retirement>,
    /// How full the spool is, where there is one (bridge only).
    #[serde(default)]
    pub spool: Option<SpoolStatus>,
    /// The subscriptions that the broker has granted (bridge only).
    #[serde(default)]
    pub subscriptions: Vec<SubscriptionStatus>,
    /// How many messages have come from the broker since the worker started; absent from workers that do not count them
    /// (bridge only).
    #[serde(default)]
    pub received: Option<u64>,
    /// The partitions this worker owns (processor only).
    #[serde(default)]
    pub partitions: Vec<i32>,
    /// The offset that comes next of each of them, as committed to the database; those whose position is not read yet
    /// are left out (processor only).
    #[serde(default)]
    pub positions: BTreeMap<i32, i64>,
    /// The share of the last ten seconds that it waited for the database to take rows, percent; absent where the kernel does
    /// not tell (processor only).
    #[serde(default)]
    pub database_wait_percent: Option<u8>,
    /// The fields that no column takes, of what was committed since the worker started (processor only).
    #[serde(default)]
    pub unmapped: UnmappedFields,
}

/// Fields that no column takes: they are in the extra column, where there is one, or left out.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmappedFields {
    /// Those that are told apart, by path.
    pub fields: Vec<UnmappedField>,
    /// How often there were others.
    pub others: u64,
}

/// A field that no column takes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmappedField {
    /// Its path, as `from` of a column says it (`.sensor.value`); a name that `from` does not take is in quotes.
    pub path: String,
    /// How often it was met.
    pub count: u64,
    /// Since when, seconds since 1970.
    pub since_seconds: i64,
}

/// How full the bridge's spool is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpoolStatus {
    /// Messages in it: acknowledged to the broker and not yet in Kafka.
    pub messages: u64,
    /// What they take, bytes.
    pub bytes: u64,
    /// Whether it takes nothing more, because it left the spec.
    pub closing: bool,
}

/// What has become of the MQTT session of a bridge that goes for good.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retirement {
    /// Whether the session has ended at the broker, with nothing left in it.
    pub ended: bool,
    /// How many messages were passed on since the worker started.
    pub passed_on: u64,
    /// How many messages are taken from the broker and not yet in Kafka.
    pub in_flight: u64,
}

/// Why a worker does not do its work.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerProblem {
    /// A CamelCase word that becomes the reason of a condition, such as `BrokerUnreachable`.
    pub reason: String,
    /// One sentence for a person.
    pub message: String,
}

/// One subscription as the broker answered it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionStatus {
    /// The topic filter.
    pub filter: String,
    /// The QoS that the broker granted; `None` until SUBACK, or where it refused.
    pub granted_qos: Option<u8>,
}
