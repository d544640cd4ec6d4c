//! A database that answers and does not write: somebody else has locked the table.

use snafu::whatever;
use tokio::time::sleep;

use super::Trial;
use crate::Result;

/// How long, seconds: several times as long as a worker waits for its transaction.
const LOCKED: u64 = 300;

/// Locks the pipeline's table.
pub async fn locked(trial: &Trial<'_>) -> Result<String> {
    let table = trial.test.table();
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
        trial.test.schema()
    );
    let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.quoted());
    let mut waiters = 0;
    let held = async {
        sleep(trial.lasting(LOCKED)).await;
        waiters = trial.test.database.number(&waiting).await?;
        Ok(())
    };
    trial.test.database.hold(&lock, held).await?;
    if waiters == 0 {
        whatever!("nobody waited for the table");
    }
    Ok(format!("the table was locked for {:?}, with {waiters} transactions waiting", trial.lasting(LOCKED)))
}
