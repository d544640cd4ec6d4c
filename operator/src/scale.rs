//! How many processors there are, where the operator decides it (`processor.mode: BuiltIn`) or says what it would
//! decide (`Advise`). No I/O here: `policy` decides, `probe` looks every second, and a reconciliation does what was
//! decided, as it does everything else.
//!
//! What is known can be lost: an operator that starts begins with the replicas that there are.

pub mod policy;
pub mod probe;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use access::kafka::KafkaAccess;
use crds::{
    pipeline::Suspend,
    worker::{Component, RoleConfig, StartFrom},
};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::broadcast;

use self::policy::{Decision, Policy, Reading};
use crate::{
    build::workload_kind,
    memory::PipelineKey,
    pipeline::{Autoscaling, Pipeline, TopicName},
    reconcile::fetch::Workers,
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
        Self { begun: Instant::now(), watched: Mutex::default(), changes }
    }
}

impl Scaling {
    /// Takes note of a pipeline as it is, and makes the number of its processors the decided one. Called by each
    /// reconciliation, before it plans.
    pub fn follow(&self, pipeline: &mut Pipeline, workers: &Workers) {
        let key = pipeline.key();
        let name = crds::names::worker_name(&pipeline.id.name, Component::Processor);
        let present =
            workers.child(workload_kind(Component::Processor), &name).map(|live| live.rollout().wanted);
        let Some(autoscaling) = pipeline.scaled() else {
            // What is only compared does not differ by a number that nobody has decided.
            if pipeline.autoscaling.is_some_and(|one| one.acts) && pipeline.suspend == Suspend::None {
                pipeline.processor.replicas = present.unwrap_or(pipeline.processor.replicas);
            }
            return self.forget(&key);
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

    /// What was decided last about a pipeline.
    pub fn decision(&self, key: &PipelineKey) -> Option<Decision> {
        self.lock().get(key).and_then(|watched| watched.decision.clone())
    }

    /// Every pipeline about which something was decided.
    pub fn decisions(&self) -> Vec<(PipelineKey, Decision)> {
        let watched = self.lock();
        let decided = watched.iter().filter_map(|(key, one)| Some((key.clone(), one.decision.clone()?)));
        let mut decided: Vec<_> = decided.collect();
        decided.sort_by(|(a, _), (b, _)| a.cmp(b));
        decided
    }

    /// Takes note of what the database says of the positions: all there is to know while no processor runs.
    pub fn note_positions(&self, key: &PipelineKey, positions: BTreeMap<i32, i64>) {
        if let Some(watched) = self.lock().get_mut(key) {
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
        let is_news = match &watched.decision {
            None => decision.desired != watched.target.replicas,
            Some(before) if before.desired != decision.desired => true,
            Some(_) if now.saturating_sub(watched.told_at) < BETWEEN_REASONS => false,
            Some(before) => before.reason != decision.reason,
        };
        if is_news {
            let Decision { desired, reason, message, .. } = &decision;
            tracing::info!(namespace = key.0, pipeline = key.1, acts, desired, %reason, "{message}");
            watched.told_at = now;
            // Nobody listens while the operator stops.
            let _ = self.changes.send(key.clone());
        }
        watched.decision = Some(decision);
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PipelineKey, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
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
    let processors = workers.pods.iter().filter(|pod| pod.component == Component::Processor);
    let pods = processors.filter(|pod| pod.pod.metadata.deletion_timestamp.is_none());
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
        pods: pods.map(|pod| pod.pod.clone()).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crds::status::AutoscalingReason;
    use serde_json::json;

    use super::*;
    use crate::{
        build::ChildKind,
        reconcile::fetch::LiveChild,
        scale::policy::{Inputs, Partition},
        test_support::{QUICKSTART, pipeline},
    };

    const BUILT_IN: &str = "  processor: {mode: BuiltIn, maxReplicas: 3}\n";

    /// The processors' Deployment, with so many replicas.
    fn deployment(replicas: i32) -> LiveChild {
        let object = json!({"metadata": {"name": "line-processor"}, "spec": {"replicas": replicas}});
        LiveChild { kind: ChildKind::Deployment, object: serde_json::from_value(object).unwrap() }
    }

    /// One pipeline, about which something was decided.
    pub(crate) fn with_a_decision() -> Scaling {
        let scaling = Scaling::default();
        let mut pipeline = pipeline(&format!("{QUICKSTART}{BUILT_IN}"));
        scaling.follow(&mut pipeline, &with(1));
        let inputs = Inputs {
            lag: 7,
            arrival: 3.5,
            drained: 2.5,
            capacity: Some(10.0),
            stuck: 0,
            waiting: Some(0.75),
        };
        let decision =
            Decision { desired: 2, reason: AutoscalingReason::ScaledUp, message: String::new(), inputs };
        scaling.lock().get_mut(&pipeline.key()).unwrap().decision = Some(decision);
        scaling
    }

    fn with(replicas: i32) -> Workers {
        Workers { children: vec![deployment(replicas)], pods: Vec::new() }
    }

    #[test]
    fn what_is_decided_is_told_and_followed() {
        let scaling = Scaling::default();
        let mut changes = scaling.changes();
        let spec = pipeline(&format!("{QUICKSTART}{BUILT_IN}"));
        let key = spec.key();
        let mut first = spec.clone();
        scaling.follow(&mut first, &with(1));
        assert_eq!(first.processor.replicas, 1);
        assert!(scaling.lacks_positions(&key));
        assert_eq!(scaling.positions(&key, BTreeMap::from([(1, 8)])), None);
        scaling.note_positions(&key, BTreeMap::from([(0, 7)]));
        let known = scaling.positions(&key, BTreeMap::from([(1, 9)])).unwrap();
        assert_eq!(known, BTreeMap::from([(0, 7), (1, 9)]));
        // An operator that was told another spec meanwhile: 5 are more than maxReplicas.
        let mut by_hand = spec.clone();
        scaling.forget(&key);
        scaling.follow(&mut by_hand, &with(5));
        assert_eq!(by_hand.processor.replicas, 3, "within the bounds at once");
        let partitions =
            (0..3).map(|index| (index, Partition { end: 0, position: 0, is_owned: true })).collect();
        let reading = Reading { partitions, replicas: 5, ready: 5, ..Reading::default() };
        scaling.decide(&key, Some(&reading));
        assert_eq!(scaling.decision(&key).unwrap().desired, 3);
        assert_eq!(changes.try_recv().unwrap(), key);
        scaling.decide(&key, Some(&reading));
        assert!(changes.try_recv().is_err(), "nothing is told twice");
        // Scaled by hand: the decision holds.
        let mut again = spec.clone();
        scaling.follow(&mut again, &with(2));
        assert_eq!(again.processor.replicas, 3);
    }

    #[test]
    fn what_is_suspended_observed_or_only_advised_is_not_scaled() {
        let scaling = Scaling::default();
        let replicas = |more: &str| {
            let mut pipeline = pipeline(&format!("{QUICKSTART}{more}"));
            scaling.follow(&mut pipeline, &with(2));
            (pipeline.processor.replicas, scaling.targets().len())
        };
        assert_eq!(replicas(BUILT_IN), (2, 1));
        assert_eq!(replicas(&format!("{BUILT_IN}  suspend: Processor\n")), (0, 0));
        assert_eq!(replicas(&format!("{BUILT_IN}  mode: Observe\n")), (2, 0));
        assert_eq!(replicas("  processor: {mode: Advise, replicas: 1, maxReplicas: 3}\n"), (1, 1));
        assert_eq!(replicas("  processor: {mode: External, replicas: 3}\n"), (3, 0));
    }

    #[test]
    fn before_anything_is_decided_there_are_as_many_as_there_were() {
        let settings = policy::Settings { min: 1, max: 6, target_drain: Duration::from_secs(30) };
        let autoscaling = Autoscaling { acts: true, settings };
        assert_eq!(replicas(autoscaling, None, None, 2), 2);
        assert_eq!(replicas(autoscaling, None, Some(4), 2), 4);
        assert_eq!(replicas(autoscaling, None, Some(9), 2), 6);
        assert_eq!(replicas(autoscaling, None, Some(0), 2), 1, "it was suspended");
        assert_eq!(replicas(autoscaling, Some(3), Some(5), 2), 3, "scaled by hand");
        let to_zero = Autoscaling { settings: policy::Settings { min: 0, ..settings }, ..autoscaling };
        assert_eq!(replicas(to_zero, None, Some(0), 2), 0);
        assert_eq!(replicas(to_zero, None, None, 0), 1, "one at least looks what there is");
    }
}
