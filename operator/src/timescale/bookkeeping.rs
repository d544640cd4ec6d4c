//! The operator's own tables in the table's schema, whose columns crds::names documents, and the markers in
//! them. Pure: SQL only.
//!
//! The tables have a version. A schema at version n runs the migrations after the n-th, so a new operator brings
//! old tables up; an old one refuses tables that are newer than it knows.

use crds::{
    names::{FEED_TABLE, MARKER_TABLE, POSITION_TABLE, TOPIC_MARKER_TABLE, VERSION_TABLE, dead_letter_table},
    worker::PipelineId,
};

use super::{
    Retention, TableStep,
    sql::{literal, qualified},
};
use crate::{change::adoption_of, kafka::TopicKey};

/// The bookkeeping tables; `_iotpipeline_version` says up to where they exist.
pub(super) const TABLES: [&str; 5] =
    [VERSION_TABLE, MARKER_TABLE, TOPIC_MARKER_TABLE, POSITION_TABLE, FEED_TABLE];

/// The version that this operator makes and knows.
pub(super) const CURRENT_VERSION: i32 = MIGRATIONS.len() as i32;

/// The first version whose markers say what was last applied, and that has feeds.
pub(super) const FEEDS_SINCE: i32 = 2;

/// The first version in which all dead letters have a marker of their own. Before, only those of a table that is
/// somebody else's had one; those of another were the ones of the table's pipeline.
pub(super) const DEAD_LETTER_MARKERS_SINCE: i32 = 3;

/// The first version whose markers say what was adopted.
pub(super) const ADOPTION_SINCE: i32 = 4;

/// Each makes version n + 1 of version n.
const MIGRATIONS: [fn(&str) -> String; 5] =
    [first_tables, feeds_and_retention, dead_letter_markers, adoption, rollups];

/// Brings the bookkeeping of a schema from a version to the current one; `None` where it is current.
pub(super) fn migrate(schema: &str, from_version: i32) -> Option<TableStep> {
    let done = usize::try_from(from_version).unwrap_or(0);
    let pending = MIGRATIONS.get(done..).filter(|pending| !pending.is_empty())?;
    let mut sql: String = pending.iter().map(|migration| migration(schema)).collect();
    // Two pipelines may make the tables of a new schema one after the other: one row all the same.
    let version = qualified(schema, VERSION_TABLE);
    sql.push_str(&format!(
        "INSERT INTO {version} (version) SELECT 0 WHERE NOT EXISTS (SELECT FROM {version});\n\
         UPDATE {version} SET version = {CURRENT_VERSION};\n"
    ));
    Some(TableStep { changes: Vec::new(), sql })
}

/// Says that this pipeline creates the hypertable, or adopts it, and how long its rows stay. Fails where there is a marker
/// already.
pub(super) fn claim(
    schema: &str,
    hypertable: &str,
    pipeline: &PipelineId,
    retention: Retention,
    is_dead_letters: bool,
    is_adopted: bool,
) -> TableStep {
    let sql = format!(
        "INSERT INTO {} (table_name, cluster_name, namespace, pipeline, drop_after_seconds, is_dead_letters, \
         adopted) VALUES ({}, {}, {}, {is_dead_letters}, {is_adopted});\n",
        qualified(schema, MARKER_TABLE),
        literal(hypertable),
        identity(pipeline),
        retention_seconds(retention),
    );
    let adoption = is_adopted.then(|| adoption_of(format!("table {schema}.{hypertable}")));
    TableStep { changes: adoption.into_iter().collect(), sql }
}

/// What a person runs so that the dead letters are another pipeline's to keep.
pub(super) fn hand_over_dead_letters(schema: &str, table: &str, pipeline: &PipelineId) -> String {
    format!(
        "UPDATE {} SET (cluster_name, namespace, pipeline) = ({}) WHERE table_name = {};",
        qualified(schema, MARKER_TABLE),
        identity(pipeline),
        literal(&dead_letter_table(table)),
    )
}

/// Says that this pipeline writes into the table from the topic. Fails where another one does.
pub(super) fn claim_feed(schema: &str, table: &str, pipeline: &PipelineId, topic: &TopicKey) -> TableStep {
    let sql = format!(
        "INSERT INTO {} (table_name, kafka_cluster_id, topic, cluster_name, namespace, pipeline) \
         VALUES ({}, {}, {}, {});\n",
        qualified(schema, FEED_TABLE),
        literal(table),
        literal(&topic.cluster_id),
        literal(topic.topic.as_str()),
        identity(pipeline),
    );
    TableStep { changes: Vec::new(), sql }
}

/// What a person runs so that another pipeline may write into the table from the topic.
pub(super) fn release_feed(schema: &str, table: &str, topic: &TopicKey) -> String {
    format!(
        "DELETE FROM {} WHERE table_name = {} AND kafka_cluster_id = {} AND topic = {};",
        qualified(schema, FEED_TABLE),
        literal(table),
        literal(&topic.cluster_id),
        literal(topic.topic.as_str()),
    )
}

/// Notes how long rows stay from now on.
pub(super) fn record_retention(schema: &str, hypertable: &str, retention: Retention) -> String {
    format!(
        "UPDATE {} SET drop_after_seconds = {} WHERE table_name = {};\n",
        qualified(schema, MARKER_TABLE),
        retention_seconds(retention),
        literal(hypertable),
    )
}

/// Forgets which topics are written into the table.
pub(super) fn forget_feeds(schema: &str, table: &str) -> String {
    format!("DELETE FROM {} WHERE table_name = {};\n", qualified(schema, FEED_TABLE), literal(table))
}

/// Positions tell which records are rows of the table. In a new, empty table none are, and a table that goes
/// takes them along.
pub(super) fn forget_positions(schema: &str, table: &str) -> TableStep {
    let sql =
        format!("DELETE FROM {} WHERE table_name = {};\n", qualified(schema, POSITION_TABLE), literal(table));
    TableStep { changes: Vec::new(), sql }
}

/// The values of `cluster_name, namespace, pipeline`.
pub(super) fn identity(pipeline: &PipelineId) -> String {
    [&pipeline.cluster_name, &pipeline.namespace, &pipeline.name].map(|part| literal(part)).join(", ")
}

/// As it is noted; 0 where rows stay for ever.
pub(super) fn retention_seconds(retention: Retention) -> u64 {
    match retention {
        Retention::For(duration) => duration.as_secs(),
        Retention::ForEver => 0,
    }
}

fn first_tables(schema: &str) -> String {
    let [version, markers, topic_markers, positions] =
        [VERSION_TABLE, MARKER_TABLE, TOPIC_MARKER_TABLE, POSITION_TABLE]
            .map(|table| qualified(schema, table));
    format!(
        "CREATE TABLE IF NOT EXISTS {version} (version int NOT NULL);\n\
         CREATE TABLE IF NOT EXISTS {markers} (\n  \
           table_name text PRIMARY KEY,\n  \
           cluster_name text NOT NULL,\n  \
           namespace text NOT NULL,\n  \
           pipeline text NOT NULL,\n  \
           created_at timestamptz NOT NULL DEFAULT now()\n\
         );\n\
         CREATE TABLE IF NOT EXISTS {topic_markers} (\n  \
           kafka_cluster_id text NOT NULL,\n  \
           topic text NOT NULL,\n  \
           cluster_name text NOT NULL,\n  \
           namespace text NOT NULL,\n  \
           pipeline text NOT NULL,\n  \
           created_at timestamptz NOT NULL DEFAULT now(),\n  \
           PRIMARY KEY (kafka_cluster_id, topic)\n\
         );\n\
         CREATE TABLE IF NOT EXISTS {positions} (\n  \
           table_name text NOT NULL,\n  \
           kafka_cluster_id text NOT NULL,\n  \
           topic text NOT NULL,\n  \
           partition int NOT NULL,\n  \
           next_offset bigint NOT NULL,\n  \
           last_offset bigint,\n  \
           last_timestamp timestamptz,\n  \
           last_hash bytea,\n  \
           updated_at timestamptz NOT NULL DEFAULT now(),\n  \
           PRIMARY KEY (table_name, kafka_cluster_id, topic, partition)\n\
         );\n"
    )
}

fn feeds_and_retention(schema: &str) -> String {
    let [markers, feeds] = [MARKER_TABLE, FEED_TABLE].map(|table| qualified(schema, table));
    format!(
        "ALTER TABLE {markers} ADD COLUMN IF NOT EXISTS drop_after_seconds bigint;\n\
         ALTER TABLE {markers} ADD COLUMN IF NOT EXISTS is_dead_letters boolean NOT NULL DEFAULT false;\n\
         CREATE TABLE IF NOT EXISTS {feeds} (\n  \
           table_name text NOT NULL,\n  \
           kafka_cluster_id text NOT NULL,\n  \
           topic text NOT NULL,\n  \
           cluster_name text NOT NULL,\n  \
           namespace text NOT NULL,\n  \
           pipeline text NOT NULL,\n  \
           created_at timestamptz NOT NULL DEFAULT now(),\n  \
           PRIMARY KEY (table_name, kafka_cluster_id, topic)\n\
         );\n"
    )
}

fn dead_letter_markers(schema: &str) -> String {
    let markers = qualified(schema, MARKER_TABLE);
    format!(
        "INSERT INTO {markers} (table_name, cluster_name, namespace, pipeline, is_dead_letters)\n  \
           SELECT table_name || {}, cluster_name, namespace, pipeline, true FROM {markers} WHERE NOT is_dead_letters\n  \
           ON CONFLICT DO NOTHING;\n",
        literal(&dead_letter_table(""))
    )
}

fn adoption(schema: &str) -> String {
    [MARKER_TABLE, TOPIC_MARKER_TABLE]
        .map(|table| {
            let table = qualified(schema, table);
            format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS adopted boolean NOT NULL DEFAULT false;\n")
        })
        .concat()
}

/// The markers of rollups, which are in one table with the others because all of these share the names of a schema.
fn rollups(schema: &str) -> String {
    let markers = qualified(schema, MARKER_TABLE);
    format!(
        "ALTER TABLE {markers} ADD COLUMN IF NOT EXISTS rollup_of text;\n\
         ALTER TABLE {markers} ADD COLUMN IF NOT EXISTS definition text;\n\
         ALTER TABLE {markers} ADD COLUMN IF NOT EXISTS filled_to timestamptz;\n\
         ALTER TABLE {markers} ADD COLUMN IF NOT EXISTS is_filled boolean;\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_schema_gets_all_tables_and_a_current_one_nothing() {
        insta::assert_snapshot!(migrate("plant_7", 0).unwrap().sql);
        insta::assert_snapshot!("older_bookkeeping_is_brought_up", migrate("plant_7", 1).unwrap().sql);
        assert_eq!(migrate("plant_7", CURRENT_VERSION), None);
        assert_eq!(migrate("plant_7", CURRENT_VERSION + 1), None);
    }
}
