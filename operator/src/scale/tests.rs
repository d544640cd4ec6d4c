use crds::{
    names::WORKER_CONFIG_KEY,
    status::{AutoscalingReason, BridgeStatus},
};
use serde_json::json;

use super::*;
use crate::{
    build::{ChildKind, pod},
    reconcile::fetch::{LiveChild, WorkerPod},
    scale::policy::{Inputs, Partition},
    test_support::{QUICKSTART, object, pipeline},
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
    scaling.follow_processors(&mut pipeline, &with(1));
    let inputs =
        Inputs { lag: 7, arrival: 3.5, drained: 2.5, capacity: Some(10.0), stuck: 0, waiting: Some(0.75) };
    let decision =
        Decision { desired: 2, reason: AutoscalingReason::ScaledUp, message: String::new(), inputs };
    scaling.lock().get_mut(&pipeline.key()).unwrap().decision = Some(decision);
    let (spec, workers) = (shared("{mode: BuiltIn, maxReplicas: 3}"), bridges(1));
    scaling.follow_bridges(&mut self::pipeline(&spec), &object(&spec), &workers);
    let decision = bridges::Decision {
        desired: 2,
        reason: AutoscalingReason::ScaledUp,
        message: String::new(),
        rate: Some(12_000.0),
    };
    scaling.lock_bridges().get_mut(&pipeline.key()).unwrap().decision = Some(decision);
    scaling
}

fn with(replicas: i32) -> Workers {
    Workers { children: vec![deployment(replicas)], pods: Vec::new() }
}

/// A pipeline whose bridges share, with these fields of theirs.
fn shared(bridge: &str) -> String {
    let shared = QUICKSTART.replacen("  mqtt:\n", "  mqtt:\n    session: Shared\n", 1);
    format!("{shared}  bridge: {bridge}\n")
}

/// The bridges' StatefulSet, with so many replicas.
fn bridges(replicas: i32) -> Workers {
    let object = json!({"metadata": {"name": "line-bridge"}, "spec": {"replicas": replicas}});
    let object = serde_json::from_value(object).unwrap();
    Workers { children: vec![LiveChild { kind: ChildKind::StatefulSet, object }], pods: Vec::new() }
}

/// How many bridges there shall be, where there are so many.
fn followed(scaling: &Scaling, spec: &str, present: i32) -> i32 {
    let mut pipeline = pipeline(spec);
    scaling.follow(&mut pipeline, &object(spec), &bridges(present));
    pipeline.bridge.unwrap().replicas
}

#[test]
fn what_is_decided_about_bridges_is_told_and_followed() {
    let scaling = Scaling::default();
    let mut changes = scaling.changes();
    let spec = shared("{mode: BuiltIn, replicas: 2, maxReplicas: 4}");
    let key = pipeline(&spec).key();
    let mut first = pipeline(&spec);
    scaling.follow(&mut first, &object(&spec), &Workers::default());
    assert_eq!(first.bridge.unwrap().replicas, 2, "so many there are at first");
    assert!(scaling.bridge_targets().is_empty());
    assert_eq!(followed(&scaling, &spec, 3), 3, "an operator that starts goes on with those there are");
    scaling.decide_bridges(&key, None);
    assert_eq!(scaling.bridge_decision(&key).unwrap().reason, AutoscalingReason::SignalMissing);
    assert!(changes.try_recv().is_err(), "it is the number that there is");
    // Another spec meanwhile.
    let spec = shared("{mode: BuiltIn, maxReplicas: 2}");
    assert_eq!(followed(&scaling, &spec, 3), 2, "within the bounds at once");
    scaling.decide_bridges(&key, None);
    assert_eq!(changes.try_recv().unwrap(), key);
    assert_eq!(followed(&scaling, &spec, 1), 2, "scaled by hand: the decision holds");
    assert_eq!(scaling.decision(&key), None, "processors are another matter");
    scaling.forget(&key);
    assert_eq!(scaling.bridge_decision(&key), None);
}

/// Two bridges, of which so many are ready, with these pods; from some ordinal on they may leave.
fn two_bridges(ready: i32, pods: &[i32], leaving_from: Option<i32>) -> Workers {
    let volumes = json!([{"name": pod::CONFIG_VOLUME, "configMap": {"name": "of-bridges"}}]);
    let child = |kind, object| LiveChild { kind, object: serde_json::from_value(object).unwrap() };
    let statefulset = json!({
        "metadata": {"name": "line-bridge", "uid": "s", "generation": 1},
        "spec": {"replicas": 2, "template": {"spec": {"volumes": volumes}}},
        "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": ready},
    });
    let configuration = json!({"role": {"bridge": {"shared": {"retireFrom": leaving_from}}}}).to_string();
    let config_map = json!({"metadata": {"name": "of-bridges"}, "data": {WORKER_CONFIG_KEY: configuration}});
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "line-bridge", "uid": "s"}]);
    let pod = |ordinal: &i32| {
        let metadata = json!({"name": format!("line-bridge-{ordinal}"), "ownerReferences": owner});
        let pod = json!({"metadata": metadata, "spec": {"containers": [], "volumes": volumes}});
        let pod = serde_json::from_value(pod).unwrap();
        WorkerPod { component: Component::Bridge, pod, report: None }
    };
    Workers {
        children: vec![child(ChildKind::StatefulSet, statefulset), child(ChildKind::ConfigMap, config_map)],
        pods: pods.iter().map(pod).collect(),
    }
}

#[test]
fn bridges_are_settled_once_all_are_there_and_ready_and_none_leaves() {
    let settings = bridges::Settings { min: 1, max: 3, target_rate: 1 };
    let target = |workers: &Workers| {
        let target = bridge_target("line", settings, workers);
        (target.replicas, target.pods.len(), target.is_settled)
    };
    assert_eq!(target(&two_bridges(2, &[0, 1], None)), (2, 2, true));
    assert_eq!(target(&two_bridges(1, &[0, 1], None)), (2, 2, false));
    assert_eq!(target(&two_bridges(2, &[0], None)), (2, 1, false));
    assert_eq!(target(&two_bridges(2, &[0, 1], Some(1))), (2, 2, false));
    assert_eq!(target(&Workers::default()), (0, 0, false));
}

#[test]
fn bridges_that_are_suspended_observed_or_fixed_are_not_scaled() {
    let scaling = Scaling::default();
    let built_in = shared("{mode: BuiltIn, replicas: 1, maxReplicas: 3}");
    let watched = |spec: &str| (followed(&scaling, spec, 2), scaling.bridge_targets().len());
    assert_eq!(watched(&built_in), (2, 1));
    assert_eq!(watched(&format!("{built_in}  suspend: Processor\n")), (2, 1));
    assert_eq!(watched(&format!("{built_in}  suspend: All\n")), (0, 0));
    assert_eq!(watched(&format!("{built_in}  mode: Observe\n")), (2, 0));
    assert_eq!(watched(&shared("{replicas: 3}")), (3, 0));
}

#[test]
fn bridges_that_were_suspended_come_back_as_many_as_have_sessions() {
    let spec = shared("{mode: BuiltIn, maxReplicas: 4}");
    let mut object = object(&spec);
    let bridge = BridgeStatus { sessions: Some(3), ..BridgeStatus::default() };
    object.status.get_or_insert_default().bridge = Some(bridge);
    let mut pipeline = pipeline(&spec);
    Scaling::default().follow(&mut pipeline, &object, &bridges(0));
    assert_eq!(pipeline.bridge.unwrap().replicas, 3);
}

#[test]
fn what_is_decided_is_told_and_followed() {
    let scaling = Scaling::default();
    let mut changes = scaling.changes();
    let spec = pipeline(&format!("{QUICKSTART}{BUILT_IN}"));
    let key = spec.key();
    let mut first = spec.clone();
    scaling.follow_processors(&mut first, &with(1));
    assert_eq!(first.processor.replicas, 1);
    assert!(scaling.lacks_positions(&key));
    assert_eq!(scaling.positions(&key, BTreeMap::from([(1, 8)])), None);
    scaling.note_positions(&key, BTreeMap::from([(0, 7)]));
    let known = scaling.positions(&key, BTreeMap::from([(1, 9)])).unwrap();
    assert_eq!(known, BTreeMap::from([(0, 7), (1, 9)]));
    // An operator that was told another spec meanwhile: 5 are more than maxReplicas.
    let mut by_hand = spec.clone();
    scaling.forget(&key);
    scaling.follow_processors(&mut by_hand, &with(5));
    assert_eq!(by_hand.processor.replicas, 3, "within the bounds at once");
    let partitions = (0..3).map(|index| (index, Partition { end: 0, position: 0, is_owned: true })).collect();
    let reading = Reading { partitions, replicas: 5, ready: 5, ..Reading::default() };
    scaling.decide(&key, Some(&reading));
    assert_eq!(scaling.decision(&key).unwrap().desired, 3);
    assert_eq!(changes.try_recv().unwrap(), key);
    scaling.decide(&key, Some(&reading));
    assert!(changes.try_recv().is_err(), "nothing is told twice");
    // Scaled by hand: the decision holds.
    let mut again = spec.clone();
    scaling.follow_processors(&mut again, &with(2));
    assert_eq!(again.processor.replicas, 3);
}

#[test]
fn what_is_suspended_observed_or_only_advised_is_not_scaled() {
    let scaling = Scaling::default();
    let replicas = |more: &str| {
        let mut pipeline = pipeline(&format!("{QUICKSTART}{more}"));
        scaling.follow_processors(&mut pipeline, &with(2));
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

#[test]
fn positions_that_the_database_sets_back_count_once_no_processor_runs() {
    let scaling = Scaling::default();
    let mut pipeline = pipeline(&format!("{QUICKSTART}{BUILT_IN}"));
    let key = pipeline.key();
    scaling.follow_processors(&mut pipeline, &with(0));
    scaling.note_positions(&key, BTreeMap::from([(0, 40)]));
    let reported = BTreeMap::from([(0, 50)]);
    assert_eq!(scaling.positions(&key, reported.clone()), Some(reported.clone()));
    assert_eq!(scaling.positions(&key, BTreeMap::new()), Some(reported), "the last one said so");
    scaling.note_positions(&key, BTreeMap::from([(0, 45)]));
    assert_eq!(scaling.positions(&key, BTreeMap::new()), Some(BTreeMap::from([(0, 45)])));
}
