//! What people do to a pipeline while messages flow: scaling it again and again, replacing all of its workers, draining
//! their node, upgrading the operator.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crds::worker::Component;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::EvictParams};
use serde_json::json;
use snafu::{ResultExt, whatever};
use tokio::time::sleep;

use super::{PATIENCE, PROCESSORS, Trial};
use crate::{Result, pods::is_ready, release, wait::eventually};

/// How long, seconds, and how often the number of processors changes.
const STORM: u64 = 60;
const TURN: Duration = Duration::from_secs(10);

/// What the API server answers to an eviction that a PodDisruptionBudget puts off.
const TOO_MANY: u16 = 429;

/// Changes the number of processors between one and three.
pub async fn rebalance_storm(trial: &Trial<'_>) -> Result<String> {
    let begun = Instant::now();
    let mut seen = Vec::new();
    while begun.elapsed() < trial.lasting(STORM) || seen.len() % 2 == 1 {
        let replicas = if seen.len() % 2 == 0 { 1 } else { PROCESSORS };
        trial.test.patch(json!({"spec": {"processor": {"replicas": replicas}}})).await?;
        sleep(TURN).await;
        let pods = trial.pods(Component::Processor).await?;
        seen.push(pods.iter().filter(|pod| is_ready(pod)).count());
    }
    if seen.iter().collect::<BTreeSet<_>>().len() < 2 {
        whatever!("the number of processors did not change: {seen:?}");
    }
    Ok(format!("there were {seen:?} processors in turn"))
}

/// Has all workers replaced, as a change of their configuration does.
pub async fn rolling_update(trial: &Trial<'_>) -> Result<String> {
    let before = workers(trial).await?;
    let pod = json!({"pod": {"annotations": {"iotpipeline.dev/rolled": "once"}}});
    trial.test.patch(json!({"spec": {"bridge": pod, "processor": pod}})).await?;
    are_replaced(trial, &before).await?;
    Ok(format!("{} workers were replaced", before.len()))
}

/// Has all workers leave their node, as `kubectl drain` does: by evictions, which a PodDisruptionBudget may put off. There
/// is one node only, so they come back to it.
pub async fn node_drained(trial: &Trial<'_>) -> Result<String> {
    let before = workers(trial).await?;
    let pods = trial.test.cluster.api::<Pod>(&trial.test.namespace);
    let mut refused = 0;
    for pod in &before {
        let name = pod.name_any();
        eventually(PATIENCE, &format!("{name} may leave"), async || {
            match pods.evict(&name, &EvictParams::default()).await {
                Ok(_) => Ok(Ok(())),
                Err(kube::Error::Api(status)) if status.code == TOO_MANY => {
                    refused += 1;
                    Ok(Err(status.message))
                }
                Err(error) => Err(error).whatever_context("failed to evict a pod"),
            }
        })
        .await?;
    }
    are_replaced(trial, &before).await?;
    Ok(format!("{} workers were evicted; they had to wait {refused} times", before.len()))
}

/// Upgrades the operator's release and goes back: operators and workers are replaced, twice.
pub async fn helm_upgrade(trial: &Trial<'_>) -> Result<String> {
    let before = workers(trial).await?;
    let upgraded = upgrade(trial, &before).await;
    let between = workers(trial).await?;
    release::roll_back().await?;
    upgraded?;
    are_replaced(trial, &between).await?;
    Ok(format!("operators and {} workers were replaced twice", before.len()))
}

async fn upgrade(trial: &Trial<'_>, before: &[Pod]) -> Result<()> {
    // Another template of all pods, as another version of the images is.
    release::upgrade(&["image.pullPolicy=Never", "worker.image.pullPolicy=Never"]).await?;
    are_replaced(trial, before).await?;
    trial.recovers().await?;
    trial.say("the release is upgraded");
    Ok(())
}

/// All workers of the pipeline.
async fn workers(trial: &Trial<'_>) -> Result<Vec<Pod>> {
    let mut pods = trial.pods(Component::Bridge).await?;
    pods.extend(trial.pods(Component::Processor).await?);
    Ok(pods)
}

/// Waits until each of these workers is gone and another one is ready in its place.
async fn are_replaced(trial: &Trial<'_>, before: &[Pod]) -> Result<()> {
    let before: BTreeSet<_> = before.iter().filter_map(ResourceExt::uid).collect();
    eventually(PATIENCE, "all workers are replaced", async || {
        let pods = workers(trial).await?;
        let is_new = |pod: &&Pod| is_ready(pod) && !before.contains(&pod.uid().unwrap_or_default());
        let new = pods.iter().filter(is_new).count();
        let is_done = new == before.len() && pods.len() == new;
        Ok(is_done.then_some(()).ok_or(format!("{new} new ones of {}", pods.len())))
    })
    .await
}
