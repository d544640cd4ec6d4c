//! The stores of a spec: the Kafka topic and the hypertable. Synchronous, no client.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use access::kafka::KafkaAccess;
use crds::{
    IoTPipelineSpec, names,
    pipeline::{AdoptionPolicy, ColumnType, Management, MqttSpec, RetentionSpec, TimescaleSpec},
};

use super::{columnstore::columnstore, problems::Problems, rollups::rollups};
use crate::pipeline::{
    Column, Index, SortOrder, SqlIdent, Table, Topic, TopicName, WantedTable, WantedTopic,
};

/// How long Kafka keeps records and how much time a chunk spans, where the spec does not say.
const DEFAULT_TOPIC_RETENTION: &str = "7d";
const DEFAULT_CHUNK_INTERVAL: &str = "1d";

/// What a Kafka record needs beside the MQTT packet it came from, bytes: its key, and as much again for the headers.
/// The bridge leaves user properties out, and says so, before a record grows larger.
const RECORD_OVERHEAD_BYTES: u64 = 2 * (names::MAX_KEY_BYTES as u64 + 1);

/// The largest MQTT packet the protocol knows (MQTT-2.1.4), bytes.
const LARGEST_MQTT_PACKET_BYTES: u64 = 268_435_455;

pub(super) fn topic(
    whole: &IoTPipelineSpec,
    kafka: Option<KafkaAccess>,
    max_packet_size: Option<u32>,
    problems: &mut Problems,
) -> Option<Topic> {
    let spec = &whole.kafka.topic;
    let name = problems.require(TopicName::parse(&spec.name), || {
        format!("kafka.topic.name {:?} is no topic name; use 1 to 249 of A-Z a-z 0-9 . _ -", spec.name)
    });
    let wanted = match spec.management {
        Management::Managed => wanted_topic(whole, problems).map(Some),
        Management::External => Some(None),
    };
    Some(Topic {
        kafka: kafka?,
        name: name?,
        wanted: wanted?,
        min_max_message_bytes: max_packet_size.map(record_bytes),
    })
}

fn wanted_topic(whole: &IoTPipelineSpec, problems: &mut Problems) -> Option<WantedTopic> {
    let spec = &whole.kafka.topic;
    let default_retention = DEFAULT_TOPIC_RETENTION.into();
    let retention = spec.retention.as_ref().unwrap_or(&default_retention);
    let retention = problems.duration("kafka.topic.retention", retention);
    for managed in ["retention.ms", "max.message.bytes"] {
        problems.refuse_if(spec.config.contains_key(managed), || {
            format!(
                "kafka.topic.config must not hold {managed}; set kafka.topic.retention or mqtt.maxPacketSize"
            )
        });
    }
    let size = spec.partitions.zip(spec.replication_factor);
    let size = problems.require(size, || {
        "kafka.topic needs partitions and replicationFactor, unless its management is External".to_owned()
    });
    let mut config: BTreeMap<String, String> =
        spec.config.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
    config.insert("retention.ms".to_owned(), retention?.as_millis().to_string());
    let (partitions, replication_factor) = size?;
    let allow_reorder = spec.allow_reorder.unwrap_or(false);
    let adopt = whole.adoption_policy == AdoptionPolicy::Adopt;
    Some(WantedTopic { partitions, allow_reorder, replication_factor, config, adopt })
}

pub(super) fn table(
    whole: &IoTPipelineSpec,
    writer: Option<String>,
    problems: &mut Problems,
) -> Option<Table> {
    let spec = &whole.timescale;
    let schema = problems.require(SqlIdent::parse_schema(&spec.table.schema), || {
        format!(
            "timescale.table.schema {:?} is no schema to write to; use a-z 0-9 _, at most 63, and none of PostgreSQL's own",
            spec.table.schema
        )
    });
    let name = problems.require(SqlIdent::parse_table(&spec.table.name), || {
        format!("timescale.table.name {:?} is no table name; use a-z 0-9 _, at most 50", spec.table.name)
    });
    let time_column = problems.require(SqlIdent::parse(&spec.time_column), || {
        format!("timescale.timeColumn {:?} is no column name; use a-z 0-9 _, at most 63", spec.time_column)
    });
    let columns = columns(spec, problems);
    let unique_by = unique_by(spec, problems);
    let dead_letters_drop_after = drop_after(
        "timescale.deadLetters.retention.dropAfter",
        spec.dead_letters.as_ref().and_then(|dead_letters| dead_letters.retention.as_ref()),
        problems,
    );
    let wanted = match spec.management {
        Management::Managed => wanted_table(whole, problems).map(Some),
        Management::External => Some(None),
    };
    Some(Table {
        schema: schema?,
        name: name?,
        columns: columns?,
        time_column: time_column?,
        unique_by: unique_by?,
        writer: writer?,
        dead_letters_drop_after: dead_letters_drop_after?,
        wanted: wanted?,
    })
}

fn wanted_table(whole: &IoTPipelineSpec, problems: &mut Problems) -> Option<WantedTable> {
    let spec = &whole.timescale;
    let default_chunk_interval = DEFAULT_CHUNK_INTERVAL.into();
    let chunk_interval = spec.chunk_interval.as_ref().unwrap_or(&default_chunk_interval);
    let chunk_interval = problems.duration("timescale.chunkInterval", chunk_interval);
    let indexes = indexes(spec, problems);
    let drop_after = drop_after("timescale.retention.dropAfter", spec.retention.as_ref(), problems);
    let columnstore = columnstore(spec, &whole.processing.accept_time, problems);
    let rollups = rollups(spec, problems);
    Some(WantedTable {
        chunk_interval: chunk_interval?,
        indexes: indexes?,
        drop_after: drop_after?,
        columnstore: columnstore?,
        adopt: whole.adoption_policy == AdoptionPolicy::Adopt,
        rollups: rollups?,
    })
}

/// `Some(None)` where rows stay for ever.
fn drop_after(
    field: &str,
    retention: Option<&RetentionSpec>,
    problems: &mut Problems,
) -> Option<Option<Duration>> {
    problems.optional_duration(field, retention.map(|retention| &retention.drop_after))
}

fn columns(spec: &TimescaleSpec, problems: &mut Problems) -> Option<Vec<Column>> {
    let mut columns = Vec::with_capacity(spec.columns.len() + 1);
    let mut names = BTreeSet::new();
    for column in &spec.columns {
        problems.refuse_if(!names.insert(&column.name), || {
            format!("timescale.columns lists {:?} more than once", column.name)
        });
        let name = problems.require(SqlIdent::parse(&column.name), || {
            format!("timescale.columns name {:?} is no column name; use a-z 0-9 _, at most 63", column.name)
        })?;
        columns.push(Column {
            name,
            column_type: column.column_type,
            nullable: is_nullable(spec, &column.name),
        });
    }
    let time_column = spec.columns.iter().find(|column| column.name == spec.time_column);
    problems
        .refuse_if(time_column.is_none_or(|column| column.column_type != ColumnType::Timestamptz), || {
            format!("timescale.timeColumn {:?} must be a column of type timestamptz", spec.time_column)
        });
    problems.refuse_if(time_column.is_some_and(|column| column.nullable == Some(true)), || {
        format!(
            "timescale.columns {:?} cannot be nullable: the hypertable is partitioned by it",
            spec.time_column
        )
    });
    if let Some(extra) = &spec.extra_column {
        problems.refuse_if(names.contains(extra), || {
            format!("timescale.extraColumn {extra:?} must not be listed in timescale.columns too")
        });
        let name = problems.require(SqlIdent::parse(extra), || {
            format!("timescale.extraColumn {extra:?} is no column name; use a-z 0-9 _, at most 63")
        })?;
        columns.push(Column { name, column_type: ColumnType::Jsonb, nullable: true });
    }
    Some(columns)
}

fn unique_by(spec: &TimescaleSpec, problems: &mut Problems) -> Option<Vec<SqlIdent>> {
    let names: BTreeSet<_> = spec.unique_by.iter().collect();
    problems.refuse_if(names.len() < spec.unique_by.len(), || {
        format!("timescale.uniqueBy {:?} names a column more than once", spec.unique_by)
    });
    problems.refuse_if(!names.is_empty() && !names.contains(&spec.time_column), || {
        format!("timescale.uniqueBy {:?} must hold timescale.timeColumn", spec.unique_by)
    });
    let mut columns = Vec::with_capacity(spec.unique_by.len());
    for name in &spec.unique_by {
        let is_declared = spec.columns.iter().any(|column| column.name == *name);
        let column = problems.require(SqlIdent::parse(name).filter(|_| is_declared), || {
            format!("timescale.uniqueBy {name:?} must be one of timescale.columns")
        });
        problems.refuse_if(is_declared && is_nullable(spec, name), || {
            format!("timescale.uniqueBy {name:?} needs nullable: false in timescale.columns, because NULL equals nothing")
        });
        columns.push(column?);
    }
    Some(columns)
}

fn indexes(spec: &TimescaleSpec, problems: &mut Problems) -> Option<Vec<Index>> {
    let declared = |name: &SqlIdent| spec.columns.iter().any(|column| column.name == name.as_str());
    let mut indexes = Vec::with_capacity(spec.indexes.len());
    for index in &spec.indexes {
        let mut columns = Vec::with_capacity(index.columns.len());
        for entry in &index.columns {
            let column = problems.require(ordered_column(entry).filter(|(name, _)| declared(name)), || {
                format!("timescale.indexes entry {entry:?} must be a declared column, alone or followed by ASC or DESC")
            })?;
            columns.push(column);
        }
        indexes.push(Index { columns });
    }
    Some(indexes)
}

/// A column alone, or followed by ` ASC` or ` DESC`.
pub(super) fn ordered_column(entry: &str) -> Option<(SqlIdent, SortOrder)> {
    let (name, order) = match entry.split_once(' ') {
        None => (entry, SortOrder::Ascending),
        Some((name, "ASC")) => (name, SortOrder::Ascending),
        Some((name, "DESC")) => (name, SortOrder::Descending),
        Some(_) => return None,
    };
    Some((SqlIdent::parse(name)?, order))
}

pub(super) fn max_packet_size(spec: &MqttSpec, problems: &mut Problems) -> Option<u32> {
    let bytes = problems.size("mqtt.maxPacketSize", &spec.max_packet_size)?;
    problems.refuse_if(bytes > LARGEST_MQTT_PACKET_BYTES, || {
        format!(
            "mqtt.maxPacketSize {} is more than MQTT's own limit of {LARGEST_MQTT_PACKET_BYTES}",
            spec.max_packet_size
        )
    });
    u32::try_from(bytes).ok()
}

pub(super) fn record_bytes(max_packet_size: u32) -> u32 {
    u32::try_from(u64::from(max_packet_size) + RECORD_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

pub(super) fn is_nullable(spec: &TimescaleSpec, column: &str) -> bool {
    let declared = spec.columns.iter().find(|candidate| candidate.name == column);
    column != spec.time_column && declared.and_then(|column| column.nullable).unwrap_or(true)
}
