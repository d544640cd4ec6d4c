//! Processes that end by SIGKILL, or stand still by SIGSTOP.

use std::{fs, time::Duration};

use crds::worker::Component;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use snafu::{OptionExt, ResultExt, whatever};
use tokio::time::sleep;

use super::{PATIENCE, Trial, away::Backend};
use crate::{
    Result,
    pods::{is_ready, proc_of, restarts},
    wait::eventually,
};

/// The worker's program.
pub const WORKER: &str = "iotpipeline-worker";

const OPERATOR: &str = "iotpipeline-operator";

/// How often each is killed, and how often in a short run. The kubelet waits longer each time before it starts a
/// container again.
const ROUNDS: usize = 3;
const SHORT_ROUNDS: usize = 2;

/// Longer than the session of a processor in its consumer group, which is 10 s.
const STOPPED: Duration = Duration::from_secs(16);

/// Kills workers, and last takes a whole pod away, as when its node is gone.
pub async fn workers(trial: &Trial<'_>, component: Component) -> Result<String> {
    let mut killed = Vec::new();
    let rounds = rounds(trial);
    for round in 0..rounds {
        trial.at_random(500, 4_000).await;
        let pods = trial.pods(component).await?;
        let pod = pods.get(round % pods.len().max(1)).whatever_context("there is no worker")?;
        if round + 1 == rounds {
            trial.test.cluster.sigkill(pod, WORKER)?;
            trial.test.cluster.remove_at_once(pod).await?;
            trial.recovers().await?;
            is_replaced(trial, component, pod).await?;
        } else {
            trial.test.cluster.sigkill(pod, WORKER)?;
            trial.recovers().await?;
            is_restarted(trial, pod).await?;
        }
        killed.push(pod.name_any());
        trial.say(&format!("{} was killed and is back", pod.name_any()));
    }
    Ok(format!("killed {}", killed.join(", ")))
}

fn rounds(trial: &Trial<'_>) -> usize {
    if trial.is_short { SHORT_ROUNDS } else { ROUNDS }
}

/// Has workers crash at a named point of their code.
pub async fn at_point(trial: &Trial<'_>, component: Component, point: &str) -> Result<String> {
    let mut crashed = Vec::new();
    for round in 0..rounds(trial) {
        trial.at_random(500, 2_000).await;
        let pods = trial.pods(component).await?;
        let pod = pods.get(round % pods.len().max(1)).whatever_context("there is no worker")?;
        trial.test.cluster.arm_failpoint(pod, point).await?;
        // A point is passed every few milliseconds.
        trial.recovers().await?;
        is_restarted(trial, pod).await?;
        crashed.push(pod.name_any());
        trial.say(&format!("{} crashed {point} and is back", pod.name_any()));
    }
    Ok(format!("{} crashed {point}", crashed.join(", ")))
}

/// Kills all operators, and a worker's pod while they are down.
pub async fn operators(trial: &Trial<'_>) -> Result<String> {
    trial.at_random(500, 3_000).await;
    let operators = trial.test.cluster.operators().await?;
    for operator in &operators {
        trial.test.cluster.sigkill(operator, OPERATOR)?;
    }
    let pods = trial.pods(Component::Processor).await?;
    let pod = pods.first().whatever_context("there is no processor")?;
    trial.test.cluster.remove_at_once(pod).await?;
    trial.recovers().await?;
    is_replaced(trial, Component::Processor, pod).await?;
    for operator in &operators {
        is_restarted(trial, operator).await?;
    }
    Ok(format!("killed {} operators and removed {}", operators.len(), pod.name_any()))
}

/// Removes the operator that acts, and the one that follows it.
pub async fn leaders(trial: &Trial<'_>) -> Result<String> {
    let mut removed = Vec::new();
    for _ in 0..rounds(trial) {
        trial.at_random(500, 3_000).await;
        let leader = trial.test.cluster.leader().await?;
        trial.test.cluster.remove_at_once(&leader).await?;
        trial.recovers().await?;
        let follower = eventually(PATIENCE, "another operator acts", async || {
            let follower = trial.test.cluster.leader().await?;
            Ok((follower.uid() != leader.uid()).then_some(follower).ok_or("not yet".to_owned()))
        })
        .await?;
        trial.say(&format!("{} follows {}", follower.name_any(), leader.name_any()));
        removed.push(leader.name_any());
    }
    Ok(format!("removed {}", removed.join(", ")))
}

/// Kills a backend once.
pub async fn backend(trial: &Trial<'_>, backend: Backend) -> Result<String> {
    trial.at_random(500, 4_000).await;
    let pod = backend.pod(trial).await?;
    trial.test.cluster.sigkill(&pod, backend.program())?;
    trial.recovers().await?;
    is_restarted(trial, &pod).await?;
    Ok(format!("{} was killed and is back", pod.name_any()))
}

/// Kills Mosquitto while it holds thousands of messages for a bridge that stands still.
///
/// A message that Mosquitto acknowledged to a device is only in its memory until it saves, so a crash between loses
/// some whatever the pipeline does. So the devices fall silent, Mosquitto is made to save, and is then killed.
pub async fn mosquitto(trial: &Trial<'_>) -> Result<String> {
    let bridges = trial.pods(Component::Bridge).await?;
    let bridge = bridges.first().whatever_context("there is no bridge")?;
    let broker = Backend::Mosquitto.pod(trial).await?;
    let before = trial.fleet.progress().published();
    let mut held = 0;
    trial.test.cluster.signal(bridge, WORKER, "STOP")?;
    trial.at_random(3_000, 6_000).await;
    trial.fleet.pause();
    let crashed = async {
        is_silent(trial).await?;
        held = trial.fleet.progress().published() - before;
        save(trial, &broker).await?;
        trial.test.cluster.sigkill(&broker, Backend::Mosquitto.program())
    };
    let crashed = crashed.await;
    trial.test.cluster.signal(bridge, WORKER, "CONT")?;
    trial.fleet.resume();
    crashed?;
    trial.recovers().await?;
    is_restarted(trial, &broker).await?;
    Ok(format!("{} was killed with about {held} messages and is back", broker.name_any()))
}

async fn is_silent(trial: &Trial<'_>) -> Result<()> {
    let mut before = 0;
    eventually(PATIENCE, "the devices are silent", async || {
        sleep(Duration::from_millis(500)).await;
        let published = std::mem::replace(&mut before, trial.fleet.progress().published());
        Ok((published == before).then_some(()).ok_or("they are not".to_owned()))
    })
    .await
}

async fn save(trial: &Trial<'_>, broker: &Pod) -> Result<()> {
    let process = proc_of(broker, Backend::Mosquitto.program());
    let process = process.first().whatever_context("there is no Mosquitto")?;
    let file = process.join("root/var/lib/mosquitto/mosquitto.db");
    let saved_at = || fs::metadata(&file).and_then(|file| file.modified()).ok();
    let before = saved_at();
    trial.test.cluster.signal(broker, Backend::Mosquitto.program(), "USR1")?;
    eventually(PATIENCE, "Mosquitto has saved its queues", async || {
        Ok((saved_at() > before).then_some(()).ok_or("it has not".to_owned()))
    })
    .await
}

/// Stops a processor until the others have its partitions, then lets it go on.
pub async fn stopped_processor(trial: &Trial<'_>) -> Result<String> {
    trial.at_random(500, 3_000).await;
    let pods = trial.pods(Component::Processor).await?;
    let pod = pods.first().whatever_context("there is no processor")?;
    trial.test.cluster.signal(pod, WORKER, "STOP")?;
    let moved = async {
        sleep(STOPPED).await;
        let before = trial.test.table().positions().await?;
        sleep(Duration::from_secs(3)).await;
        let after = trial.test.table().positions().await?;
        Ok(before.iter().filter(|(partition, position)| after.get(partition) > Some(position)).count())
    };
    let moved: Result<usize> = moved.await;
    trial.test.cluster.signal(pod, WORKER, "CONT")?;
    match moved? {
        moved if moved == super::PARTITIONS as usize => {
            Ok(format!("{} stood still while others had its partitions", pod.name_any()))
        }
        moved => whatever!("only {moved} partitions went on while a processor stood still"),
    }
}

/// Waits until a pod's container, which `pod` shows as it was before, runs again and is ready.
async fn is_restarted(trial: &Trial<'_>, pod: &Pod) -> Result<()> {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let before = restarts(std::slice::from_ref(pod));
    let pods = trial.test.cluster.api::<Pod>(&namespace);
    eventually(PATIENCE, &format!("the container of {name} runs again"), async || {
        let pod = pods.get(&name).await.whatever_context("failed to read a pod")?;
        let is_back = restarts(std::slice::from_ref(&pod)) > before && is_ready(&pod);
        Ok(is_back.then_some(()).ok_or("it does not".to_owned()))
    })
    .await
}

/// Waits until there is a pod in the place of another.
pub async fn is_replaced(trial: &Trial<'_>, component: Component, gone: &Pod) -> Result<()> {
    let wanted = if component == Component::Bridge { 1 } else { super::PROCESSORS as usize };
    eventually(PATIENCE, &format!("{} is replaced", gone.name_any()), async || {
        let pods = trial.pods(component).await?;
        let others = pods.iter().filter(|pod| pod.uid() != gone.uid() && is_ready(pod)).count();
        Ok((others == wanted).then_some(()).ok_or(format!("{others} pods are ready")))
    })
    .await
}
