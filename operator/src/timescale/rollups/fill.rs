//! Fills a new rollup with the rows that were there before it, and drops rollups with their table. I/O.
//!
//! A continuous aggregate begins empty. What lies after its last refresh is computed when queried, and what lies before
//! and was never refreshed does not show. So the history is refreshed from its beginning on: at every moment all rows are
//! counted, those that are refreshed and those after. The policy, which would begin near the end, comes when that is done.
//! A refresh cannot run in a transaction, so how far it is gone is written down after each, and it is never gone back:
//! what is filled may be all that is left of rows that were dropped meanwhile.

use std::time::{Duration, Instant};

use crds::{names::MARKER_TABLE, status::ChangeClass};
use sqlx::{PgConnection, Row};

use crate::{
    change::Change,
    pipeline::{Rollup, SqlIdent, Table},
    timescale::{
        execute::{run, statement},
        observe::functions_schema,
        sql::{identifier, interval, literal, qualified, regclass},
    },
};

/// How long a rollup is filled at a time: the workers' configuration waits meanwhile.
const BUDGET: Duration = Duration::from_secs(10);

/// The longest span that is refreshed at once, unless a bucket is longer.
const LONGEST_SPAN: Duration = Duration::from_secs(86_400);

/// A rollup that is to be filled with the rows that were there before it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RollupFill {
    /// The rollup.
    pub name: SqlIdent,
    /// Its bucket.
    pub bucket: Duration,
    /// Up to how long ago.
    pub end_offset: Duration,
}

impl RollupFill {
    pub(super) fn of(rollup: &Rollup) -> Self {
        Self { name: rollup.name.clone(), bucket: rollup.bucket, end_offset: rollup.refresh.end_offset }
    }
}

/// Goes on with it for a while. Answers whether it is filled.
pub(in crate::timescale) async fn fill(
    connection: &mut PgConnection,
    table: &Table,
    fill: &RollupFill,
) -> sqlx::Result<bool> {
    let Some(functions) = functions_schema(connection).await? else { return Ok(false) };
    let (schema, name) = (table.schema.as_str(), fill.name.as_str());
    let markers = qualified(schema, MARKER_TABLE);
    let begin = Instant::now();
    while begin.elapsed() < BUDGET {
        let Some((from, to)) = next_span(connection, schema, fill, &functions).await? else {
            let done = format!("UPDATE {markers} SET is_filled = true WHERE table_name = {}", literal(name));
            run(connection, done).await?;
            return Ok(true);
        };
        let [from, to] = [from, to].map(|second| format!("pg_catalog.to_timestamp({second})"));
        let view = regclass(schema, name);
        run(
            connection,
            format!("CALL {}.refresh_continuous_aggregate({view}, {from}, {to})", identifier(&functions)),
        )
        .await?;
        run(
            connection,
            format!("UPDATE {markers} SET filled_to = {to} WHERE table_name = {}", literal(name)),
        )
        .await?;
    }
    Ok(false)
}

/// The next span to refresh, in whole buckets, as seconds of the epoch: from where it is filled, over the first chunk
/// with rows after that. `None` where all of them are filled.
async fn next_span(
    connection: &mut PgConnection,
    schema: &str,
    fill: &RollupFill,
    functions: &str,
) -> sqlx::Result<Option<(i64, i64)>> {
    let functions = identifier(functions);
    let bucket = interval(fill.bucket);
    let span = interval(fill.bucket.max(LONGEST_SPAN));
    // The first bucket is the one in which the chunk begins; the last one has ended as long ago as the policy wants.
    let row = statement(format!(
        "WITH source AS ( \
           SELECT hypertable.schema_name, hypertable.table_name FROM _timescaledb_catalog.continuous_agg \
             JOIN _timescaledb_catalog.hypertable ON hypertable.id = raw_hypertable_id \
            WHERE user_view_schema = $1 AND user_view_name = $2), \
         filled AS (SELECT filled_to FROM {markers} WHERE table_name = $2), \
         chunk AS ( \
           SELECT range_start, range_end FROM source JOIN timescaledb_information.chunks \
               ON hypertable_schema = schema_name AND hypertable_name = table_name, filled \
            WHERE filled_to IS NULL OR range_end > filled_to ORDER BY range_start LIMIT 1), \
         bounds AS ( \
           SELECT greatest(filled_to, {functions}.time_bucket({bucket}, range_start)) AS low, \
             {functions}.time_bucket({bucket}, range_end - INTERVAL '1 microsecond') + {bucket} AS chunk_end, \
             {functions}.time_bucket({bucket}, now() - {end_offset}) AS limit_end FROM chunk, filled) \
         SELECT extract(epoch FROM low)::bigint AS low, \
           extract(epoch FROM least(chunk_end, limit_end, {functions}.time_bucket({bucket}, low + {span})))::bigint \
             AS high FROM bounds",
        markers = qualified(schema, MARKER_TABLE),
        end_offset = interval(fill.end_offset),
    ))
    .bind(schema.to_owned())
    .bind(fill.name.as_str().to_owned())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (low, high): (i64, i64) = (row.try_get("low")?, row.try_get("high")?);
    Ok((low < high).then_some((low, high)))
}

/// Drops what was made for the table, the last one first. Nothing is dropped along: a view that somebody else built on one
/// is theirs, and they are told. What is no view is somebody's own, and stays.
pub(in crate::timescale) async fn delete(
    connection: &mut PgConnection,
    table: &Table,
) -> sqlx::Result<Vec<Change>> {
    let schema = table.schema.as_str();
    let markers = qualified(schema, MARKER_TABLE);
    let rows = statement(format!(
        "SELECT table_name, relkind = 'v' AS is_view \
         FROM {markers} LEFT JOIN pg_namespace ON nspname = $2 \
           LEFT JOIN pg_class ON relnamespace = pg_namespace.oid AND relname = table_name \
         WHERE rollup_of = $1 ORDER BY created_at DESC"
    ))
    .bind(table.name.as_str().to_owned())
    .bind(schema.to_owned())
    .fetch_all(&mut *connection)
    .await?;
    let mut changes = Vec::new();
    for row in rows {
        let name: String = row.try_get("table_name")?;
        if row.try_get::<Option<bool>, _>("is_view")? == Some(true) {
            let kind =
                if is_aggregate(connection, schema, &name).await? { "MATERIALIZED VIEW" } else { "VIEW" };
            run(connection, format!("DROP {kind} {}", qualified(schema, &name))).await?;
            let change = Change::new(format!("rollup {schema}.{name}"), "", name, "");
            changes.push(change.classed(ChangeClass::Destructive));
        }
    }
    run(connection, format!("DELETE FROM {markers} WHERE rollup_of = {}", literal(table.name.as_str())))
        .await?;
    Ok(changes)
}

async fn is_aggregate(connection: &mut PgConnection, schema: &str, name: &str) -> sqlx::Result<bool> {
    if functions_schema(connection).await?.is_none() {
        return Ok(false);
    }
    statement(
        "SELECT EXISTS (SELECT FROM _timescaledb_catalog.continuous_agg \
         WHERE user_view_schema = $1 AND user_view_name = $2)",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_one(connection)
    .await?
    .try_get(0)
}
