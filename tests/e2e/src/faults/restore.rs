//! A database that is restored to an earlier point: rows, dead letters and positions go back together, and whoever was
//! connected is not any more.

use crds::names::POSITION_TABLE;
use snafu::whatever;
use tokio::time::sleep;

use super::Trial;
use crate::{Result, database::quoted};

/// How old what is restored is, seconds.
const AGE: u64 = 30;

/// Goes back to the state of some seconds ago.
pub async fn restored(trial: &Trial<'_>) -> Result<String> {
    let (database, table) = (&trial.test.database, trial.test.table());
    let schema = quoted(&trial.test.schema());
    let tables = [table.quoted(), table.dead_letters(), format!("{schema}.{}", quoted(POSITION_TABLE))];
    let copies: Vec<String> = (0..tables.len()).map(|number| format!("{schema}.backup_{number}")).collect();
    let pairs = || tables.iter().zip(&copies);

    let backup = pairs().map(|(table, copy)| format!("CREATE TABLE {copy} AS SELECT * FROM {table};"));
    let backup: String = backup.collect();
    // One snapshot for all three, as a backup has it.
    database.script(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {backup} COMMIT")).await?;
    trial.say("the backup is taken");
    sleep(trial.lasting(AGE)).await;

    let before: i64 = table.positions().await?.values().sum();
    let restore =
        pairs().map(|(table, copy)| format!("TRUNCATE {table}; INSERT INTO {table} SELECT * FROM {copy};"));
    let restore: String = restore.collect();
    // In the order of a worker's transaction.
    let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;", tables.join(", "));
    let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                      WHERE application_name = 'iotpipeline-processor';";
    database.script(&format!("BEGIN; {lock} {restore} {disconnect} COMMIT")).await?;
    let sql = format!("SELECT sum(next_offset)::bigint FROM {}", copies[2]);
    let after = database.number(&sql).await?;
    if after >= before {
        whatever!("the positions did not go back: {before} before, {after} after");
    }
    Ok(format!("the database went back by {} records", before - after))
}
