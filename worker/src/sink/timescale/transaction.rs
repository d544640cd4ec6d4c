//! The transaction: rows, dead letters, and last the positions, each only where it stands as expected.
//!
//! Positions come last so that a worker which is stopped while it copies holds no lock that its successor needs.

use std::{ops::Range, time::Duration};

use snafu::{ResultExt, Snafu};
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use tokio::time::timeout;

use super::{
    batch::{Batch, DeadLetter, Part},
    repeats::{Conflict, Repeats},
    rows::{find_conflicts, put},
    statements::{
        BEGIN, COMMIT, RELEASE_SAVEPOINT, ROLLBACK, ROLLBACK_TO_SAVEPOINT, RowStatements, SAVEPOINT,
        Statements,
    },
};
use crate::failpoint::{self, Point};

/// How long a transaction may take; a server that is gone without a word is noticed by this.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How long a transaction with a single statement may take.
const SHORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a batch was not written.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum Error {
    /// Some position is not where this worker left it; nothing was written.
    #[snafu(display("{moved} of {expected} positions moved; the others are not where they are expected"))]
    Fenced {
        /// How many are where they are expected.
        moved: u64,
        /// How many there should be.
        expected: u64,
    },
    /// Rows have the key of other rows, and other content.
    #[snafu(display("{} records have rows with the key of another row and other content", conflicts.len()))]
    Conflicting {
        /// The records, at least one.
        conflicts: Vec<Conflict>,
    },
    /// The server refused a statement, or the connection broke.
    #[snafu(display("failed to {step}"))]
    Database {
        /// What it was about.
        step: &'static str,
        /// Why it failed.
        source: sqlx::Error,
    },
    /// The server did not answer.
    #[snafu(display("the database took more than {} s", limit.as_secs()))]
    TimedOut {
        /// How long it was waited for.
        limit: Duration,
    },
}

/// Whose positions a batch moves.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The target table.
    pub table: String,
    /// The Kafka cluster.
    pub cluster_id: String,
    /// The topic.
    pub topic: String,
}

/// Writes a batch whose partitions stand at `expected`, in the order of its parts; answers how many of its rows the
/// table had already. After an error the connection is still inside the transaction, or broken.
///
/// # Errors
/// Nothing was written, but for an error of the last step, whose outcome is unknown.
pub async fn write(
    connection: &mut PgConnection,
    statements: &Statements,
    repeats: &Repeats,
    scope: &Scope,
    batch: &Batch,
    expected: &[i64],
) -> Result<u64, Error> {
    let steps = async {
        execute(connection, BEGIN, "begin the transaction").await?;
        let repeated = put_all(connection, &statements.rows, repeats, batch).await?;
        if !batch.dead_letters().is_empty() {
            insert_dead_letters(connection, statements, scope, batch.dead_letters()).await?;
        }
        move_positions(connection, statements, scope, batch.parts(), expected).await?;
        execute(connection, COMMIT, "commit the batch").await?;
        failpoint::reach(Point::AfterCommit);
        Ok(repeated)
    };
    timeout(TIMEOUT, steps).await.unwrap_or(TimedOutSnafu { limit: TIMEOUT }.fail())
}

/// Undoes what the transaction did.
///
/// # Errors
/// Where the connection is broken.
pub async fn roll_back(connection: &mut PgConnection) -> Result<(), Error> {
    timeout(TIMEOUT, execute(connection, ROLLBACK, "roll back"))
        .await
        .unwrap_or(TimedOutSnafu { limit: TIMEOUT }.fail())
}

/// Does one thing in a transaction of its own, because behind a pooler only a transaction has one and the same
/// server from the first message to the last.
///
/// # Errors
/// Where the database does not answer; then the connection is not to be used again.
pub async fn within<T>(
    connection: &mut PgConnection,
    step: &'static str,
    call: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, Error> {
    let steps = async {
        execute(connection, BEGIN, "begin a transaction").await?;
        let answer = call(connection).await.context(DatabaseSnafu { step })?;
        execute(connection, COMMIT, step).await?;
        Ok(answer)
    };
    timeout(SHORT_TIMEOUT, steps).await.unwrap_or(TimedOutSnafu { limit: SHORT_TIMEOUT }.fail())
}

/// Finds the records whose rows the server refuses, by halving, in a transaction that is rolled back. Halves that
/// pass stay in place while the others are tried, so that rows which only clash with one another are found too.
/// Returns their indices, with the error of each.
///
/// # Errors
/// Where the server fails for any reason that `is_data_error` denies.
pub async fn find_refused(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &Batch,
    is_data_error: impl Fn(&sqlx::Error) -> bool,
) -> Result<Vec<(usize, sqlx::Error)>, Error> {
    execute(connection, BEGIN, "begin the search").await?;
    let mut refused = Vec::new();
    let mut untried = Vec::from([Range { start: 0, end: batch.records_with_rows() }]);
    while let Some(range) = untried.pop() {
        execute(connection, SAVEPOINT, "set a savepoint").await?;
        match put(connection, &statements.rows, batch.rows_of(range.clone())).await {
            Ok(_) => execute(connection, RELEASE_SAVEPOINT, "release a savepoint").await?,
            Err(Error::Database { source, .. }) if is_data_error(&source) => {
                execute(connection, ROLLBACK_TO_SAVEPOINT, "go back to a savepoint").await?;
                if range.len() <= 1 {
                    refused.push((range.start, source));
                } else {
                    let middle = range.start + range.len() / 2;
                    // The last one pushed is the next one tried: in the order of the records.
                    untried.push(middle..range.end);
                    untried.push(range.start..middle);
                }
            }
            Err(error) => return Err(error),
        }
    }
    execute(connection, ROLLBACK, "end the search").await?;
    Ok(refused)
}

/// Puts all rows of a batch into the table; answers how many of them it had already.
async fn put_all(
    connection: &mut PgConnection,
    statements: &RowStatements,
    repeats: &Repeats,
    batch: &Batch,
) -> Result<u64, Error> {
    if batch.row_count() == 0 {
        return Ok(0);
    }
    let taken = put(connection, statements, batch.rows()).await?;
    let repeated = (batch.row_count() as u64).saturating_sub(taken);
    if let (RowStatements::Unique(unique), 1..) = (statements, repeated) {
        let conflicts = find_conflicts(connection, unique, batch, repeats).await?;
        if !conflicts.is_empty() {
            return ConflictingSnafu { conflicts }.fail();
        }
    }
    Ok(repeated)
}

pub(super) async fn execute(
    connection: &mut PgConnection,
    statement: &'static str,
    step: &'static str,
) -> Result<(), Error> {
    raw_sql(statement).execute(connection).await.context(DatabaseSnafu { step })?;
    Ok(())
}

async fn insert_dead_letters(
    connection: &mut PgConnection,
    statements: &Statements,
    scope: &Scope,
    letters: &[DeadLetter],
) -> Result<(), Error> {
    fn column<T>(letters: &[DeadLetter], value: impl Fn(&DeadLetter) -> T) -> Vec<T> {
        letters.iter().map(value).collect()
    }
    sqlx::query(AssertSqlSafe(statements.insert_dead_letters.clone()))
        .persistent(false)
        .bind(column(letters, |letter| letter.rejection.reason.to_string()))
        .bind(column(letters, |letter| letter.rejection.stage.to_string()))
        .bind(column(letters, |letter| without_nul(&letter.rejection.message)))
        .bind(column(letters, |letter| letter.partition))
        .bind(column(letters, |letter| letter.offset))
        .bind(column(letters, |letter| letter.key.clone()))
        .bind(column(letters, |letter| letter.headers.clone()))
        .bind(column(letters, |letter| letter.payload.clone()))
        .bind(column(letters, |letter| letter.payload_bytes))
        .bind(column(letters, |letter| letter.payload_sha256.clone()))
        .bind(&scope.topic)
        .execute(connection)
        .await
        .context(DatabaseSnafu { step: "insert the dead letters" })?;
    Ok(())
}

/// A message may quote the data, and PostgreSQL's text has no U+0000.
fn without_nul(message: &str) -> String {
    message.replace('\0', "\u{fffd}")
}

async fn move_positions(
    connection: &mut PgConnection,
    statements: &Statements,
    scope: &Scope,
    parts: &[Part],
    expected: &[i64],
) -> Result<(), Error> {
    let moved = sqlx::query(AssertSqlSafe(statements.move_positions.clone()))
        .persistent(false)
        .bind(&scope.table)
        .bind(&scope.cluster_id)
        .bind(&scope.topic)
        .bind(parts.iter().map(|part| part.partition).collect::<Vec<_>>())
        .bind(expected)
        .bind(parts.iter().map(Part::next_offset).collect::<Vec<_>>())
        .bind(parts.iter().map(|part| part.last_offset).collect::<Vec<_>>())
        .bind(parts.iter().map(|part| part.last_timestamp).collect::<Vec<_>>())
        .bind(parts.iter().map(Part::last_hash).collect::<Vec<_>>())
        .execute(connection)
        .await
        .context(DatabaseSnafu { step: "move the positions" })?
        .rows_affected();
    let expected = parts.len() as u64;
    if moved == expected { Ok(()) } else { FencedSnafu { moved, expected }.fail() }
}
