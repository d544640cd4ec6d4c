//! Reads what the planner needs, in one read-only transaction. I/O.

use std::time::Duration;

use crds::{
    names::{FEED_TABLE, MARKER_TABLE, TOPIC_MARKER_TABLE, VERSION_TABLE, dead_letter_table},
    worker::PipelineId,
};
use sqlx::{Connection, PgConnection, Row, postgres::PgRow};

use super::{
    Edition, InstalledExtension, KnownRetention, ObservedExtension, ObservedFeed, ObservedJobs,
    ObservedRelation, ObservedTable, ObservedWriter, Retention, Rights, bookkeeping,
    execute::{statement, tables_exist},
    sql::qualified,
};
use crate::{kafka::TopicKey, pipeline::Table};

mod chunks;
mod jobs;
mod relation;
mod rollups;
mod writer;

pub(super) use chunks::read_chunk_sizes;
use jobs::read_jobs;
use relation::{read_expired, read_relation};
use rollups::read_rollups;
use writer::read_writer;

/// Reads everything that belongs to the table.
pub(super) async fn observe(
    connection: &mut PgConnection,
    table: &Table,
    topic: Option<&TopicKey>,
) -> sqlx::Result<ObservedTable> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let connection = &mut *transaction;
    let schema = table.schema.as_str();

    let mut observed = read_server(connection, schema).await?;
    // Without these rights nothing of the bookkeeping can be read, and nothing is planned either.
    if observed.rights.create_in_schema && observed.rights.unusable_bookkeeping.is_empty() {
        read_bookkeeping(connection, table, topic, &mut observed).await?;
    }
    observed.writer = read_writer(connection, table).await?;
    let extension = observed.extension.installed.as_ref();
    observed.table = read_relation(connection, schema, table.name.as_str(), extension).await?;
    let dead_letters = dead_letter_table(table.name.as_str());
    observed.dead_letters = read_relation(connection, schema, &dead_letters, extension).await?;
    let edition = observed.edition();
    let drop_after = table.wanted.as_ref().and_then(|wanted| wanted.drop_after);
    for (name, relation, drop_after, known) in [
        (table.name.as_str(), &observed.table, drop_after, &mut observed.retention),
        (
            &dead_letters,
            &observed.dead_letters,
            table.dead_letters_drop_after,
            &mut observed.dead_letter_retention,
        ),
    ] {
        if let Some(drop_after) =
            drop_after.filter(|drop_after| matters(*drop_after, relation, known, edition))
        {
            known.expired = Some(read_expired(connection, schema, name, drop_after).await?);
        }
    }
    observed.rollups = read_rollups(connection, table, &observed).await?;
    if edition == Some(Edition::Community) {
        // The policies of a table that is somebody else's are theirs to look after.
        let table = table.wanted.as_ref().map(|_| table.name.to_string());
        let rollups = observed.rollups.iter().filter(|rollup| rollup.marker.is_some());
        let rollups = rollups.map(|rollup| rollup.name.clone());
        let hypertables = table.into_iter().chain([dead_letters]).chain(rollups).collect();
        observed.jobs = read_jobs(connection, schema, hypertables).await?;
    }
    transaction.rollback().await?;
    Ok(observed)
}

/// Whether there are rows that would stay for a shorter time than before, if they do not already, or go by the operator's
/// own hand.
fn matters(
    drop_after: Duration,
    relation: &Option<ObservedRelation>,
    known: &KnownRetention,
    edition: Option<Edition>,
) -> bool {
    relation.as_ref().is_some_and(ObservedRelation::has_chunks)
        && (edition == Some(Edition::Apache2)
            || known.applied.is_none_or(|applied| Retention::For(drop_after) < applied))
}

/// The version of the bookkeeping tables; 0 where there are none.
pub(super) async fn bookkeeping_version(connection: &mut PgConnection, schema: &str) -> sqlx::Result<i32> {
    if !tables_exist(connection, schema, &[VERSION_TABLE]).await? {
        return Ok(0);
    }
    statement(format!("SELECT coalesce(max(version), 0) FROM {}", qualified(schema, VERSION_TABLE)))
        .fetch_one(connection)
        .await?
        .try_get(0)
}

/// The schema of TimescaleDB's functions; `None` without the extension.
pub(super) async fn functions_schema(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    statement(
        "SELECT nspname::text FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace \
         WHERE extname = 'timescaledb'",
    )
    .fetch_optional(connection)
    .await?
    .map(|row| row.try_get(0))
    .transpose()
}

/// A marker by the query that finds it.
pub(super) fn read_marker(row: &PgRow) -> sqlx::Result<PipelineId> {
    Ok(PipelineId {
        cluster_name: row.try_get("cluster_name")?,
        namespace: row.try_get("namespace")?,
        name: row.try_get("pipeline")?,
    })
}

/// The pipeline that created the topic. The bookkeeping tables must exist.
pub(super) async fn topic_marker(
    connection: &mut PgConnection,
    schema: &str,
    topic: &TopicKey,
) -> sqlx::Result<Option<PipelineId>> {
    statement(format!(
        "SELECT cluster_name, namespace, pipeline FROM {} WHERE kafka_cluster_id = $1 AND topic = $2",
        qualified(schema, TOPIC_MARKER_TABLE)
    ))
    .bind(topic.cluster_id.clone())
    .bind(topic.topic.as_str().to_owned())
    .fetch_optional(connection)
    .await?
    .map(|row| read_marker(&row))
    .transpose()
}

async fn is_topic_adopted(
    connection: &mut PgConnection,
    schema: &str,
    topic: &TopicKey,
) -> sqlx::Result<bool> {
    statement(format!(
        "SELECT coalesce(bool_or(adopted), false) FROM {} WHERE kafka_cluster_id = $1 AND topic = $2",
        qualified(schema, TOPIC_MARKER_TABLE)
    ))
    .bind(topic.cluster_id.clone())
    .bind(topic.topic.as_str().to_owned())
    .fetch_one(connection)
    .await?
    .try_get(0)
}

/// The pipeline that created the table. The bookkeeping tables must exist.
pub(super) async fn table_marker(
    connection: &mut PgConnection,
    table: &Table,
) -> sqlx::Result<Option<PipelineId>> {
    hypertable_marker(connection, table, table.name.as_str(), false).await
}

/// The pipeline that created the table's dead letters. The bookkeeping tables must exist.
pub(super) async fn dead_letter_marker(
    connection: &mut PgConnection,
    table: &Table,
) -> sqlx::Result<Option<PipelineId>> {
    hypertable_marker(connection, table, &dead_letter_table(table.name.as_str()), true).await
}

async fn hypertable_marker(
    connection: &mut PgConnection,
    table: &Table,
    hypertable: &str,
    is_dead_letters: bool,
) -> sqlx::Result<Option<PipelineId>> {
    // In version 1 the column is missing, and no marker is one of dead letters.
    statement(format!(
        "SELECT cluster_name, namespace, pipeline FROM {} AS marker WHERE table_name = $1 \
         AND coalesce((to_jsonb(marker) ->> 'is_dead_letters')::boolean, false) = $2",
        qualified(table.schema.as_str(), MARKER_TABLE)
    ))
    .bind(hypertable.to_owned())
    .bind(is_dead_letters)
    .fetch_optional(connection)
    .await?
    .map(|row| read_marker(&row))
    .transpose()
}

async fn read_server(connection: &mut PgConnection, schema: &str) -> sqlx::Result<ObservedTable> {
    // A server that has preloaded the library knows its settings in every database. What could be installed is asked only
    // where nothing is: for either of these views the server reads the files of every extension that it has.
    let row = statement(
        "SELECT split_part(current_setting('server_version'), ' ', 1) AS server_version, \
           current_database()::text AS database, current_user::text AS role, \
           current_setting('is_superuser') = 'on' AS superuser, \
           has_database_privilege(current_database(), 'CREATE') AS create_in_database, \
           (version IS NOT NULL OR EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')) \
             AND current_setting('timescaledb.disable_load', true) IS NOT NULL AS available, \
           version IS NULL \
             AND EXISTS (SELECT FROM pg_available_extension_versions WHERE name = 'timescaledb' AND trusted) AS trusted, \
           version, current_setting('timescaledb.license', true) AS license, \
           (SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') \
              FROM pg_namespace WHERE nspname = $1) AS create_in_schema, \
           unusable, foreign_owned \
         FROM (SELECT (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS version) AS extension \
         CROSS JOIN (SELECT \
             coalesce(array_agg(relname::text ORDER BY relname) FILTER (WHERE NOT ( \
               has_table_privilege(pg_class.oid, 'SELECT') AND has_table_privilege(pg_class.oid, 'INSERT') \
               AND has_table_privilege(pg_class.oid, 'UPDATE') AND has_table_privilege(pg_class.oid, 'DELETE'))), '{}') \
               AS unusable, \
             coalesce(array_agg(relname::text ORDER BY relname) FILTER (WHERE NOT pg_has_role(relowner, 'USAGE')), '{}') \
               AS foreign_owned \
           FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
           WHERE nspname = $1 AND relname = ANY($2)) AS bookkeeping",
    )
    .bind(schema.to_owned())
    .bind(bookkeeping::TABLES.map(str::to_owned).to_vec())
    .fetch_one(&mut *connection)
    .await?;

    let create_in_schema: Option<bool> = row.try_get("create_in_schema")?;
    let version: Option<String> = row.try_get("version")?;
    let license: Option<String> = row.try_get("license")?;
    let edition = if license.as_deref() == Some("timescale") { Edition::Community } else { Edition::Apache2 };
    let functions = functions_schema(connection).await?;
    Ok(ObservedTable {
        server_version: row.try_get("server_version")?,
        database: row.try_get("database")?,
        role: row.try_get("role")?,
        extension: ObservedExtension {
            available: row.try_get("available")?,
            trusted: row.try_get("trusted")?,
            installed: version.zip(functions).map(|(version, schema)| InstalledExtension {
                version,
                schema,
                edition,
            }),
        },
        rights: Rights {
            superuser: row.try_get("superuser")?,
            create_in_database: row.try_get("create_in_database")?,
            create_in_schema: create_in_schema.unwrap_or(true),
            unusable_bookkeeping: row.try_get("unusable")?,
            foreign_bookkeeping: row.try_get("foreign_owned")?,
        },
        schema_exists: create_in_schema.is_some(),
        bookkeeping_version: 0,
        marker: None,
        dead_letter_marker: None,
        retention: KnownRetention::default(),
        dead_letter_retention: KnownRetention::default(),
        topic_marker: None,
        topic_adopted: false,
        feed: None,
        writer: ObservedWriter::default(),
        table: None,
        dead_letters: None,
        jobs: ObservedJobs::default(),
        rollups: Vec::new(),
    })
}

async fn read_bookkeeping(
    connection: &mut PgConnection,
    table: &Table,
    topic: Option<&TopicKey>,
    observed: &mut ObservedTable,
) -> sqlx::Result<()> {
    let schema = table.schema.as_str();
    let version = bookkeeping_version(connection, schema).await?;
    observed.bookkeeping_version = version;
    let feed = |pipeline| topic.map(|topic| ObservedFeed { topic: topic.clone(), pipeline });
    observed.feed = feed(None);
    // What a newer operator keeps may have another shape, and is not touched.
    if version == 0 || version > bookkeeping::CURRENT_VERSION {
        return Ok(());
    }
    observed.marker = table_marker(connection, table).await?;
    observed.dead_letter_marker = match dead_letter_marker(connection, table).await? {
        None if version < bookkeeping::DEAD_LETTER_MARKERS_SINCE => observed.marker.clone(),
        marker => marker,
    };
    if let Some(topic) = topic {
        observed.topic_marker = topic_marker(connection, schema, topic).await?;
        if version >= bookkeeping::ADOPTION_SINCE {
            observed.topic_adopted = is_topic_adopted(connection, schema, topic).await?;
        }
    }
    if version >= bookkeeping::FEEDS_SINCE {
        let dead_letters = dead_letter_table(table.name.as_str());
        observed.retention.applied = applied_retention(connection, schema, table.name.as_str()).await?;
        observed.dead_letter_retention.applied = applied_retention(connection, schema, &dead_letters).await?;
        if let Some(topic) = topic {
            observed.feed = feed(feeding_pipeline(connection, table, topic).await?);
        }
    }
    Ok(())
}

async fn feeding_pipeline(
    connection: &mut PgConnection,
    table: &Table,
    topic: &TopicKey,
) -> sqlx::Result<Option<PipelineId>> {
    statement(format!(
        "SELECT cluster_name, namespace, pipeline FROM {} \
         WHERE table_name = $1 AND kafka_cluster_id = $2 AND topic = $3",
        qualified(table.schema.as_str(), FEED_TABLE)
    ))
    .bind(table.name.as_str().to_owned())
    .bind(topic.cluster_id.clone())
    .bind(topic.topic.as_str().to_owned())
    .fetch_optional(connection)
    .await?
    .map(|row| read_marker(&row))
    .transpose()
}

async fn applied_retention(
    connection: &mut PgConnection,
    schema: &str,
    hypertable: &str,
) -> sqlx::Result<Option<Retention>> {
    let seconds: Option<i64> = statement(format!(
        "SELECT max(drop_after_seconds) FROM {} WHERE table_name = $1",
        qualified(schema, MARKER_TABLE)
    ))
    .bind(hypertable.to_owned())
    .fetch_one(connection)
    .await?
    .try_get(0)?;
    Ok(retention_of_seconds(seconds))
}

/// As the bookkeeping notes it.
fn retention_of_seconds(seconds: Option<i64>) -> Option<Retention> {
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(|seconds| match seconds {
        0 => Retention::ForEver,
        seconds => Retention::For(Duration::from_secs(seconds)),
    })
}
