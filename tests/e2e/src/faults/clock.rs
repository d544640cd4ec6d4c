//! Clocks of workers that are wrong, and jump there and back.

use crds::{IoTPipeline, status::ConditionType, worker::Component};
use tokio::time::sleep;

use super::Trial;
use crate::{Result, scenario::condition};

/// So far ahead that Kafka takes no record with such a time (`message.timestamp.after.max.ms` is an hour), seconds.
const TOO_FAR: i64 = 2 * 60 * 60;

/// How far a clock is wrong where everything goes on, seconds: less than `processing.acceptTime` of the pipeline allows.
const WRONG: i64 = 40 * 60;

/// How long, seconds.
const LASTING: u64 = 30;

/// Sets the bridge's clock so far ahead that Kafka refuses its records, and then those of all workers wrong, each
/// another way.
pub async fn skewed(trial: &Trial<'_>) -> Result<String> {
    let bridges = trial.pods(Component::Bridge).await?;
    let processors = trial.pods(Component::Processor).await?;
    for bridge in &bridges {
        trial.test.cluster.set_clock(bridge, TOO_FAR).await?;
    }
    trial.test.wait_for("says that a clock is wrong", names_the_clock).await?;
    trial.say("Kafka refuses records of the future");
    sleep(trial.lasting(LASTING)).await;

    for (pod, ahead) in bridges.iter().chain(&processors).zip([-WRONG, WRONG, -WRONG].into_iter().cycle()) {
        trial.test.cluster.set_clock(pod, ahead).await?;
    }
    trial.recovers().await?;
    sleep(trial.lasting(LASTING)).await;
    for pod in bridges.iter().chain(&processors) {
        trial.test.cluster.set_clock(pod, 0).await?;
    }
    Ok(format!("the bridge's clock was {TOO_FAR} s ahead, and then all workers' clocks {WRONG} s wrong"))
}

fn names_the_clock(pipeline: &IoTPipeline) -> bool {
    condition(pipeline, ConditionType::BridgeReady)
        .is_some_and(|ready| ready.status == "False" && ready.message.contains("set the clock right"))
}
