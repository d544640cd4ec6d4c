//! The validated pipeline: what a spec says, in types that cannot hold an illegal value. Only
//! `reconcile::validate` makes one; after it nobody looks at the raw spec. No I/O.

use std::{collections::BTreeMap, fmt, time::Duration};

use access::{database::DatabaseAccess, kafka::KafkaAccess};
use crds::{
    names::{MAX_IDENTIFIER_BYTES, MAX_TABLE_NAME_BYTES, SecretPurpose},
    pipeline::{ColumnType, DeletionPolicySpec, Mode, PodSpec, Suspend},
    worker::{Component, PipelineId, WorkerConfig},
};
use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::OwnerReference};

use crate::{
    memory::PipelineKey,
    scale::{bridges, policy::Settings},
};

mod rollup;

pub use self::rollup::{Aggregate, Function, Pick, Refresh, Rollup, ValueType};

/// Everything the operator needs to know of one IoTPipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Who it is.
    pub id: PipelineId,
    /// The reference that every child object carries.
    pub owner: OwnerReference,
    /// The generation of the spec that this was made from.
    pub generation: i64,
    /// The Kafka topic.
    pub topic: Topic,
    /// The hypertable.
    pub table: Table,
    /// How the operator reaches the database.
    pub database: DatabaseAccess,
    /// The workers from MQTT to Kafka; `None` where something else fills the topic.
    pub bridge: Option<Worker>,
    /// The workers from Kafka to TimescaleDB.
    pub processor: Worker,
    /// Between which bounds the operator decides how many processors there are, or advises; `None` where it does not.
    pub autoscaling: Option<Autoscaling>,
    /// Between which bounds the operator decides how many bridges there are; `None` where it does not.
    pub bridge_scaling: Option<bridges::Settings>,
    /// What to delete with the pipeline.
    pub deletion_policy: DeletionPolicySpec,
    /// Which workers stand still.
    pub suspend: Suspend,
    /// Whether the spec is brought about, or only compared with what there is.
    pub mode: Mode,
}

impl Pipeline {
    /// Under which the operator remembers it.
    pub fn key(&self) -> PipelineKey {
        (self.id.namespace.clone(), self.id.name.clone())
    }

    /// The kinds of worker that it has.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.bridge.iter().chain([&self.processor])
    }

    /// How the number of its processors is decided now: not at all while they are suspended, or the spec is only compared.
    pub fn scaled(&self) -> Option<Autoscaling> {
        self.autoscaling.filter(|_| self.suspend == Suspend::None && self.mode == Mode::Enforce)
    }

    /// How the number of its bridges is decided now: not at all while they are suspended, or the spec is only compared.
    pub fn scaled_bridges(&self) -> Option<bridges::Settings> {
        self.bridge_scaling.filter(|_| self.suspend != Suspend::All && self.mode == Mode::Enforce)
    }
}

impl Worker {
    /// Which kind of worker it is.
    pub fn component(&self) -> Component {
        self.config.component()
    }
}

/// How the number of processors is decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Autoscaling {
    /// Whether the decision is followed, or only told.
    pub acts: bool,
    /// Between which bounds, and with what aim.
    pub settings: Settings,
}

/// A Kafka topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// How to reach the cluster.
    pub kafka: KafkaAccess,
    /// Its name.
    pub name: TopicName,
    /// What the operator makes of it; `None` where its management is External.
    pub wanted: Option<WantedTopic>,
    /// The least `max.message.bytes` that leaves room for the largest MQTT packet, key and headers; `None` without
    /// a bridge. A larger value found on the topic stays.
    pub min_max_message_bytes: Option<u32>,
}

/// A Kafka topic as the operator makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedTopic {
    /// How many partitions; may grow.
    pub partitions: i32,
    /// Whether it may grow although records of one key then change places.
    pub allow_reorder: bool,
    /// How many brokers keep each partition; counts at creation only.
    pub replication_factor: i32,
    /// The settings that the spec names, `retention.ms` among them. All others stay as they are.
    pub config: BTreeMap<String, String>,
    /// Whether to take over a topic that nobody has.
    pub adopt: bool,
}

/// A hypertable.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The schema of the table and of its bookkeeping.
    pub schema: SqlIdent,
    /// The hypertable.
    pub name: SqlIdent,
    /// The columns that workers write, in order; the extra column, if any, is the last.
    pub columns: Vec<Column>,
    /// The column that partitions it.
    pub time_column: SqlIdent,
    /// The natural key: columns on which it is unique, none of them nullable; empty where it has none.
    pub unique_by: Vec<SqlIdent>,
    /// The role that workers write as. Any text: it comes from a Secret.
    pub writer: String,
    /// How long its dead letters stay; `None` for ever.
    pub dead_letters_drop_after: Option<Duration>,
    /// What the operator makes of it; `None` where its management is External.
    pub wanted: Option<WantedTable>,
}

/// What of a hypertable, beside its columns, the operator makes as the spec says.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedTable {
    /// The span of time of a new chunk.
    pub chunk_interval: Duration,
    /// Its indexes.
    pub indexes: Vec<Index>,
    /// How long rows stay; `None` for ever.
    pub drop_after: Option<Duration>,
    /// How rows go into the columnstore; `None` where they do not.
    pub columnstore: Option<Columnstore>,
    /// Whether to take over a table that nobody has.
    pub adopt: bool,
    /// Its rollups, each after the one that it is made from.
    pub rollups: Vec<Rollup>,
}

/// How rows go into the columnstore.
#[derive(Clone, Debug, PartialEq)]
pub struct Columnstore {
    /// Chunks whose rows are all older than this go there.
    pub after: Duration,
    /// The columns that are the same in all rows of a segment, none of them in `order_by`; may be empty.
    pub segment_by: Vec<SqlIdent>,
    /// The order of the rows of a segment; the time column is in it.
    pub order_by: Vec<(SqlIdent, SortOrder)>,
    /// How late a row may come that is accepted; `None` for any time.
    pub max_late: Option<Duration>,
}

/// A column as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: SqlIdent,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether it may hold NULL.
    pub nullable: bool,
}

/// An index as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Its columns in order.
    pub columns: Vec<(SqlIdent, SortOrder)>,
}

/// The direction of a column in an order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SortOrder {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// One kind of worker as it shall be.
#[derive(Clone, Debug)]
pub struct Worker {
    /// How many pods, suspension already counted in.
    pub replicas: i32,
    /// What the worker is told.
    pub config: WorkerConfig,
    /// The Secrets to mount.
    pub secrets: Vec<MountedSecret>,
    /// CPU and memory of each pod.
    pub resources: ResourceRequirements,
    /// How the pods are placed and labelled.
    pub pod: PodSpec,
    /// The volume of the bridge's spool.
    pub spool: Option<SpoolVolume>,
}

/// The volume of the bridge's spool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpoolVolume {
    /// Its size, bytes.
    pub bytes: u64,
    /// Its storage class; `None` for the cluster's own choice.
    pub storage_class: Option<String>,
}

/// A Secret that a worker reads as a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountedSecret {
    /// The Secret's name.
    pub name: String,
    /// What it is for, which names the directory.
    pub purpose: SecretPurpose,
    /// The keys that the worker gets, each with the name of its file; empty for all of them.
    pub files: Vec<(String, &'static str)>,
}

/// The name of a Kafka topic: 1 to 249 of `[A-Za-z0-9._-]`, neither `.` nor `..`, not Kafka's own (`__…`).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TopicName(String);

/// An SQL identifier that needs no quotes and fits PostgreSQL's 63 bytes: `[a-z_][a-z0-9_]*`. Quoted all the same.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SqlIdent(String);

impl TopicName {
    /// The name, if it is legal.
    pub fn parse(text: &str) -> Option<Self> {
        let legal = (1..=249).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && !matches!(text, "." | "..")
            && !text.starts_with("__");
        legal.then(|| Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SqlIdent {
    /// The identifier, if it is legal.
    pub fn parse(text: &str) -> Option<Self> {
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let legal = starts
            && text.len() <= MAX_IDENTIFIER_BYTES
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        legal.then(|| Self(text.to_owned()))
    }

    /// The identifier of a table to create: as [`SqlIdent::parse`], with room for the dead letters' suffix and
    /// not one of the operator's own.
    pub fn parse_table(text: &str) -> Option<Self> {
        Self::parse(text).filter(|_| text.len() <= MAX_TABLE_NAME_BYTES && !text.starts_with("_iotpipeline_"))
    }

    /// The identifier of a schema to write into: as [`SqlIdent::parse`], and not the database's own.
    pub fn parse_schema(text: &str) -> Option<Self> {
        let reserved = ["pg_", "_timescaledb", "timescaledb"].iter().any(|prefix| text.starts_with(prefix))
            || text == "information_schema";
        Self::parse(text).filter(|_| !reserved)
    }

    /// The identifier without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for SqlIdent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.schema, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_kafka() {
        for legal in ["a", "plant-7.line_telemetry", &"x".repeat(249)] {
            assert!(TopicName::parse(legal).is_some(), "{legal}");
        }
        for illegal in ["", ".", "..", "__consumer_offsets", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(TopicName::parse(illegal).is_none(), "{illegal}");
        }
    }

    #[test]
    fn identifiers_need_no_quotes_and_fit() {
        for legal in ["a", "_x", "line_telemetry", &"x".repeat(63)] {
            assert!(SqlIdent::parse(legal).is_some(), "{legal}");
        }
        for illegal in ["", "7a", "A", "x\"; DROP TABLE y;--", "a-b", "ä", &"x".repeat(64)] {
            assert!(SqlIdent::parse(illegal).is_none(), "{illegal}");
        }
        assert!(SqlIdent::parse_table(&"x".repeat(51)).is_none());
        assert!(SqlIdent::parse_table("_iotpipeline_positions").is_none());
        for reserved in
            ["pg_catalog", "information_schema", "_timescaledb_internal", "timescaledb_information"]
        {
            assert!(SqlIdent::parse_schema(reserved).is_none(), "{reserved}");
        }
    }
}
