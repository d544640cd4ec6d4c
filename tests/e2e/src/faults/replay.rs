//! Everything that Kafka has comes again, as after a change of the program (docs/operations.md, Replay).

use crds::{names::POSITION_TABLE, worker::Component};
use serde_json::json;
use snafu::whatever;
use tokio::time::sleep;

use super::{PATIENCE, Trial};
use crate::{
    Result,
    database::{literal, quoted},
    wait::eventually,
};

/// How long messages flow before, seconds, beyond those of every fault.
const MORE: u64 = 30;

/// Suspends the processors, sets all positions back to the first record and removes the dead letters, and resumes.
/// The rows stay: with a natural key the table takes none of them again.
pub async fn whole_topic(trial: &Trial<'_>) -> Result<String> {
    sleep(trial.lasting(MORE)).await;
    trial.test.patch(json!({"spec": {"suspend": "Processor"}})).await?;
    eventually(PATIENCE, "there is no processor", async || {
        let left = trial.pods(Component::Processor).await?.len();
        Ok((left == 0).then_some(()).ok_or(format!("{left} pods")))
    })
    .await?;
    let records: i64 = trial.test.table().positions().await?.values().sum();
    let reset = format!(
        "BEGIN; DELETE FROM {letters}; DELETE FROM {schema}.{positions} WHERE topic = {topic}; COMMIT",
        letters = trial.test.table().dead_letters(),
        schema = quoted(&trial.test.schema()),
        positions = quoted(POSITION_TABLE),
        topic = literal(&trial.test.topic()),
    );
    trial.test.database.script(&reset).await?;
    trial.say("all positions are back at the first record");
    trial.test.patch(json!({"spec": {"suspend": "None"}})).await?;
    trial.recovers().await?;

    let processors = trial.pods(Component::Processor).await?;
    let metric = "iotpipeline_processor_repeated_rows_total";
    let repeated = trial.test.cluster.worker_counter(&processors, metric).await?;
    if repeated < records.unsigned_abs() / 2 {
        whatever!("of {records} records that came again only {repeated} rows were counted as repeated");
    }
    Ok(format!("{records} records came again, and {repeated} rows were counted as repeated"))
}
