//! The stores of a spec: the Kafka topic, the hypertable and how to reach the database. Synchronous, no client.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    database::DatabaseAccess,
    names,
    pipeline::{ColumnType, KafkaSpec, MqttSpec, TimescaleSpec},
    status::Reason,
    worker::PipelineId,
};
use k8s_openapi::api::core::v1::Secret;

use super::{Secrets, problems::Problems};
use crate::pipeline::{Column, Index, SortOrder, SqlIdent, Table, Topic, TopicName};

/// What a Kafka record needs beside the MQTT packet it came from, bytes: its key, and as much again for the headers.
/// The bridge leaves user properties out, and says so, before a record grows larger.
const RECORD_OVERHEAD_BYTES: u64 = 2 * (names::MAX_KEY_BYTES as u64 + 1);

/// The largest MQTT packet the protocol knows (MQTT-2.1.4), bytes.
const LARGEST_MQTT_PACKET_BYTES: u64 = 268_435_455;

pub(super) fn topic(
    spec: &KafkaSpec,
    max_packet_size: Option<u32>,
    id: &PipelineId,
    problems: &mut Problems,
) -> Option<Topic> {
    let name = problems.require(TopicName::parse(&spec.topic.name), || {
        format!("kafka.topic.name {:?} is no topic name; use 1 to 249 of A-Z a-z 0-9 . _ -", spec.topic.name)
    });
    let retention = problems.duration("kafka.topic.retention", &spec.topic.retention);
    for managed in ["retention.ms", "max.message.bytes"] {
        problems.refuse_if(spec.topic.config.contains_key(managed), || {
            format!(
                "kafka.topic.config must not hold {managed}; set kafka.topic.retention or mqtt.maxPacketSize"
            )
        });
    }
    let mut config: BTreeMap<String, String> =
        spec.topic.config.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
    config.insert("retention.ms".to_owned(), retention?.as_millis().to_string());
    Some(Topic {
        bootstrap_servers: bootstrap_servers(spec, id),
        name: name?,
        partitions: spec.topic.partitions,
        replication_factor: spec.topic.replication_factor,
        config,
        min_max_message_bytes: record_bytes(max_packet_size?),
    })
}

pub(super) fn table(spec: &TimescaleSpec, problems: &mut Problems) -> Option<Table> {
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
    let indexes = indexes(spec, problems);
    let chunk_interval = problems.duration("timescale.chunkInterval", &spec.chunk_interval);
    let drop_after = problems.optional_duration(
        "timescale.retention.dropAfter",
        spec.retention.as_ref().map(|retention| &retention.drop_after),
    );
    Some(Table {
        schema: schema?,
        name: name?,
        columns: columns?,
        time_column: time_column?,
        chunk_interval: chunk_interval?,
        indexes: indexes?,
        drop_after: drop_after?,
    })
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

fn indexes(spec: &TimescaleSpec, problems: &mut Problems) -> Option<Vec<Index>> {
    let declared = |name: &str| spec.columns.iter().any(|column| column.name == name);
    let mut indexes = Vec::with_capacity(spec.indexes.len());
    for index in &spec.indexes {
        let mut columns = Vec::with_capacity(index.columns.len());
        for entry in &index.columns {
            let (name, order) = match entry.split_once(' ') {
                None => (entry.as_str(), SortOrder::Ascending),
                Some((name, "ASC")) => (name, SortOrder::Ascending),
                Some((name, "DESC")) => (name, SortOrder::Descending),
                Some(_) => (entry.as_str(), SortOrder::Ascending),
            };
            let name = problems.require(SqlIdent::parse(name).filter(|_| declared(name)), || {
                format!("timescale.indexes entry {entry:?} must be a declared column, alone or followed by ASC or DESC")
            })?;
            columns.push((name, order));
        }
        indexes.push(Index { columns });
    }
    Some(indexes)
}

pub(super) fn database(
    spec: &TimescaleSpec,
    secrets: &Secrets,
    id: &PipelineId,
    problems: &mut Problems,
) -> Option<DatabaseAccess> {
    let secret = problems.secret("timescale.secretRef", &spec.secret_ref.name, secrets, id)?;
    match DatabaseAccess::from_secret(|key| text_of(secret, key), &id.namespace) {
        Ok(access) => Some(access),
        Err(error) => {
            problems.note(
                Reason::SecretInvalid,
                format!("timescale.secretRef: Secret {}/{} {error}", id.namespace, spec.secret_ref.name),
            );
            None
        }
    }
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

pub(super) fn bootstrap_servers(spec: &KafkaSpec, id: &PipelineId) -> String {
    let full = |server: &str| match server.rsplit_once(':') {
        Some((host, port)) => format!("{}:{port}", names::service_host(host, &id.namespace)),
        None => server.to_owned(),
    };
    spec.bootstrap_servers.split(',').map(full).collect::<Vec<_>>().join(",")
}

pub(super) fn is_nullable(spec: &TimescaleSpec, column: &str) -> bool {
    let declared = spec.columns.iter().find(|candidate| candidate.name == column);
    column != spec.time_column && declared.and_then(|column| column.nullable).unwrap_or(true)
}

pub(super) fn text_of(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}
