//! Kafka away, and a bridge that has a spool: it goes on taking messages from the broker, until the spool is full, or the
//! disk on which it lies.

use crds::{IoTPipeline, status::ConditionType};
use futures::future::try_join;

use super::{
    Trial,
    away::{A_MINUTE, Backend::Kafka, away},
};
use crate::{
    Result,
    scenario::{condition, spooled},
    volume::{self, Volume},
};

/// Holds the messages of half a minute: as small as the largest MQTT message allows.
pub const SMALL: Volume = Volume { size: "32Mi", disk: None };

/// Its disk is full before the spool is.
pub const SMALL_DISK: Volume = Volume { size: "256Mi", disk: Some(6 << 20) };

/// Takes Kafka away; the bridge's spool fills meanwhile.
pub async fn kafka_away(trial: &Trial<'_>) -> Result<String> {
    let (seen, spooled) = try_join(away(trial, Kafka, A_MINUTE), some_are_spooled(trial)).await?;
    Ok(format!("{seen}, and {spooled} messages and more were in the spool"))
}

async fn some_are_spooled(trial: &Trial<'_>) -> Result<i64> {
    let pipeline =
        trial.test.wait_for("has messages in its spool", |pipeline| spooled(pipeline) > Some(0)).await?;
    Ok(spooled(&pipeline).unwrap_or_default())
}

/// Takes Kafka away until the spool is full, and for some time longer.
pub async fn full(trial: &Trial<'_>) -> Result<String> {
    let (seen, ()) = try_join(away(trial, Kafka, A_MINUTE), says(trial, "SpoolFull")).await?;
    Ok(format!("{seen}, and the pipeline said that its spool was full"))
}

/// Takes Kafka away until the spool's disk is full, and makes the disk larger then.
pub async fn disk_full(trial: &Trial<'_>) -> Result<String> {
    let enlarged = async {
        says(trial, "SpoolFailed").await?;
        volume::disk(trial.test)?.enlarge()
    };
    let (seen, ()) = try_join(away(trial, Kafka, A_MINUTE), enlarged).await?;
    Ok(format!("{seen}, and the pipeline said that its spool's disk was full"))
}

/// Waits until this is the reason for what `BridgeReady` says.
async fn says(trial: &Trial<'_>, reason: &str) -> Result<()> {
    let has_reason = |pipeline: &IoTPipeline| {
        condition(pipeline, ConditionType::BridgeReady).is_some_and(|ready| ready.reason == reason)
    };
    trial.test.wait_for(&format!("has the reason {reason}"), has_reason).await?;
    trial.say(&format!("the pipeline says {reason}"));
    Ok(())
}
