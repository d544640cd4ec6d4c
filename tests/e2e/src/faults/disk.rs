//! A database whose disk is full. The chunks of the pipeline's table lie on a file system of their own for a while,
//! which has hardly any room.

use crds::status::ConditionType;
use snafu::OptionExt;
use tokio::time::sleep;

use super::{Trial, away::Backend};
use crate::{Result, database::Database, disk::Disk, pods::proc_of, scenario::condition};

/// How much fits onto it beyond what is there already, bytes: some seconds' rows.
const ROOM: i64 = 2 << 20;

/// How long the disk is full, seconds.
const FULL: u64 = 30;

/// Where it is mounted in the database's container, and how PostgreSQL calls it.
const DIRECTORY: &str = "/tmp/small-disk";
const TABLESPACE: &str = "small_disk";

/// For the server's user alone, as PostgreSQL demands it.
const OWNER: &str = "uid=999,gid=999,mode=700";

/// What PostgreSQL says when it cannot write.
const DISK_FULL: &str = "53100";

/// Moves the table to a disk that becomes full, and makes the disk larger after a while.
pub async fn full(trial: &Trial<'_>) -> Result<String> {
    let superuser = Database::superuser(&trial.test.cluster).await?;
    let process = proc_of(&Backend::Timescale.pod(trial).await?, Backend::Timescale.program()).pop();
    let process = process.whatever_context("the database does not run")?;
    let disk = Disk::mount(process, DIRECTORY.into(), size(trial).await? + ROOM, OWNER)?;
    superuser.execute(&format!("CREATE TABLESPACE {TABLESPACE} LOCATION '{DIRECTORY}'")).await?;
    let result = fill(trial, &superuser, &disk).await;
    // Whatever came of it, there must be room to go back.
    disk.enlarge()?;
    result?;
    trial.recovers().await?;
    move_to(trial, &superuser, "pg_default").await?;
    superuser.execute(&format!("DROP TABLESPACE {TABLESPACE}")).await?;
    disk.unmount()?;
    Ok(format!("the disk was full for {:?}, and the pipeline said so", trial.lasting(FULL)))
}

async fn fill(trial: &Trial<'_>, superuser: &Database, disk: &Disk) -> Result<()> {
    move_to(trial, superuser, TABLESPACE).await?;
    // Rows went on while they were moved.
    disk.resize(size(trial).await? + ROOM)?;
    let says_so = |pipeline: &crds::IoTPipeline| {
        condition(pipeline, ConditionType::ProcessorReady)
            .is_some_and(|ready| ready.status == "False" && ready.message.contains(DISK_FULL))
    };
    trial.test.wait_for("says that the disk is full", says_so).await?;
    trial.say("the disk is full");
    sleep(trial.lasting(FULL)).await;
    Ok(())
}

/// How large the table's chunks are, without their indexes.
async fn size(trial: &Trial<'_>) -> Result<i64> {
    let table = trial.test.table().quoted();
    let sql = format!("SELECT sum(pg_table_size(chunk))::bigint FROM show_chunks('{table}') AS chunk");
    trial.test.database.number(&sql).await
}

async fn move_to(trial: &Trial<'_>, superuser: &Database, tablespace: &str) -> Result<()> {
    let table = trial.test.table().quoted();
    let chunks: Vec<(String,)> =
        superuser.query(&format!("SELECT chunk::text FROM show_chunks('{table}') AS chunk")).await?;
    for (chunk,) in chunks {
        superuser.execute(&format!("ALTER TABLE {chunk} SET TABLESPACE {tablespace}")).await?;
    }
    Ok(())
}
