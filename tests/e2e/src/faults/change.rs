//! What people do to a pipeline while messages flow: scaling it again and again, and replacing all of its workers.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crds::worker::Component;
use kube::ResourceExt;
use serde_json::json;
use snafu::whatever;
use tokio::time::sleep;

use super::{PATIENCE, PROCESSORS, Trial, crash::is_ready};
use crate::{Result, wait::eventually};

/// How long, seconds, and how often the number of processors changes.
const STORM: u64 = 60;
const TURN: Duration = Duration::from_secs(10);

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

/// Has all workers replaced, as a new version of their image or configuration does.
pub async fn rolling_update(trial: &Trial<'_>) -> Result<String> {
    let components = [Component::Bridge, Component::Processor];
    let mut before = BTreeSet::new();
    for component in components {
        before.extend(trial.pods(component).await?.iter().filter_map(ResourceExt::uid));
    }
    let pod = json!({"pod": {"annotations": {"iotpipeline.dev/rolled": "once"}}});
    trial.test.patch(json!({"spec": {"bridge": pod, "processor": pod}})).await?;
    eventually(PATIENCE, "all workers are replaced", async || {
        let mut pods = trial.pods(Component::Bridge).await?;
        pods.extend(trial.pods(Component::Processor).await?);
        let new = pods.iter().filter(|pod| is_ready(pod) && !before.contains(&pod.uid().unwrap_or_default()));
        let new = new.count();
        let is_done = new == before.len() && pods.len() == new;
        Ok(is_done.then_some(()).ok_or(format!("{new} new ones of {}", pods.len())))
    })
    .await?;
    Ok(format!("{} workers were replaced", before.len()))
}
