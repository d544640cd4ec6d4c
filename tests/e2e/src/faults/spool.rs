//! Kafka away, and a bridge that has a spool: it goes on taking messages from the broker.

use futures::future::try_join;

use super::{
    Trial,
    away::{Backend::Kafka, away},
};
use crate::{Result, scenario::spooled};

/// Takes Kafka away; the bridge's spool fills meanwhile.
pub async fn kafka_away(trial: &Trial<'_>) -> Result<String> {
    let (seen, spooled) = try_join(away(trial, Kafka), some_are_spooled(trial)).await?;
    Ok(format!("{seen}, and {spooled} messages and more were in the spool"))
}

async fn some_are_spooled(trial: &Trial<'_>) -> Result<i64> {
    let pipeline =
        trial.test.wait_for("has messages in its spool", |pipeline| spooled(pipeline) > Some(0)).await?;
    Ok(spooled(&pipeline).unwrap_or_default())
}
