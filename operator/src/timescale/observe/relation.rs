//! Reads one table with its columns, indexes and what TimescaleDB knows of it. I/O.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{PgConnection, Row, postgres::types::Oid};

use crate::{
    pipeline::SortOrder,
    timescale::{
        ExpiredChunks, InstalledExtension, ObservedColumn, ObservedColumnstore, ObservedHypertable,
        ObservedIndex, ObservedPolicy, ObservedRelation, execute::statement, sql::interval,
    },
};

/// The table, or whatever has its name.
pub(super) async fn read_relation(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
    extension: Option<&InstalledExtension>,
) -> sqlx::Result<Option<ObservedRelation>> {
    let Some(Class { oid, is_table, owned, .. }) = read_class(connection, schema, name).await? else {
        return Ok(None);
    };
    let mut relation = ObservedRelation {
        is_table,
        owned,
        hypertable: None,
        columns: read_columns(connection, oid).await?,
        indexes: read_indexes(connection, oid).await?,
        retention: None,
        columnstore: None,
        columnstore_policy: None,
    };
    if let Some(extension) = extension {
        relation.hypertable = read_hypertable(connection, schema, name).await?;
        relation.retention = read_policy(connection, schema, name, "policy_retention", "drop_after").await?;
        if extension.has_columnstore() {
            relation.columnstore = read_columnstore(connection, schema, name, oid).await?;
            relation.columnstore_policy =
                read_policy(connection, schema, name, "policy_compression", "compress_after").await?;
        }
    }
    Ok(Some(relation))
}

/// What has a name, as PostgreSQL calls tables, views and whatever else there is.
pub(super) struct Class {
    pub oid: Oid,
    pub is_table: bool,
    pub is_view: bool,
    pub owned: bool,
}

pub(super) async fn read_class(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
) -> sqlx::Result<Option<Class>> {
    let row = statement(
        "SELECT pg_class.oid, relkind = 'r' AS is_table, relkind = 'v' AS is_view, \
           pg_has_role(relowner, 'USAGE') AS owned \
         FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND relname = $2",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(Class {
            oid: row.try_get("oid")?,
            is_table: row.try_get("is_table")?,
            is_view: row.try_get("is_view")?,
            owned: row.try_get("owned")?,
        })
    })
    .transpose()
}

/// The columns of a table or view, in order.
pub(super) async fn read_columns(
    connection: &mut PgConnection,
    table: Oid,
) -> sqlx::Result<Vec<ObservedColumn>> {
    let rows = statement(
        "SELECT attname::text AS name, format_type(atttypid, atttypmod) AS sql_type, \
           NOT attnotnull AS nullable, atthasdef OR attidentity <> '' AS has_default, \
           attgenerated <> '' AS is_generated \
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
                is_generated: row.try_get("is_generated")?,
            })
        })
        .collect()
}

async fn read_indexes(connection: &mut PgConnection, table: Oid) -> sqlx::Result<Vec<ObservedIndex>> {
    let rows = statement(
        "SELECT pg_class.relname::text AS name, \
           indisvalid AS is_valid, \
           amname = 'btree' AND indpred IS NULL AND indexprs IS NULL AND indnkeyatts = indnatts AS plain, \
           indisunique AND indimmediate AND indisvalid AND indpred IS NULL AND indexprs IS NULL AS is_unique, \
           indnkeyatts::int4 AS key_columns, columns, options \
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
            // The columns behind those of the key are only carried along (INCLUDE).
            let key_columns = usize::try_from(row.try_get::<i32, _>("key_columns")?).unwrap_or_default();
            let unique_by: Vec<String> = columns.iter().take(key_columns).flatten().cloned().collect();
            // NULLS LAST for ascending and NULLS FIRST for descending, as `CREATE INDEX` has it by itself.
            let orders = options.into_iter().map(|option| match option {
                Some(0) => Some(SortOrder::Ascending),
                Some(3) => Some(SortOrder::Descending),
                _ => None,
            });
            let columns: Option<Vec<_>> =
                columns.into_iter().zip(orders).map(|(column, order)| column.zip(order)).collect();
            let is_plain: bool = row.try_get("plain")?;
            let is_unique: bool = row.try_get("is_unique")?;
            Ok(ObservedIndex {
                name: row.try_get("name")?,
                is_valid: row.try_get("is_valid")?,
                columns: columns.filter(|_| is_plain).unwrap_or_default(),
                unique_by: if is_unique { unique_by } else { Vec::new() },
            })
        })
        .collect()
}

async fn read_hypertable(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
) -> sqlx::Result<Option<ObservedHypertable>> {
    // Not by the view of dimensions, which numbers those of every hypertable of the database before it looks for these.
    let row = statement(
        "SELECT column_name::text AS time_column, num_chunks > 0 AS has_chunks, \
           CASE WHEN column_type IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) \
             THEN interval_length / 1000000 END AS chunk_seconds \
         FROM timescaledb_information.hypertables \
           JOIN _timescaledb_catalog.hypertable ON schema_name = hypertable_schema AND table_name = hypertable_name \
           JOIN _timescaledb_catalog.dimension ON hypertable_id = hypertable.id \
         WHERE hypertable_schema = $1 AND hypertable_name = $2 ORDER BY dimension.id LIMIT 1",
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

async fn read_columnstore(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
    table: Oid,
) -> sqlx::Result<Option<ObservedColumnstore>> {
    let is_enabled = statement(
        "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables \
         WHERE hypertable_schema = $1 AND hypertable_name = $2 AND compression_enabled)",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_one(&mut *connection)
    .await?
    .try_get(0)?;
    if is_enabled { read_columnstore_settings(connection, table).await } else { Ok(None) }
}

/// The settings of a hypertable that has a columnstore, none of which need be written down.
pub(super) async fn read_columnstore_settings(
    connection: &mut PgConnection,
    hypertable: Oid,
) -> sqlx::Result<Option<ObservedColumnstore>> {
    // Not by the view of these settings: it looks up every hypertable of the database by its name, and fails where the role
    // may not use the schema of one.
    let row = statement(
        "SELECT coalesce(segmentby, '{}') AS segment_by, coalesce(orderby, '{}') AS order_by, \
           coalesce(orderby_desc, '{}') AS descending, coalesce(orderby_nullsfirst, '{}') AS nulls_first \
         FROM (SELECT) AS hypertable LEFT JOIN _timescaledb_catalog.compression_settings ON relid = $1",
    )
    .bind(hypertable)
    .fetch_one(connection)
    .await?;
    let order_by: Vec<String> = row.try_get("order_by")?;
    let descending: Vec<bool> = row.try_get("descending")?;
    let nulls_first: Vec<bool> = row.try_get("nulls_first")?;
    // NULLS LAST for ascending and NULLS FIRST for descending, as an order has it by itself.
    let orders = descending.into_iter().zip(nulls_first).map(|order| match order {
        (false, false) => Some(SortOrder::Ascending),
        (true, true) => Some(SortOrder::Descending),
        _ => None,
    });
    Ok(Some(ObservedColumnstore {
        segment_by: row.try_get("segment_by")?,
        order_by: order_by.into_iter().zip(orders).collect(),
    }))
}

/// The policy of the hypertable, or of the continuous aggregate, whose job runs `procedure` on chunks that are as old as
/// `age` of its settings says.
pub(super) async fn read_policy(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
    procedure: &str,
    age: &str,
) -> sqlx::Result<Option<ObservedPolicy>> {
    let row = statement(
        "SELECT extract(epoch FROM (config ->> $4)::interval)::bigint AS after, \
           extract(epoch FROM schedule_interval)::bigint AS check_interval, scheduled \
         FROM timescaledb_information.jobs \
         WHERE proc_name = $3 AND hypertable_schema = $1 AND hypertable_name = $2",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .bind(procedure.to_owned())
    .bind(age.to_owned())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(ObservedPolicy {
            after: row.try_get::<Option<i64>, _>("after")?.and_then(seconds),
            check_interval: seconds(row.try_get("check_interval")?).unwrap_or_default(),
            scheduled: row.try_get("scheduled")?,
        })
    })
    .transpose()
}

/// The chunks that TimescaleDB would drop now, if rows older than `drop_after` were to go. PostgreSQL's statistics know
/// nothing of rows in the columnstore, and so there is no number of rows where one of the chunks is there.
pub(super) async fn read_expired(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
    drop_after: Duration,
) -> sqlx::Result<ExpiredChunks> {
    let row = statement(format!(
        "SELECT count(*) AS number, extract(epoch FROM min(range_start))::bigint AS oldest, \
           CASE WHEN bool_and(reltuples >= 0 AND NOT is_compressed) THEN sum(reltuples)::bigint END AS rows \
         FROM timescaledb_information.chunks \
           LEFT JOIN pg_namespace ON nspname = chunk_schema \
           LEFT JOIN pg_class ON relnamespace = pg_namespace.oid AND relname = chunk_name \
         WHERE hypertable_schema = $1 AND hypertable_name = $2 AND range_end <= now() - {}",
        interval(drop_after)
    ))
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_one(connection)
    .await?;
    let oldest: Option<i64> = row.try_get("oldest")?;
    Ok(ExpiredChunks {
        number: row.try_get("number")?,
        oldest: oldest.and_then(|second| Timestamp::from_second(second).ok()),
        rows: row.try_get("rows")?,
    })
}

fn seconds(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
