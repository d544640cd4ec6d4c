//! What is seen of a pipeline while it is scaled, several times a second, and what that tells. I/O only in [`Looks`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crds::{
    names::worker_name,
    status::{AutoscalingReason, AutoscalingStatus},
    worker::Component,
};
use k8s_openapi::api::apps::v1::Deployment;
use snafu::{OptionExt, ResultExt};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    Result,
    scenario::{PIPELINE, Scenario},
};

/// How often to look.
const PERIOD: Duration = Duration::from_millis(250);

/// A lag is gone once it has not been there for so long.
const GONE: Duration = Duration::from_secs(10);

/// What is seen at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// When, since the looking began.
    pub at: Duration,
    /// Records of the topic that are no rows yet.
    pub lag: i64,
    /// How many processors the Deployment asks for.
    pub replicas: i32,
    /// How many of them are ready.
    pub ready: i32,
    /// What the pipeline's status says of the decision, once it says something.
    pub decision: Option<AutoscalingStatus>,
}

/// Looks at the pipeline of a scenario until it is dropped.
pub struct Looks {
    begun: Instant,
    seen: Arc<Mutex<Vec<Look>>>,
    task: JoinHandle<()>,
}

impl Looks {
    /// Begins.
    pub fn watch(test: Scenario) -> Self {
        let (begun, seen) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
        let task = tokio::spawn(keep_looking(test, begun, Arc::clone(&seen)));
        Self { begun, seen, task }
    }

    /// How long it has looked.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// All that was seen, in order.
    pub fn seen(&self) -> Vec<Look> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_looking(test: Scenario, begun: Instant, seen: Arc<Mutex<Vec<Look>>>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A busy server that does not answer is looked at again.
        if let Ok(look) = look(&test, begun).await {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(look);
        }
    }
}

async fn look(test: &Scenario, begun: Instant) -> Result<Look> {
    // First the ends, so that a lag is rather too small than one that is not there.
    let (ends, positions) = (test.kafka.ends(&test.topic()).await?, test.table().positions().await?);
    let at = begun.elapsed();
    let processors = worker_name(PIPELINE, Component::Processor);
    let deployment = test.cluster.api::<Deployment>(&test.namespace).get(&processors).await;
    let deployment = deployment.whatever_context("failed to read the Deployment")?;
    let pipeline = test.cluster.pipelines(&test.namespace).get(PIPELINE).await;
    let status = pipeline.whatever_context("failed to read the pipeline")?.status;
    let behind =
        ends.iter().map(|(partition, end)| (end - positions.get(partition).copied().unwrap_or(0)).max(0));
    Ok(Look {
        at,
        lag: behind.sum(),
        replicas: deployment.spec.and_then(|spec| spec.replicas).whatever_context("it has no replicas")?,
        ready: deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0),
        decision: status.and_then(|status| status.processor?.autoscaling),
    })
}

/// From the first look since `since` with a lag of more than `usual` to the first with more processors than then.
pub fn reaction(looks: &[Look], since: Duration, usual: i64) -> Option<Duration> {
    let behind = looks.iter().find(|look| look.at >= since && look.lag > usual)?;
    let more = looks.iter().find(|look| look.at >= behind.at && look.replicas > behind.replicas)?;
    Some(more.at - behind.at)
}

/// When the lag was back at `usual` and stayed there, after it was more since `since`.
pub fn drained_at(looks: &[Look], since: Duration, usual: i64) -> Option<Duration> {
    let last = looks.iter().rfind(|look| look.at >= since && look.lag > usual)?;
    let drained = looks.iter().find(|look| look.at > last.at)?;
    let seen_until = looks.last()?.at;
    (seen_until - drained.at >= GONE).then_some(drained.at)
}

/// A change of the number of processors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// When.
    pub at: Duration,
    /// How many there were.
    pub from: i32,
    /// How many there were to be.
    pub to: i32,
    /// Why, as the status said it first.
    pub reason: Option<AutoscalingReason>,
}

/// The changes of the number of processors since `since`.
pub fn changes(looks: &[Look], since: Duration) -> Vec<Change> {
    let change = |(index, pair): (usize, &[Look])| {
        let (from, to, at) = (pair[0].replicas, pair[1].replicas, pair[1].at);
        // The status is written a moment after the Deployment.
        let mut told = looks[index + 1..].iter().filter_map(|look| look.decision.as_ref());
        let reason = told.find(|told| told.desired_replicas == to).map(|told| told.reason);
        (at >= since && from != to).then_some(Change { at, from, to, reason })
    };
    looks.windows(2).enumerate().filter_map(change).collect()
}

/// How often a change was in another direction than the one before.
pub fn turns(changes: &[Change]) -> usize {
    let is_up = |change: &Change| change.to > change.from;
    changes.windows(2).filter(|pair| is_up(&pair[0]) != is_up(&pair[1])).count()
}

/// The fewest processors that take so many messages a second, where the one with the most partitions bounds all, by
/// what the operator measured; `None` where it measured nothing.
pub fn needed(rate: f64, partitions: i32, decision: &AutoscalingStatus) -> Option<i32> {
    let share = |replicas: i32| {
        f64::from(partitions) / f64::from((partitions + replicas - 1) / replicas.clamp(1, partitions))
    };
    let capacity = decision.capacity_rate? as f64 / share(decision.desired_replicas.max(1));
    (1..=partitions).find(|replicas| capacity * share(*replicas) >= rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look each second, of lag and replicas.
    fn looks(seen: &[(i64, i32)]) -> Vec<Look> {
        let reason = AutoscalingReason::ScaledUp;
        let look = |(second, (lag, replicas)): (u64, &(i64, i32))| Look {
            at: Duration::from_secs(second),
            lag: *lag,
            replicas: *replicas,
            ready: *replicas,
            decision: Some(AutoscalingStatus { desired_replicas: *replicas, reason, ..Default::default() }),
        };
        (0..).zip(seen).map(look).collect()
    }

    #[test]
    fn a_reaction_is_timed_from_the_lag_and_not_from_the_load() {
        let seconds = Duration::from_secs;
        let seen = looks(&[(90, 1), (10, 1), (50, 1), (500, 1), (900, 1), (1500, 3), (20, 3)]);
        assert_eq!(reaction(&seen, seconds(1), 100), Some(seconds(2)));
        assert_eq!(reaction(&seen[..5], seconds(1), 100), None, "nothing was changed");
        assert_eq!(reaction(&seen, seconds(6), 100), None, "nothing waits");
        let reason = Some(AutoscalingReason::ScaledUp);
        assert_eq!(changes(&seen, seconds(1)), [Change { at: seconds(5), from: 1, to: 3, reason }]);
    }

    #[test]
    fn a_lag_that_comes_back_was_not_gone() {
        let mut seen = vec![(10, 1), (900, 1), (50, 3), (700, 3)];
        seen.extend([(20, 3); 11]);
        assert_eq!(drained_at(&looks(&seen), Duration::ZERO, 100), Some(Duration::from_secs(4)));
        assert_eq!(drained_at(&looks(&seen[..9]), Duration::ZERO, 100), None, "not for long enough");
        assert_eq!(drained_at(&looks(&[(10, 1); 30]), Duration::ZERO, 100), None, "it never was there");
    }

    #[test]
    fn what_is_needed_follows_from_what_was_measured() {
        let decision =
            AutoscalingStatus { desired_replicas: 4, capacity_rate: Some(40_000), ..Default::default() };
        assert_eq!(needed(20_000.0, 12, &decision), Some(2));
        assert_eq!(needed(21_000.0, 12, &decision), Some(3));
        assert_eq!(needed(41_000.0, 12, &decision), Some(6), "5 are no faster than 4");
        assert_eq!(needed(1.0, 12, &AutoscalingStatus::default()), None);
    }

    #[test]
    fn a_turn_is_a_change_in_another_direction() {
        let seen = looks(&[(0, 1), (0, 3), (0, 4), (0, 2), (0, 1), (0, 2)]);
        assert_eq!(turns(&changes(&seen, Duration::ZERO)), 2);
    }
}
