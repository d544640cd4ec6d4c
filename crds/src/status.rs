//! What the operator reports: conditions with reasons, and the few facts a person asks for first.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, IntoStaticStr};

/// The observed state of an IoTPipeline.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IoTPipelineStatus {
    /// The generation that the operator saw last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The generation that the workers run: an invalid edit leaves them on the last valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_generation: Option<i64>,
    /// Ready, TopicReady, TableReady, BridgeReady, ProcessorReady and PoliciesHealthy.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The Kafka topic as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicStatus>,
    /// The hypertable as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableStatus>,
    /// The workers from MQTT to Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeStatus>,
    /// The workers from Kafka to TimescaleDB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<ProcessorStatus>,
    /// How far the table is behind the topic, refreshed at most once a minute. The exact figures are metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagStatus>,
    /// What the spec asks for and was not done yet: with `mode: Observe` everything that would be done, otherwise what
    /// waits. At most 50 steps, in the order in which they would be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlannedChange>,
    /// The last 20 approvals that were used, or whose change is gone. They approve nothing any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_approvals: Vec<String>,
}

/// One step that was not made yet.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// What is changed, such as `topic plant-7.line-telemetry` or `Deployment line-processor`.
    pub object: String,
    /// Which property of it; left out where the object itself is created or deleted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// The value found; left out where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The value that the spec wants; left out where it wants none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub to: String,
    /// What the step does to what runs and to data.
    pub class: ChangeClass,
    /// The hash that approves the step, where it waits for that: a value for the annotation `iotpipeline.dev/approve`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
}

/// What a step does to what runs and to data.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ChangeClass {
    /// Nothing stands still and nothing is deleted.
    #[default]
    Safe,
    /// Messages wait meanwhile: pods restart, writers are held up, or rows are refused that were taken before.
    Disruptive,
    /// Data is deleted.
    Destructive,
}

/// The Kafka topic as it is.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The topic's name.
    pub name: String,
    /// How many partitions it has now.
    pub partitions: i32,
}

/// The hypertable as it is.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableStatus {
    /// `schema.table`.
    pub name: String,
    /// The edition of TimescaleDB: `Community` or `Apache2`.
    pub edition: String,
    /// The version of the TimescaleDB extension in this database.
    pub timescaledb_version: String,
    /// The rollups of the spec that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollups: Vec<RollupStatus>,
}

/// A rollup as it is.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollupStatus {
    /// The view, in the table's schema.
    pub name: String,
    /// ContinuousAggregate, or View where this TimescaleDB has none.
    pub kind: RollupKind,
    /// Up to when it is filled with the rows that were there before it; left out once that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled_to: Option<Time>,
}

/// What a rollup is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RollupKind {
    /// Computed beforehand and kept.
    ContinuousAggregate,
    /// Computed when queried.
    View,
}

/// The workers from MQTT to Kafka.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeStatus {
    /// How many bridges there are.
    pub replicas: i32,
    /// How many are connected and subscribed.
    pub ready_replicas: i32,
    /// The topic filters that the broker has granted.
    #[serde(default)]
    pub filters: Vec<String>,
    /// With a Shared session: how many sessions the broker may have, those of bridges that leave included. The first has
    /// `mqtt.clientId`, the others add `_1`, `_2` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i32>,
    /// How full the spool is, in two digits. The exact figures are metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolLevel>,
    /// What was decided about their number, with `bridge.mode` BuiltIn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<BridgeAutoscalingStatus>,
}

/// What was decided about the number of bridges, and from what. The rate is told in two digits and anew only where it is
/// clearly another; the exact one is a metric.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeAutoscalingStatus {
    /// How many there shall be.
    pub desired_replicas: i32,
    /// Why, one of those that docs/bridges.md lists.
    pub reason: AutoscalingReason,
    /// Why, for a person.
    pub message: String,
    /// Messages a second that came; left out until it is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_rate: Option<i64>,
}

/// What is acknowledged to the broker and not yet in Kafka.
#[derive(Clone, Copy, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpoolLevel {
    /// Messages in the spool.
    pub messages: i64,
    /// What they take, bytes.
    pub bytes: i64,
}

/// The workers from Kafka to TimescaleDB.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorStatus {
    /// How many processors there are.
    pub replicas: i32,
    /// How many have their partitions and write.
    pub ready_replicas: i32,
    /// The label selector of their pods, for the scale subresource.
    pub selector: String,
    /// What was decided about their number, with `processor.mode` BuiltIn or Advise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingStatus>,
    /// The fields that no column takes, where there are any: they are in `extraColumn`, or left out. Counted since the
    /// processors started; one that comes no more is forgotten after a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmapped: Option<UnmappedStatus>,
}

/// What was decided about the number of processors, and from what. The figures are told in two digits and anew only
/// where they are clearly others; the exact ones are metrics.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingStatus {
    /// How many there shall be; with Advise, how many there should be.
    pub desired_replicas: i32,
    /// Why.
    pub reason: AutoscalingReason,
    /// Why, for a person.
    pub message: String,
    /// Messages that waited, but for those in partitions that are stuck.
    pub lag_messages: i64,
    /// Messages a second that came.
    pub arrival_rate: i64,
    /// Messages a second that became rows, dead letters or nothing.
    pub drained_rate: i64,
    /// Messages a second that so many processors can take, as far as it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_rate: Option<i64>,
    /// Partitions in which messages wait and nothing moves.
    #[serde(default)]
    pub stuck_partitions: i64,
    /// The share of the last seconds that the processors waited for the database to take rows, percent, in tens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_wait_percent: Option<i64>,
}

/// Why there shall be so many processors, or bridges. Each is documented in docs/scaling.md, and those of bridges in
/// docs/bridges.md.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Deserialize,
    Display,
    EnumIter,
    Eq,
    Hash,
    IntoStaticStr,
    JsonSchema,
    PartialEq,
    Serialize,
)]
pub enum AutoscalingReason {
    /// They take what comes, and fewer would not.
    #[default]
    AsNeeded,
    /// More were needed to drain what waits in time.
    ScaledUp,
    /// Fewer have been enough for a while.
    ScaledDown,
    /// Fewer would be enough, but have not been for long.
    Stabilizing,
    /// More are needed, and the last change is still taking effect.
    CoolingDown,
    /// More would help later than what waits is done.
    RebalanceCostsMore,
    /// What a processor can do is not known yet.
    Measuring,
    /// `minReplicas` says so.
    AtMinimum,
    /// More are needed, but `maxReplicas` or the number of partitions does not allow them.
    AtMaximum,
    /// More are needed and would bring nothing: the database takes no more.
    DatabaseIsTheLimit,
    /// More are needed and would bring nothing, and the database is not why.
    NoGain,
    /// Messages wait in partitions that do not move; more processors would not move them.
    PartitionsStuck,
    /// Nothing comes and nothing waits: there are none.
    Idle,
    /// Something came while there was none.
    Woken,
    /// Kafka or a processor does not tell how far it is; everything stays.
    SignalMissing,
}

/// Fields that no column takes.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmappedStatus {
    /// The most frequent ones, at most 10.
    #[serde(default)]
    pub fields: Vec<UnmappedField>,
    /// How often there were others, in one digit.
    #[serde(default)]
    pub others: i64,
}

/// A field that no column takes.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmappedField {
    /// Its path, as `from` of a column takes it (`.sensor.humidity`). A name that `from` does not take is in quotes.
    pub path: String,
    /// How often it was met, in one digit: 40000 is 40,000 to 49,999.
    pub count: i64,
    /// When a processor met it first.
    pub since: Time,
}

/// How far the table is behind the topic.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LagStatus {
    /// Records in the topic that are not yet rows, dead letters or dropped.
    pub messages: i64,
    /// Age of the oldest of them in seconds, estimated; 0 without lag.
    pub seconds: i64,
}

/// The types of condition, in the order in which they are listed.
#[derive(Clone, Copy, Debug, Display, EnumIter, Eq, Hash, IntoStaticStr, Ord, PartialEq, PartialOrd)]
pub enum ConditionType {
    /// Messages become rows: all the others but PoliciesHealthy are true, and the spec is applied.
    Ready,
    /// The Kafka topic is as the spec says.
    TopicReady,
    /// The hypertable is as the spec says.
    TableReady,
    /// All bridges are connected and subscribed.
    BridgeReady,
    /// All processors have partitions and write.
    ProcessorReady,
    /// The policies of the hypertables run and succeed.
    PoliciesHealthy,
}

/// Why a condition has its status. Each is documented in docs/conditions.md with what to do.
#[derive(Clone, Copy, Debug, Display, EnumIter, Eq, Hash, IntoStaticStr, PartialEq)]
pub enum Reason {
    /// As the spec says.
    AsSpecified,
    /// Not looked at yet.
    Pending,
    /// On its way: pods start or roll.
    Progressing,
    /// `suspend` says so.
    Suspended,
    /// `mode: Observe`, and something would be changed; `status.plan` lists it.
    Observing,
    /// The spec is refused; the message says which field and why. Workers keep the last valid configuration.
    InvalidSpec,
    /// The VRL program does not compile; the message holds the compiler's diagnostic.
    ProgramInvalid,
    /// A referenced Secret does not exist.
    SecretMissing,
    /// A referenced Secret lacks a key, or a value in it is not usable.
    SecretInvalid,
    /// Kafka does not answer.
    KafkaUnreachable,
    /// TLS with Kafka fails: a certificate is not trusted, missing or another one, or one side does not speak TLS.
    KafkaTlsFailed,
    /// Kafka does not accept the user, the password or the way of showing it.
    KafkaAuthenticationFailed,
    /// Kafka answered with an error.
    KafkaRefused,
    /// The topic exists and no pipeline created it.
    TopicNotOwned,
    /// The topic does not exist, and its management is External.
    TopicMissing,
    /// The topic, whose management is External, would lose or refuse messages.
    TopicUnfit,
    /// A change of the topic is refused (fewer partitions, another replication factor).
    TopicChangeRefused,
    /// The topic is to have more partitions; the message says what that waits for.
    TopicGrowing,
    /// An index is made over rows that are there.
    IndexBuilding,
    /// The database does not answer.
    DatabaseUnreachable,
    /// The database answered with an error.
    DatabaseRefused,
    /// The role lacks a right; the message holds the SQL that grants it.
    PermissionMissing,
    /// The TimescaleDB extension is not installed on the server.
    ExtensionMissing,
    /// The table exists and no pipeline created it.
    TableNotOwned,
    /// The table belongs to somebody else (`management: External`) and does not fit the spec; the message says how.
    TableUnfit,
    /// A change would delete data and waits for a person; the message says what would go and how to approve it.
    ApprovalRequired,
    /// Another pipeline manages this topic or table.
    ResourceConflict,
    /// A change of the table is refused (a column's type, a dropped column); the message says what to do instead.
    TableChangeRefused,
    /// The condition holds, but for `timescale.columnstore`: this TimescaleDB has no columnstore.
    ColumnstoreUnsupported,
    /// The condition holds; rows may come so late that their chunk is in the columnstore already, which is slower.
    LateRowsInColumnstore,
    /// The condition holds; chunks are far from the size that suits the server, and the message advises an interval.
    ChunkIntervalAdvised,
    /// A policy of TimescaleDB fails; the message says which, with its error.
    PolicyFailing,
    /// The server does not run its policies; the message says which setting to change.
    PoliciesNotRunning,
    /// The condition holds; rollups are plain views, computed when queried: this TimescaleDB has no continuous aggregates.
    RollupsComputedWhenQueried,
    /// The condition holds; a rollup is being filled with the rows that were there before it.
    RollupsFilling,
    /// The condition holds; a rollup that left the spec is still in the database.
    RollupsLeft,
    /// A rollup cannot be made or changed; the message says what stands in the way.
    RollupRefused,
    /// A shorter retention waits, because a rollup has not taken up the rows that would go.
    RollupBehind,
    /// The condition holds; bridges that leave pass on what the broker holds for them, and end their sessions.
    BridgesLeaving,
    /// Pods do not become ready; the message says what they report.
    WorkersNotReady,
    /// Something the pipeline created could not be deleted yet.
    CleanupPending,
    /// An error of Kubernetes or of the operator itself.
    ReconcileFailed,
}
