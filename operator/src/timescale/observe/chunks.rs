//! Measures a table's last chunks. I/O.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use crate::timescale::{ChunkSizes, chunks::MEASURED, execute::statement, sql::interval};

/// What the last full chunks of this interval take. What is in the columnstore says nothing of what was written.
pub(in crate::timescale) async fn read_chunk_sizes(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
    chunk_interval: Duration,
) -> sqlx::Result<ChunkSizes> {
    let row = statement(format!(
        "WITH chunks AS MATERIALIZED (SELECT * FROM timescaledb_information.chunks \
             WHERE hypertable_schema = $1 AND hypertable_name = $2) \
         SELECT (SELECT count(*) FROM chunks) AS number, \
           ARRAY(SELECT coalesce(pg_total_relation_size(pg_class.oid), 0) \
             FROM (SELECT * FROM chunks WHERE NOT is_compressed AND range_end <= now() AND range_end - range_start = {} \
                     ORDER BY range_end DESC LIMIT {MEASURED}) AS last_full \
               JOIN pg_namespace ON nspname = chunk_schema \
               JOIN pg_class ON relnamespace = pg_namespace.oid AND relname = chunk_name) AS last_full, \
           pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers, \
           pg_size_bytes(current_setting('effective_cache_size')) AS effective_cache_size",
        interval(chunk_interval)
    ))
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_one(connection)
    .await?;
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    Ok(ChunkSizes {
        number: row.try_get("number")?,
        last_full: row.try_get::<Vec<i64>, _>("last_full")?.into_iter().map(bytes).collect(),
        shared_buffers: bytes(row.try_get("shared_buffers")?),
        effective_cache_size: bytes(row.try_get("effective_cache_size")?),
    })
}
