//! How many processors there are, where the operator decides it (`processor.mode: BuiltIn`) or says what it would
//! decide (`Advise`), and how many bridges (`bridge.mode: BuiltIn`). No I/O here: `policy` and `bridges` decide, `probe` looks
//! every second, and a reconciliation does what was decided, as it does everything else.
//!
//! What is known can be lost: an operator that starts begins with the replicas that there are.

pub mod bridges;
pub mod policy;
pub mod probe;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use access::kafka::KafkaAccess;
use crds::{
    IoTPipeline,
    pipeline::Suspend,
    status::AutoscalingReason,
    worker::{Component, RoleConfig, StartFrom},
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::broadcast;

use self::policy::{Decision, Policy, Reading};
use crate::{
    memory::{PipelineKey, key_of},
    pipeline::{Autoscaling, Pipeline, TopicName},
    reconcile::{
        fetch::Workers,
        plan::ReplicasPatch,
        sessions::{bridge_pod, leaving_from, staying_bridges},
    },
};

/// How often another reason for the same number of replicas is told at once; otherwise it is told at the next look.
const BETWEEN_REASONS: Duration = Duration::from_secs(60);

/// How many changes a listener may be behind. One that is further behind looks at the pipelines at their next look.
const CHANGES_KEPT: usize = 1024;

/// The pipelines that are scaled, and what was decided about each.
#[derive(Debug)]
pub struct Scaling {
    begun: Instant,
    watched: Mutex<HashMap<PipelineKey, Watched>>,
    bridges: Mutex<HashMap<PipelineKey, WatchedBridges>>,
    changes: broadcast::Sender<PipelineKey>,
}

/// A pipeline that is scaled, as the last reconciliation saw it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Between which bounds, and whether the decision is followed.
    pub autoscaling: Autoscaling,
    /// How to reach the Kafka cluster.
    pub kafka: KafkaAccess,
    /// The topic.
    pub topic: TopicName,
    /// Where a partition begins that was never read.
    pub start_from: StartFrom,
    /// How many replicas are asked of Kubernetes.
    pub replicas: i32,
    /// The processors' pods.
    pub pods: Vec<Pod>,
}

/// The bridges of a pipeline, where their number is decided, as the last reconciliation saw them.
#[derive(Clone, Debug)]
pub struct BridgeTarget {
    /// Between which bounds, and with what aim.
    pub settings: bridges::Settings,
    /// How many are asked of Kubernetes.
    pub replicas: i32,
    /// Whether they are all there and ready, and none of them leaves.
    pub is_settled: bool,
    /// Their pods.
    pub pods: Vec<Pod>,
}

#[derive(Debug)]
struct WatchedBridges {
    target: Arc<BridgeTarget>,
    policy: bridges::Policy,
    decision: Option<bridges::Decision>,
    told_at: Duration,
}

#[derive(Debug)]
struct Watched {
    target: Arc<Target>,
    policy: Policy,
    decision: Option<Decision>,
    told_at: Duration,
    /// The next offset of each partition, as the database had it a while ago; `None` until it was asked.
    stored: Option<BTreeMap<i32, i64>>,
    /// The same, as its processor said last.
    reported: BTreeMap<i32, i64>,
}

impl Default for Scaling {
    fn default() -> Self {
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        Self { begun: Instant::now(), watched: Mutex::default(), bridges: Mutex::default(), changes }
    }
}

impl Scaling {
    /// Takes note of a pipeline as it is, and makes the numbers of its processors and bridges the decided ones. Called by
    /// each reconciliation, before it plans.
    pub fn follow(&self, pipeline: &mut Pipeline, object: &IoTPipeline, workers: &Workers) {
        self.follow_processors(pipeline, workers);
        self.follow_bridges(pipeline, object, workers);
    }

    fn follow_bridges(&self, pipeline: &mut Pipeline, object: &IoTPipeline, workers: &Workers) {
        let key = pipeline.key();
        let scaled = pipeline.scaled_bridges();
        let is_decided_here = pipeline.bridge_scaling.is_some();
        let Some(bridge) = &mut pipeline.bridge else { return };
        let staying = staying_bridges(object, workers);
        let Some(settings) = scaled else {
            // What is only compared does not differ by a number that nobody has decided.
            if is_decided_here && bridge.replicas > 0 {
                bridge.replicas = staying.unwrap_or(bridge.replicas);
            }
            self.lock_bridges().remove(&key);
            return;
        };
        let decided = self.bridge_decision(&key).map(|decision| decision.desired);
        bridge.replicas = decided.or(staying).unwrap_or(bridge.replicas).clamp(settings.min, settings.max);
        if let Some(staying) = staying {
            let now = self.now();
            let mut watched = self.lock_bridges();
            let target = Arc::new(bridge_target(&pipeline.id.name, settings, workers));
            let one = watched.entry(key).or_insert_with(|| WatchedBridges {
                target: Arc::clone(&target),
                policy: bridges::Policy::new(staying),
                decision: None,
                told_at: now,
            });
            one.target = target;
        }
    }

    fn follow_processors(&self, pipeline: &mut Pipeline, workers: &Workers) {
        let key = pipeline.key();
        let present =
            workers.workload(&pipeline.id.name, Component::Processor).map(|live| live.rollout().wanted);
        let Some(autoscaling) = pipeline.scaled() else {
            // What is only compared does not differ by a number that nobody has decided.
            if pipeline.autoscaling.is_some_and(|one| one.acts) && pipeline.suspend == Suspend::None {
                pipeline.processor.replicas = present.unwrap_or(pipeline.processor.replicas);
            }
            self.lock().remove(&key);
            return;
        };
        let decided = self.decision(&key).map(|decision| decision.desired);
        if autoscaling.acts {
            pipeline.processor.replicas =
                replicas(autoscaling, decided, present, pipeline.processor.replicas);
        }
        if let Some(present) = present {
            self.watch(key, target(pipeline, autoscaling, present, workers));
        }
    }

    /// Takes note of the processors of a pipeline whose spec is refused, which go on with what they were told last. Answers
    /// what makes them as many as there shall be, where they are not.
    pub fn keep_following(&self, object: &IoTPipeline, workers: &Workers) -> Option<ReplicasPatch> {
        let live = workers.workload(&object.name_any(), Component::Processor)?;
        let present = live.rollout().wanted;
        let mut watched = self.lock();
        let one = watched.get_mut(&key_of(object))?;
        let target = Target { replicas: present, pods: processors(workers), ..Target::clone(&one.target) };
        one.target = Arc::new(target);
        let desired = one.decision.as_ref().filter(|_| one.target.autoscaling.acts)?.desired;
        (desired != present).then(|| ReplicasPatch { live: live.clone(), replicas: desired })
    }

    /// What was decided last about a pipeline.
    pub fn decision(&self, key: &PipelineKey) -> Option<Decision> {
        self.lock().get(key).and_then(|watched| watched.decision.clone())
    }

    /// What was decided last about a pipeline's bridges.
    pub fn bridge_decision(&self, key: &PipelineKey) -> Option<bridges::Decision> {
        self.lock_bridges().get(key).and_then(|watched| watched.decision.clone())
    }

    /// Every pipeline about whose processors something was decided.
    pub fn decisions(&self) -> Vec<(PipelineKey, Decision)> {
        in_order(self.lock().iter().filter_map(|(key, one)| Some((key.clone(), one.decision.clone()?))))
    }

    /// Every pipeline about whose bridges something was decided.
    pub fn bridge_decisions(&self) -> Vec<(PipelineKey, bridges::Decision)> {
        let watched = self.lock_bridges();
        in_order(watched.iter().filter_map(|(key, one)| Some((key.clone(), one.decision.clone()?))))
    }

    /// Takes note of what the database says of the positions: all there is to know while no processor runs. A fail-over or a
    /// restore may have set them back since one said something.
    pub fn note_positions(&self, key: &PipelineKey, positions: BTreeMap<i32, i64>) {
        if let Some(watched) = self.lock().get_mut(key) {
            if watched.target.pods.is_empty() {
                watched.reported.clear();
            }
            watched.stored = Some(positions);
        }
    }

    /// Whether the database is still to be asked for the positions.
    pub fn lacks_positions(&self, key: &PipelineKey) -> bool {
        self.lock().get(key).is_some_and(|watched| watched.stored.is_none())
    }

    /// A pipeline is gone, or is scaled no more.
    pub fn forget(&self, key: &PipelineKey) {
        self.lock().remove(key);
        self.lock_bridges().remove(key);
    }

    /// The pipelines whose decision is another one from now on, as it happens.
    pub fn changes(&self) -> broadcast::Receiver<PipelineKey> {
        self.changes.subscribe()
    }

    fn watch(&self, key: PipelineKey, target: Target) {
        let now = self.now();
        let mut watched = self.lock();
        let one = watched.entry(key).or_insert_with(|| Watched {
            policy: Policy::new(target.replicas, now),
            target: Arc::new(target.clone()),
            decision: None,
            told_at: now,
            stored: None,
            reported: BTreeMap::new(),
        });
        if !target.autoscaling.acts {
            one.policy.follow(target.replicas, now);
        }
        one.target = Arc::new(target);
    }

    fn targets(&self) -> Vec<(PipelineKey, Arc<Target>)> {
        self.lock().iter().map(|(key, watched)| (key.clone(), Arc::clone(&watched.target))).collect()
    }

    fn bridge_targets(&self) -> Vec<(PipelineKey, Arc<BridgeTarget>)> {
        let watched = self.lock_bridges();
        watched.iter().map(|(key, watched)| (key.clone(), Arc::clone(&watched.target))).collect()
    }

    /// Takes note of what the processors say, and answers how far each partition is; `None` until the database was asked,
    /// because a partition of which nothing is known was perhaps never read.
    fn positions(&self, key: &PipelineKey, reported: BTreeMap<i32, i64>) -> Option<BTreeMap<i32, i64>> {
        let mut pipelines = self.lock();
        let watched = pipelines.get_mut(key)?;
        watched.reported.extend(reported);
        let mut positions = watched.stored.clone()?;
        positions.extend(&watched.reported);
        Some(positions)
    }

    /// Decides, and tells who listens where that makes a difference.
    fn decide(&self, key: &PipelineKey, reading: Option<&Reading>) {
        let now = self.now();
        let mut pipelines = self.lock();
        let Some(watched) = pipelines.get_mut(key) else { return };
        let Autoscaling { acts, settings } = watched.target.autoscaling;
        let decision = if acts {
            watched.policy.decide(now, reading, &settings)
        } else {
            watched.policy.advise(now, reading, &settings)
        };
        let Decision { desired, reason, message, .. } = &decision;
        let before = watched.decision.as_ref().map(|before| (before.desired, before.reason));
        let since_told = now.saturating_sub(watched.told_at);
        if is_news(before, (*desired, *reason), watched.target.replicas, since_told) {
            tracing::info!(namespace = key.0, pipeline = key.1, acts, desired, %reason, "{message}");
            watched.told_at = now;
            self.tell(key);
        }
        watched.decision = Some(decision);
    }

    /// As [`Scaling::decide`], for the bridges.
    fn decide_bridges(&self, key: &PipelineKey, reading: Option<&bridges::Reading>) {
        let now = self.now();
        let mut pipelines = self.lock_bridges();
        let Some(watched) = pipelines.get_mut(key) else { return };
        let decision = watched.policy.decide(now, reading, &watched.target.settings);
        let bridges::Decision { desired, reason, message, .. } = &decision;
        let before = watched.decision.as_ref().map(|before| (before.desired, before.reason));
        let since_told = now.saturating_sub(watched.told_at);
        if is_news(before, (*desired, *reason), watched.target.replicas, since_told) {
            tracing::info!(namespace = key.0, pipeline = key.1, bridges = desired, %reason, "{message}");
            watched.told_at = now;
            self.tell(key);
        }
        watched.decision = Some(decision);
    }

    fn tell(&self, key: &PipelineKey) {
        // Nobody listens while the operator stops.
        let _ = self.changes.send(key.clone());
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PipelineKey, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_bridges(&self) -> MutexGuard<'_, HashMap<PipelineKey, WatchedBridges>> {
        self.bridges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether who listens is told of a decision, a number and its reason: at once where the number is another one.
fn is_news(
    before: Option<(i32, AutoscalingReason)>,
    (desired, reason): (i32, AutoscalingReason),
    present: i32,
    since_told: Duration,
) -> bool {
    match before {
        None => desired != present,
        Some((before, _)) if before != desired => true,
        Some(_) if since_told < BETWEEN_REASONS => false,
        Some((_, before)) => before != reason,
    }
}

fn in_order<D>(decisions: impl Iterator<Item = (PipelineKey, D)>) -> Vec<(PipelineKey, D)> {
    let mut decisions: Vec<_> = decisions.collect();
    decisions.sort_by(|(a, _), (b, _)| a.cmp(b));
    decisions
}

/// The bridges as they are; none, where nothing runs them.
fn bridge_target(pipeline: &str, settings: bridges::Settings, workers: &Workers) -> BridgeTarget {
    let Some(bridge) = workers.workload(pipeline, Component::Bridge) else {
        return BridgeTarget { settings, replicas: 0, is_settled: false, pods: Vec::new() };
    };
    let rollout = bridge.rollout();
    let leaves = workers.bridge_configuration(pipeline).and_then(|running| leaving_from(&running)).is_some();
    let pods: Vec<_> = (0..rollout.wanted)
        .filter_map(|ordinal| bridge_pod(workers, bridge, ordinal))
        .map(|pod| pod.pod.clone())
        .collect();
    let are_there = i32::try_from(pods.len()) == Ok(rollout.wanted);
    BridgeTarget {
        settings,
        replicas: rollout.wanted,
        is_settled: rollout.wanted > 0 && rollout.is_complete() && !leaves && are_there,
        pods,
    }
}

/// How many there shall be: as decided; as there are, where nothing was decided yet; as the spec says at first.
fn replicas(autoscaling: Autoscaling, decided: Option<i32>, present: Option<i32>, at_first: i32) -> i32 {
    let policy::Settings { min, max, .. } = autoscaling.settings;
    decided.unwrap_or_else(|| match present {
        Some(present) => present.clamp(min, max),
        None => at_first.clamp(min.max(1), max),
    })
}

fn target(pipeline: &Pipeline, autoscaling: Autoscaling, replicas: i32, workers: &Workers) -> Target {
    let start_from = match &pipeline.processor.config.role {
        RoleConfig::Processor(processor) => processor.start_from.clone(),
        RoleConfig::Bridge(_) => StartFrom::Earliest,
    };
    Target {
        autoscaling,
        kafka: pipeline.topic.kafka.clone(),
        topic: pipeline.topic.name.clone(),
        start_from,
        replicas,
        pods: processors(workers),
    }
}

/// The processors' pods, but for those that go.
fn processors(workers: &Workers) -> Vec<Pod> {
    let processors = workers.pods.iter().filter(|pod| pod.component == Component::Processor);
    let pods = processors.filter(|pod| pod.pod.metadata.deletion_timestamp.is_none());
    pods.map(|pod| pod.pod.clone()).collect()
}
