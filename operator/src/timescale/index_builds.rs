//! Indexes over rows that are there, each made by itself and by one session at a time. I/O.
//!
//! What is interrupted is mended by the next try: an index that was made chunk by chunk and did not come to its end is
//! not valid, and is dropped and made anew.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::{
    BuildKind, Built, IndexBuild,
    execute::{run, statement},
    sql::qualified,
};
use crate::pipeline::Table;

/// How long one may take. The session's own limit is for what others wait for.
pub(super) const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Under what a session is known to make indexes of a table, as an expression of the schema and the table.
const LOCK: &str = "hashtextextended('iotpipeline-index:' || $1 || '.' || $2, 0)";

/// How the server says that somebody else held a lock for too long.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Makes the index, unless another session makes one of this table.
pub(super) async fn build(
    connection: &mut PgConnection,
    table: &Table,
    build: &IndexBuild,
) -> sqlx::Result<Built> {
    if !ask(connection, table, &format!("SELECT pg_try_advisory_lock({LOCK})")).await? {
        return Ok(Built::Elsewhere);
    }
    let built = build_alone(connection, table.schema.as_str(), build).await;
    // A connection that broke has unlocked it, and says so itself.
    let unlocked = ask(connection, table, &format!("SELECT pg_advisory_unlock({LOCK})")).await;
    let built = built?;
    unlocked?;
    Ok(built)
}

/// Ends the session that makes an index of the table, so that it can be dropped.
pub(super) async fn end_builds(connection: &mut PgConnection, table: &Table) -> sqlx::Result<()> {
    ask(
        connection,
        table,
        &format!(
            "SELECT coalesce(bool_and(pg_terminate_backend(pid, 5000)), true) FROM pg_locks \
             WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid <> pg_backend_pid() \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND (classid::bigint << 32 | objid::bigint) = {LOCK}"
        ),
    )
    .await
    .map(drop)
}

async fn build_alone(connection: &mut PgConnection, schema: &str, build: &IndexBuild) -> sqlx::Result<Built> {
    match (&build.kind, is_valid(connection, schema, &build.index).await?) {
        (BuildKind::Drop, Some(true)) => return Ok(Built::Elsewhere),
        // Somebody was faster.
        (BuildKind::Drop, None) | (_, Some(true)) => return Ok(Built::Made),
        (_, Some(false)) if is_being_made(connection, schema, &build.index).await? => {
            return Ok(Built::Elsewhere);
        }
        (BuildKind::Drop, Some(false)) | (_, None) => {}
        (_, Some(false)) => {
            let drop = format!("DROP INDEX {}", qualified(schema, &build.index));
            let dropped = built(run(connection, drop).await, build)?;
            if dropped != Built::Made {
                return Ok(dropped);
            }
        }
    }
    let sql = match &build.kind {
        BuildKind::PerChunk { whole } if is_one_process(connection).await? => whole,
        BuildKind::PerChunk { .. } | BuildKind::Unique { .. } | BuildKind::Drop => &build.step.sql,
    };
    run(connection, format!("SET statement_timeout = '{}s'", LIMIT.as_secs())).await?;
    let built = built(run(connection, sql.as_str()).await, build);
    run(connection, "RESET statement_timeout").await.and(built)
}

/// What the server's answer means for the index.
fn built(answer: sqlx::Result<()>, build: &IndexBuild) -> sqlx::Result<Built> {
    let Err(error) = answer else { return Ok(Built::Made) };
    let is_unique = matches!(build.kind, BuildKind::Unique { .. });
    match error.as_database_error() {
        Some(answer) if is_unique && answer.is_unique_violation() => Ok(Built::Contradicted),
        Some(answer) if answer.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => Ok(Built::Locked),
        _ => Err(error),
    }
}

/// Whether the index can be used; `None` where there is none.
async fn is_valid(connection: &mut PgConnection, schema: &str, index: &str) -> sqlx::Result<Option<bool>> {
    statement(
        "SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
           JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND relname = $2",
    )
    .bind(schema.to_owned())
    .bind(index.to_owned())
    .fetch_optional(connection)
    .await?
    .map(|row| row.try_get(0))
    .transpose()
}

/// Whether another session makes the index, be it a person's: PostgreSQL by itself chooses the same name. TimescaleDB keeps
/// a lock on the index from its first chunk to the last, and whoever reads or writes has one on the table as well.
async fn is_being_made(connection: &mut PgConnection, schema: &str, index: &str) -> sqlx::Result<bool> {
    statement(
        "SELECT EXISTS (SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
           JOIN pg_namespace ON pg_namespace.oid = relnamespace \
           JOIN pg_locks AS held ON held.relation = indexrelid \
         WHERE nspname = $1 AND relname = $2 AND held.granted AND held.pid <> pg_backend_pid() \
           AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
           AND (EXISTS (SELECT FROM pg_locks AS chunk JOIN pg_inherits ON inhrelid = chunk.relation \
                  WHERE inhparent = indrelid AND chunk.pid = held.pid AND chunk.mode = 'ShareLock' \
                    AND chunk.database = held.database) \
             OR NOT EXISTS (SELECT FROM pg_locks AS whole WHERE whole.relation = indrelid \
                  AND whole.pid = held.pid AND whole.database = held.database)))",
    )
    .bind(schema.to_owned())
    .bind(index.to_owned())
    .fetch_one(connection)
    .await?
    .try_get(0)
}

/// Whether the server is a PostgreSQL that lives in one process (as WebAssembly, for instance), which lists no sessions, not
/// even this one. It does not see what a statement has committed before its end, so that neither an index per chunk comes
/// to its end nor `CREATE INDEX CONCURRENTLY`: both say `tuple concurrently updated`. Nor is there anybody who would wait.
async fn is_one_process(connection: &mut PgConnection) -> sqlx::Result<bool> {
    statement("SELECT NOT EXISTS (SELECT FROM pg_stat_activity)").fetch_one(connection).await?.try_get(0)
}

/// Asks something about the lock of a table.
async fn ask(connection: &mut PgConnection, table: &Table, sql: &str) -> sqlx::Result<bool> {
    statement(sql)
        .bind(table.schema.as_str().to_owned())
        .bind(table.name.as_str().to_owned())
        .fetch_one(connection)
        .await?
        .try_get(0)
}
