//! Reads what the planner needs, in one read-only transaction. I/O.

use std::time::Duration;

use crds::{
    names::{MARKER_TABLE, TOPIC_MARKER_TABLE, VERSION_TABLE, dead_letter_table},
    worker::PipelineId,
};
use sqlx::{Connection, PgConnection, Row, postgres::PgRow, postgres::types::Oid};

use super::{
    Edition, InstalledExtension, ObservedColumn, ObservedExtension, ObservedHypertable, ObservedIndex,
    ObservedRelation, ObservedRetention, ObservedTable, Rights, bookkeeping,
    execute::{statement, tables_exist},
    sql::qualified,
};
use crate::{
    kafka::TopicKey,
    pipeline::{SortOrder, Table},
};

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
    if observed.rights.create_in_schema && observed.rights.use_bookkeeping {
        read_bookkeeping(connection, table, topic, &mut observed).await?;
    }
    let has_timescale = observed.extension.installed.is_some();
    observed.table = read_relation(connection, schema, table.name.as_str(), has_timescale).await?;
    let dead_letters = dead_letter_table(table.name.as_str());
    observed.dead_letters = read_relation(connection, schema, &dead_letters, has_timescale).await?;
    transaction.rollback().await?;
    Ok(observed)
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

/// The pipeline that created the table. The bookkeeping tables must exist.
pub(super) async fn table_marker(
    connection: &mut PgConnection,
    table: &Table,
) -> sqlx::Result<Option<PipelineId>> {
    statement(format!(
        "SELECT cluster_name, namespace, pipeline FROM {} WHERE table_name = $1",
        qualified(table.schema.as_str(), MARKER_TABLE)
    ))
    .bind(table.name.as_str().to_owned())
    .fetch_optional(connection)
    .await?
    .map(|row| read_marker(&row))
    .transpose()
}

async fn read_server(connection: &mut PgConnection, schema: &str) -> sqlx::Result<ObservedTable> {
    let row = statement(
        "SELECT split_part(current_setting('server_version'), ' ', 1) AS server_version, \
           current_database()::text AS database, current_user::text AS role, \
           current_setting('is_superuser') = 'on' AS superuser, \
           has_database_privilege(current_database(), 'CREATE') AS create_in_database, \
           EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') AS available, \
           EXISTS (SELECT FROM pg_available_extension_versions WHERE name = 'timescaledb' AND trusted) AS trusted, \
           (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS version, \
           current_setting('timescaledb.license', true) AS license, \
           (SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') \
              FROM pg_namespace WHERE nspname = $1) AS create_in_schema, \
           (SELECT bool_and(has_table_privilege(pg_class.oid, 'SELECT') AND has_table_privilege(pg_class.oid, 'INSERT') \
                        AND has_table_privilege(pg_class.oid, 'UPDATE') AND has_table_privilege(pg_class.oid, 'DELETE')) \
              FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
             WHERE nspname = $1 AND relname = ANY($2)) AS use_bookkeeping",
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
            use_bookkeeping: row.try_get::<Option<bool>, _>("use_bookkeeping")?.unwrap_or(true),
        },
        schema_exists: create_in_schema.is_some(),
        bookkeeping_version: 0,
        marker: None,
        topic_marker: None,
        table: None,
        dead_letters: None,
    })
}

async fn read_bookkeeping(
    connection: &mut PgConnection,
    table: &Table,
    topic: Option<&TopicKey>,
    observed: &mut ObservedTable,
) -> sqlx::Result<()> {
    let schema = table.schema.as_str();
    if !tables_exist(connection, schema, &bookkeeping::TABLES).await? {
        return Ok(());
    }
    observed.bookkeeping_version =
        statement(format!("SELECT coalesce(max(version), 0) FROM {}", qualified(schema, VERSION_TABLE)))
            .fetch_one(&mut *connection)
            .await?
            .try_get(0)?;
    observed.marker = table_marker(connection, table).await?;
    if let Some(topic) = topic {
        observed.topic_marker = topic_marker(connection, schema, topic).await?;
    }
    Ok(())
}

async fn read_relation(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
    has_timescale: bool,
) -> sqlx::Result<Option<ObservedRelation>> {
    let row = statement(
        "SELECT pg_class.oid, relkind = 'r' AS is_table, pg_has_role(relowner, 'USAGE') AS owned \
         FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND relname = $2",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let oid: Oid = row.try_get("oid")?;
    let mut relation = ObservedRelation {
        is_table: row.try_get("is_table")?,
        owned: row.try_get("owned")?,
        hypertable: None,
        columns: read_columns(connection, oid).await?,
        indexes: read_indexes(connection, oid).await?,
        retention: None,
    };
    if has_timescale {
        relation.hypertable = read_hypertable(connection, schema, name).await?;
        relation.retention = read_retention(connection, schema, name).await?;
    }
    Ok(Some(relation))
}

async fn read_columns(connection: &mut PgConnection, table: Oid) -> sqlx::Result<Vec<ObservedColumn>> {
    let rows = statement(
        "SELECT attname::text AS name, format_type(atttypid, atttypmod) AS sql_type, \
           NOT attnotnull AS nullable, atthasdef OR attidentity <> '' AS has_default \
         FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(ObservedColumn {
                name: row.try_get("name")?,
                sql_type: row.try_get("sql_type")?,
                nullable: row.try_get("nullable")?,
                has_default: row.try_get("has_default")?,
            })
        })
        .collect()
}

async fn read_indexes(connection: &mut PgConnection, table: Oid) -> sqlx::Result<Vec<ObservedIndex>> {
    let rows = statement(
        "SELECT pg_class.relname::text AS name, \
           amname = 'btree' AND indisvalid AND indpred IS NULL AND indexprs IS NULL AND indnkeyatts = indnatts AS plain, \
           columns, options \
         FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam \
         CROSS JOIN LATERAL \
           (SELECT array_agg(attname::text ORDER BY position) AS columns, array_agg(option ORDER BY position) AS options \
              FROM unnest(indkey::int2[], indoption::int2[]) WITH ORDINALITY AS key (attribute, option, position) \
              LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = attribute) AS keys \
         WHERE indrelid = $1",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let columns: Vec<Option<String>> = row.try_get("columns")?;
            let options: Vec<Option<i16>> = row.try_get("options")?;
            // NULLS LAST for ascending and NULLS FIRST for descending, as `CREATE INDEX` has it by itself.
            let orders = options.into_iter().map(|option| match option {
                Some(0) => Some(SortOrder::Ascending),
                Some(3) => Some(SortOrder::Descending),
                _ => None,
            });
            let columns: Option<Vec<_>> =
                columns.into_iter().zip(orders).map(|(column, order)| column.zip(order)).collect();
            let is_plain: bool = row.try_get("plain")?;
            Ok(ObservedIndex {
                name: row.try_get("name")?,
                columns: columns.filter(|_| is_plain).unwrap_or_default(),
            })
        })
        .collect()
}

async fn read_hypertable(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
) -> sqlx::Result<Option<ObservedHypertable>> {
    let row = statement(
        "SELECT column_name::text AS time_column, extract(epoch FROM time_interval)::bigint AS chunk_seconds, \
           num_chunks > 0 AS has_chunks \
         FROM timescaledb_information.hypertables JOIN timescaledb_information.dimensions \
           USING (hypertable_schema, hypertable_name) \
         WHERE hypertable_schema = $1 AND hypertable_name = $2 AND dimension_number = 1",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(ObservedHypertable {
            time_column: row.try_get("time_column")?,
            chunk_interval: row.try_get::<Option<i64>, _>("chunk_seconds")?.and_then(seconds),
            has_chunks: row.try_get("has_chunks")?,
        })
    })
    .transpose()
}

async fn read_retention(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
) -> sqlx::Result<Option<ObservedRetention>> {
    let row = statement(
        "SELECT extract(epoch FROM (config ->> 'drop_after')::interval)::bigint AS drop_after, \
           extract(epoch FROM schedule_interval)::bigint AS check_interval, scheduled \
         FROM timescaledb_information.jobs \
         WHERE proc_name = 'policy_retention' AND hypertable_schema = $1 AND hypertable_name = $2",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(ObservedRetention {
            drop_after: row.try_get::<Option<i64>, _>("drop_after")?.and_then(seconds),
            check_interval: seconds(row.try_get("check_interval")?).unwrap_or_default(),
            scheduled: row.try_get("scheduled")?,
        })
    })
    .transpose()
}

fn seconds(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
