//! How rows get into the table: by COPY, or where the table has a natural key, by one INSERT that leaves out what is
//! there already.

use std::time::{Duration, Instant};

use snafu::ResultExt;
use sqlx::{Arguments, AssertSqlSafe, PgConnection, Postgres, Row, postgres::PgArguments, query::Query};

use super::{
    arrays::transpose,
    batch::Batch,
    encode::{COPY_HEADER, COPY_TRAILER},
    repeats::{Conflict, Difference, Repeats, Search},
    statements::{RowStatements, UniqueStatements},
    transaction::{DatabaseSnafu, Error, execute},
};
use crate::failpoint::{self, Point};

/// How much is handed to the connection at once, so that its own buffer stays small.
const COPY_CHUNK_BYTES: usize = 256 * 1024;

/// How long the server may be left without a word: it ends a transaction that stands still.
const SILENCE: Duration = Duration::from_secs(1);

/// Puts rows into the table; answers how many it took. The others are there already.
pub(super) async fn put(
    connection: &mut PgConnection,
    statements: &RowStatements,
    rows: &[u8],
) -> Result<u64, Error> {
    match statements {
        RowStatements::Copy(copy) => copy_rows(connection, copy, rows).await,
        RowStatements::Unique(unique) => {
            let step = "insert the rows";
            let inserted = with_rows(&unique.insert, unique, rows, step)?.execute(connection).await;
            Ok(inserted.context(DatabaseSnafu { step })?.rows_affected())
        }
    }
}

/// Looks at the rows that the table did not take, in the transaction that put the others there: the records that are
/// not what the table has under their keys.
pub(super) async fn find_conflicts(
    connection: &mut PgConnection,
    statements: &UniqueStatements,
    batch: &Batch,
    repeats: &Repeats,
) -> Result<Vec<Conflict>, Error> {
    let Some(compare) = &statements.compare else { return Ok(Vec::new()) };
    let step = "compare rows with those of the same key";
    let found = with_rows(compare, statements, batch.rows(), step)?.fetch_all(&mut *connection).await;
    let mut search = Search::new(repeats, batch);
    let mut spoken = Instant::now();
    for row in found.context(DatabaseSnafu { step })? {
        let number = |column: &str| row.try_get::<i64, _>(column).context(DatabaseSnafu { step });
        let index = |number: i64| usize::try_from(number - 1).unwrap_or_default();
        search.look_at(&Difference {
            row: index(number("number")?),
            first: index(number("first")?),
            columns: row.try_get("differ").context(DatabaseSnafu { step })?,
        });
        if spoken.elapsed() > SILENCE {
            execute(connection, "SELECT", step).await?;
            spoken = Instant::now();
        }
    }
    Ok(search.conflicts())
}

/// A statement whose parameters are the columns of the rows. It is not kept prepared.
fn with_rows(
    sql: &str,
    statements: &UniqueStatements,
    rows: &[u8],
    step: &'static str,
) -> Result<Query<'static, Postgres, PgArguments>, Error> {
    let arrays = transpose(rows, statements.columns.iter().map(|(_, column_type)| *column_type));
    let mut arguments = PgArguments::default();
    arguments.reserve(arrays.len(), arrays.iter().map(|array| array.size() + 4).sum());
    for array in arrays {
        arguments.add(array).map_err(sqlx::Error::Encode).context(DatabaseSnafu { step })?;
    }
    Ok(sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments).persistent(false))
}

async fn copy_rows(connection: &mut PgConnection, copy: &str, rows: &[u8]) -> Result<u64, Error> {
    let step = "copy the rows";
    let mut copy = connection.copy_in_raw(copy).await.context(DatabaseSnafu { step })?;
    let chunks = [COPY_HEADER].into_iter().chain(rows.chunks(COPY_CHUNK_BYTES)).chain([COPY_TRAILER]);
    for chunk in chunks {
        copy.send(chunk).await.context(DatabaseSnafu { step })?;
    }
    failpoint::reach(Point::InCopy);
    copy.finish().await.context(DatabaseSnafu { step })
}
