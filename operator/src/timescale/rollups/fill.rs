//! Fills a new rollup with the rows that were there before it, and drops rollups with their table. I/O.
//!
//! A continuous aggregate begins empty. What lies after its last refresh is computed when queried, and what lies before
//! and was never refreshed does not show. So the history is refreshed from its beginning on: at every moment all rows are
//! counted, those that are refreshed and those after. The policy, which would begin near the end, comes when that is done,
//! which is when rows have reached the present: a topic that is read from its beginning brings old ones for a while.
//! A refresh cannot run in a transaction, so how far it is gone is written down after each, and it is never gone back:
//! what is filled may be all that is left of rows that were dropped meanwhile. As long as rows have not reached the present,
//! more of them come into the newest chunks, so these are refreshed in each turn, and not written down as done.

use std::time::{Duration, Instant};

use crds::{
    names::MARKER_TABLE,
    status::{ChangeClass, Reason},
};
use sqlx::{PgConnection, Row};

use crate::{
    change::{Change, Note},
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
    /// The bucket of the one that is there.
    pub bucket: Duration,
    /// Up to how long ago.
    pub end_offset: Duration,
}

impl RollupFill {
    pub(super) fn of(rollup: &Rollup, bucket: Duration) -> Self {
        Self { name: rollup.name.clone(), bucket, end_offset: rollup.refresh.end_offset }
    }
}

/// What a person should know while there is more to do.
pub fn rollup_is_filling(table: &Table, fill: &RollupFill) -> Note {
    Note {
        reason: Reason::RollupsFilling,
        message: format!(
            "as the spec says; rollup {}.{} is being filled, the oldest rows first, with what was in the table before it, \
             and status.table.rollups says how far it is. Until then the rest is computed when queried, or does not show \
             where materializedOnly is true",
            table.schema, fill.name
        ),
    }
}

/// How far the filling of a rollup has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FillProgress {
    /// Up to the present: its policy does the rest.
    Filled,
    /// Up to the last rows that there are, which are not of the present.
    CaughtUp,
    /// There are more rows to take up.
    Unfinished,
}

/// Goes on with it for a while.
pub(in crate::timescale) async fn fill(
    connection: &mut PgConnection,
    table: &Table,
    fill: &RollupFill,
) -> sqlx::Result<FillProgress> {
    let Some(functions) = functions_schema(connection).await? else { return Ok(FillProgress::CaughtUp) };
    let (schema, name) = (table.schema.as_str(), fill.name.as_str());
    let note = |what: &str| {
        format!("UPDATE {} SET {what} WHERE table_name = {}", qualified(schema, MARKER_TABLE), literal(name))
    };
    let begin = Instant::now();
    let mut reached = None;
    while begin.elapsed() < BUDGET {
        match next(connection, schema, fill, &functions, reached).await? {
            Next::Span { from, to, settled } => {
                reached = Some(to);
                let [from, to, settled] =
                    [from, to, settled].map(|second| format!("pg_catalog.to_timestamp({second})"));
                let (functions, view) = (identifier(&functions), regclass(schema, name));
                run(
                    connection,
                    format!("CALL {functions}.refresh_continuous_aggregate({view}, {from}, {to})"),
                )
                .await?;
                let done = format!("least({to}, {settled})");
                let note = note(&format!("filled_to = {done}"));
                run(connection, format!("{note} AND (filled_to IS NULL OR filled_to < {done})")).await?;
            }
            Next::Present => {
                run(connection, note("is_filled = true")).await?;
                return Ok(FillProgress::Filled);
            }
            Next::Nothing => return Ok(FillProgress::CaughtUp),
        }
    }
    Ok(FillProgress::Unfinished)
}

/// What to do next.
enum Next {
    /// To refresh whole buckets between these seconds of the epoch, of which those before `settled` get no more rows.
    Span { from: i64, to: i64, settled: i64 },
    /// Nothing, because the present is reached.
    Present,
    /// Nothing, because there are no more rows.
    Nothing,
}

/// Looks from where it is filled, or from where this turn has `reached`, for the first chunk with rows after that.
async fn next(
    connection: &mut PgConnection,
    schema: &str,
    fill: &RollupFill,
    functions: &str,
    reached: Option<i64>,
) -> sqlx::Result<Next> {
    let functions = identifier(functions);
    let bucket = interval(fill.bucket);
    let span = interval(fill.bucket.max(LONGEST_SPAN));
    // The first bucket is the one in which the chunk begins; the last one has ended as long ago as the policy wants.
    let row = statement(format!(
        "WITH chunks AS ( \
           SELECT range_start, range_end FROM _timescaledb_catalog.continuous_agg \
             JOIN _timescaledb_catalog.hypertable ON hypertable.id = raw_hypertable_id \
             JOIN timescaledb_information.chunks ON hypertable_schema = schema_name AND hypertable_name = table_name \
            WHERE user_view_schema = $1 AND user_view_name = $2), \
         present AS ( \
           SELECT present, coalesce((SELECT max(range_end) FROM chunks) > present, false) AS is_reached \
             FROM {functions}.time_bucket({bucket}, now() - {end_offset}) AS present), \
         settled AS ( \
           SELECT {functions}.time_bucket({bucket}, min(range_start)) AS settled \
             FROM (SELECT range_start FROM chunks ORDER BY range_start DESC LIMIT 2) AS newest), \
         marker AS ( \
           SELECT coalesce(to_timestamp($3), filled_to) AS filled_to FROM {markers} WHERE table_name = $2), \
         chunk AS ( \
           SELECT filled_to, range_start, range_end FROM marker JOIN chunks \
               ON filled_to IS NULL OR range_end > filled_to \
            ORDER BY range_start LIMIT 1), \
         bounds AS ( \
           SELECT greatest(filled_to, {functions}.time_bucket({bucket}, range_start)) AS low, \
             {functions}.time_bucket({bucket}, range_end - INTERVAL '1 microsecond') + {bucket} AS chunk_end FROM chunk) \
         SELECT extract(epoch FROM low)::bigint AS low, \
           extract(epoch FROM least(chunk_end, present, {functions}.time_bucket({bucket}, low + {span})))::bigint AS high, \
           extract(epoch FROM CASE WHEN is_reached THEN present ELSE settled END)::bigint AS settled, is_reached \
         FROM present CROSS JOIN settled LEFT JOIN bounds ON true",
        markers = qualified(schema, MARKER_TABLE),
        end_offset = interval(fill.end_offset),
    ))
    .bind(schema.to_owned())
    .bind(fill.name.as_str().to_owned())
    .bind(reached.map(|second| second as f64))
    .fetch_one(connection)
    .await?;
    let (low, high): (Option<i64>, Option<i64>) = (row.try_get("low")?, row.try_get("high")?);
    Ok(match low.zip(high) {
        Some((from, to)) if from < to => Next::Span { from, to, settled: row.try_get("settled")? },
        _ if row.try_get("is_reached")? => Next::Present,
        _ => Next::Nothing,
    })
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
