//! What to do with the workers' objects. Pure.

use std::collections::BTreeMap;

use crds::{names, status::Reason, worker::Component};
use kube::ResourceExt;
use serde_json::Value;

use super::{
    ownership::{Ownership, is_owned, ownership},
    renewal::{ReplicasPatch, renewal},
};
use crate::{
    build::{self, Child, ChildKind, WorkerSettings, build_configuration, build_worker, workload_kind},
    change::{Change, Note, Refusal},
    pipeline::{Pipeline, Worker},
    reconcile::{
        drift::{changes_of_child, differs, repairs_of_child},
        fetch::{LiveChild, Workers},
        rollout::HELD_BACK,
        sessions::leaving_from,
    },
};

/// What to do with one kind of worker.
#[derive(Debug, Default)]
pub struct WorkerPlan {
    /// What to write in any case: repairs, and everything that does not change what the workers do.
    pub keep: Vec<Child>,
    /// What to write only once the stores are as the workers will expect them: a first configuration or another.
    pub roll: Vec<Child>,
    /// Whether writing these lets pods go on that do their work: there are only more of them or fewer, or only those that
    /// leave start anew.
    pub lets_some_go_on: bool,
    /// What writing these undoes of what somebody did by hand, by kind and name.
    pub repairs: BTreeMap<(ChildKind, String), Vec<Change>>,
    /// Objects in the way.
    pub problems: Vec<Refusal>,
    /// Why there shall be no pods for now, where that is not what the spec says.
    pub hold: Option<Refusal>,
    /// What a person should know although they do their work.
    pub note: Option<Note>,
    /// Where this replaces pods although nobody changed the spec: what is left to do until it is their turn.
    pub renewal: Option<ReplicasPatch>,
    /// Whether such pods wait for their turn.
    pub awaits_turn: bool,
    /// The number of pods to set meanwhile, where it differs.
    pub scale: Option<ReplicasPatch>,
}

/// Plans one kind of worker. `is_applied` says whether all of this spec was brought about before.
///
/// # Errors
/// Fails where an object cannot be built, which is a bug.
pub fn plan_worker(
    pipeline: &Pipeline,
    worker: &Worker,
    workers: &Workers,
    settings: &WorkerSettings,
    is_applied: bool,
) -> Result<WorkerPlan, build::Error> {
    let component = worker.component();
    let configuration = build_configuration(pipeline, worker)?;
    let workload = workers.workload(&pipeline.id.name, component);
    // With the same configuration a write to the workload is a repair, another number of pods or another image:
    // nothing for which the stores have to be changed first.
    let runs_this_configuration =
        workload.is_some_and(|workload| workload.configuration() == Some(configuration.name.as_str()));
    // A spec that is brought about in steps is noted as applied with the first one. The others are a person's too.
    let is_in_steps = component == Component::Bridge && bridges_are_in_steps(pipeline, workers);
    let mut plan = WorkerPlan::default();
    let children = build_worker(pipeline, worker, &configuration.name, settings)?;
    for child in std::iter::once(configuration).chain(children) {
        let live = workers
            .children
            .iter()
            .find(|live| live.kind == child.kind && live.object.name_any() == child.name);
        match live.map(|live| ownership(pipeline, live)) {
            Some(Ownership::SomebodyElses) => plan.problems.push(in_the_way(pipeline, &child)),
            Some(Ownership::Going) => plan.problems.push(on_its_way_out(&child)),
            Some(Ownership::Ours) if !live.is_some_and(|live| is_drifted(&child, live)) => {}
            Some(Ownership::Ours) | None => {
                let repairs = repairs_of_child(&child, live, is_applied);
                plan.repairs.insert((child.kind, child.name.clone()), repairs);
                let is_workload = child.kind == workload_kind(component);
                if is_workload {
                    plan.lets_some_go_on = live.is_some_and(|live| lets_some_go_on(&child, live));
                    plan.renewal = live.and_then(|live| renewal(&child, live, is_applied && !is_in_steps));
                }
                let is_for_the_pods = is_workload || child.kind == ChildKind::ConfigMap;
                if is_for_the_pods && !runs_this_configuration {
                    plan.roll.push(child);
                } else {
                    plan.keep.push(child);
                }
            }
        }
    }
    Ok(plan)
}

/// Whether the bridges run with the configuration of a step: of some that leave, or of a spool that is emptied.
fn bridges_are_in_steps(pipeline: &Pipeline, workers: &Workers) -> bool {
    workers.bridge_configuration(&pipeline.id.name).is_some_and(|running| {
        leaving_from(&running).is_some() || running["role"]["bridge"]["spool"]["closing"] == true
    })
}

fn is_drifted(child: &Child, live: &LiveChild) -> bool {
    // An object that cannot be written as JSON is compared with nothing, and so repaired.
    let live = serde_json::to_value(&live.object).unwrap_or_default();
    differs(&child.object, &live)
}

/// Whether a workload of some pods becomes one of more or fewer of the same, or one where only the pods that leave are others.
fn lets_some_go_on(child: &Child, live: &LiveChild) -> bool {
    let has_some = live.rollout().wanted > 0 && child.object["spec"]["replicas"] != 0;
    // Those that stay keep their template while others leave. Afterwards it is that of the workload again; if it is not,
    // because the spec has changed meanwhile, the next look sees them start anew.
    let some_leave = live.rollout().held_back > 0
        || child.object.pointer(HELD_BACK).and_then(Value::as_i64).is_some_and(|held_back| held_back > 0);
    let is_only_scaled =
        || changes_of_child(child, Some(live)).iter().all(|change| change.field == "spec.replicas");
    has_some && (some_leave || is_only_scaled())
}

/// Everything of this pipeline that the plan does not name. A configuration goes only when no pod can need it any
/// more: after the roll that replaced it.
///
/// # Errors
/// Fails where an object cannot be built, which is a bug.
pub fn orphans<'a>(
    pipeline: &Pipeline,
    workers: &Workers,
    settings: &WorkerSettings,
    mut plans: impl Iterator<Item = &'a WorkerPlan>,
) -> Result<Vec<LiveChild>, build::Error> {
    let mut needed = Vec::new();
    let mut is_rolling = plans.any(|plan| !plan.roll.is_empty() || !plan.problems.is_empty());
    for worker in pipeline.workers() {
        let component = worker.component();
        let name = names::worker_name(&pipeline.id.name, component);
        let workload = workers.workload(&pipeline.id.name, component);
        is_rolling |= workload.is_none_or(|workload| {
            let rollout = workload.rollout();
            !rollout.is_complete() || rollout.held_back > 0
        });
        needed.push((ChildKind::ConfigMap, build_configuration(pipeline, worker)?.name));
        needed.extend(
            workload.and_then(LiveChild::configuration).map(|name| (ChildKind::ConfigMap, name.to_owned())),
        );
        for kind in [ChildKind::Service, ChildKind::PodDisruptionBudget, workload_kind(component)] {
            needed.push((kind, name.clone()));
        }
        if worker.spool.is_some() || workload.is_some_and(LiveChild::mounts_spool) {
            needed.push((ChildKind::PersistentVolumeClaim, names::spool_claim(&pipeline.id.name)));
        }
        if settings.ingress_from.is_some() {
            needed.push((ChildKind::NetworkPolicy, name));
        }
    }
    let is_orphan = |child: &&LiveChild| {
        is_owned(pipeline, child)
            && child.object.metadata.deletion_timestamp.is_none()
            && !needed.contains(&(child.kind, child.object.name_any()))
            && !(is_rolling && child.kind == ChildKind::ConfigMap)
    };
    Ok(workers.children.iter().filter(is_orphan).cloned().collect())
}

fn in_the_way(pipeline: &Pipeline, child: &Child) -> Refusal {
    Refusal {
        reason: Reason::ResourceConflict,
        message: format!(
            "{} {}/{} exists and does not belong to this IoTPipeline; delete it, or create the IoTPipeline under \
             another name",
            child.kind, pipeline.id.namespace, child.name
        ),
    }
}

fn on_its_way_out(child: &Child) -> Refusal {
    Refusal {
        reason: Reason::Progressing,
        message: format!("waits until the former {} {} is gone", child.kind, child.name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::{QUICKSTART, pipeline, worker_settings};

    /// The children of a pipeline as they are in the cluster, all pods new and ready.
    fn children(pipeline: &Pipeline) -> Vec<LiveChild> {
        let mut children = Vec::new();
        for worker in pipeline.workers() {
            let configuration = build_configuration(pipeline, worker).unwrap();
            children.extend(build_worker(pipeline, worker, &configuration.name, &worker_settings()).unwrap());
            children.push(configuration);
        }
        let settled = json!({"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1});
        children
            .into_iter()
            .map(|child| live(child.kind, child.object, |object| object["status"] = settled.clone()))
            .collect()
    }

    fn live(kind: ChildKind, mut object: Value, change: impl FnOnce(&mut Value)) -> LiveChild {
        change(&mut object);
        LiveChild { kind, object: serde_json::from_value(object).unwrap() }
    }

    fn names(children: &[Child]) -> Vec<String> {
        children.iter().map(|child| format!("{} {}", child.kind, child.name)).collect()
    }

    fn workers(children: Vec<LiveChild>) -> Workers {
        Workers { children, pods: Vec::new() }
    }

    fn plan_bridge(pipeline: &Pipeline, workers: &Workers) -> WorkerPlan {
        plan_worker(pipeline, pipeline.bridge.as_ref().unwrap(), workers, &worker_settings(), true).unwrap()
    }

    fn orphans_of(pipeline: &Pipeline, workers: &Workers) -> Vec<String> {
        let bridge = plan_bridge(pipeline, workers);
        let processor =
            plan_worker(pipeline, &pipeline.processor, workers, &worker_settings(), true).unwrap();
        let plans = [&bridge, &processor].into_iter();
        let orphans = orphans(pipeline, workers, &worker_settings(), plans).unwrap();
        orphans.iter().map(|orphan| orphan.object.name_any()).collect()
    }

    #[test]
    fn children_that_are_as_wanted_are_left_alone() {
        let pipeline = pipeline(QUICKSTART);
        let workers = workers(children(&pipeline));
        let plan = plan_bridge(&pipeline, &workers);
        assert!(plan.keep.is_empty() && plan.roll.is_empty() && plan.problems.is_empty(), "{plan:?}");
        assert_eq!(orphans_of(&pipeline, &workers), [""; 0]);
    }

    #[test]
    fn network_policies_go_when_they_are_turned_off() {
        let pipeline = pipeline(QUICKSTART);
        let workers = workers(children(&pipeline));
        let settings = WorkerSettings { ingress_from: None, ..worker_settings() };
        let orphans = orphans(&pipeline, &workers, &settings, std::iter::empty()).unwrap();
        let orphans: Vec<_> =
            orphans.iter().map(|orphan| format!("{} {}", orphan.kind, orphan.object.name_any())).collect();
        assert_eq!(orphans, ["NetworkPolicy line-bridge", "NetworkPolicy line-processor"]);
    }

    #[test]
    fn only_a_new_configuration_waits_for_the_stores() {
        let before = pipeline(QUICKSTART);
        let workers = workers(children(&before));
        let larger = pipeline(&format!("{QUICKSTART}  bridge: {{resources: {{limits: {{memory: 1Gi}}}}}}\n"));
        let plan = plan_bridge(&larger, &workers);
        assert_eq!(names(&plan.keep), ["StatefulSet line-bridge"]);
        assert_eq!(names(&plan.roll), [""; 0]);
        let other_filter = pipeline(&QUICKSTART.replace("plants/+", "sites/+"));
        let plan = plan_bridge(&other_filter, &workers);
        assert_eq!(names(&plan.keep), [""; 0]);
        assert_eq!(plan.roll.len(), 2, "{plan:?}");
    }

    #[test]
    fn only_another_number_of_pods_leaves_the_others_alone() {
        let plan = |before: i64, spec: &str| {
            let pipeline = pipeline(&format!("{QUICKSTART}{spec}"));
            let mut world = children(&pipeline);
            for child in &mut world {
                if child.kind == ChildKind::Deployment {
                    child.object.data["spec"]["replicas"] = json!(before);
                }
            }
            let workers = workers(world);
            plan_worker(&pipeline, &pipeline.processor, &workers, &worker_settings(), true).unwrap()
        };
        let three = "  processor: {replicas: 3}\n";
        assert!(plan(2, three).lets_some_go_on && plan(5, three).lets_some_go_on);
        assert!(!plan(3, three).lets_some_go_on, "nothing is written");
        assert!(!plan(0, three).lets_some_go_on, "there was none that could go on");
        assert!(!plan(3, "  suspend: Processor\n").lets_some_go_on, "there will be none");
        let others = "  processor: {replicas: 2, resources: {limits: {memory: 1Gi}}}\n";
        let before = workers(children(&pipeline(&format!("{QUICKSTART}{others}"))));
        let after = pipeline(&format!("{QUICKSTART}{three}"));
        let plan = plan_worker(&after, &after.processor, &before, &worker_settings(), true).unwrap();
        assert!(!plan.lets_some_go_on && !plan.keep.is_empty(), "the pods become others too");
    }

    #[test]
    fn a_superseded_configuration_is_kept_until_the_roll_is_complete() {
        let before = pipeline(QUICKSTART);
        let after = pipeline(&QUICKSTART.replace("plants/+", "sites/+"));
        let old_configuration = build_configuration(&before, before.bridge.as_ref().unwrap()).unwrap();
        let mut world = children(&after);
        world.push(live(ChildKind::ConfigMap, old_configuration.object, |_| {}));
        assert_eq!(orphans_of(&after, &workers(world.clone())), [old_configuration.name]);
        for child in &mut world {
            if child.kind == ChildKind::StatefulSet {
                child.object.data["status"]["readyReplicas"] = json!(0);
            }
        }
        assert_eq!(orphans_of(&after, &workers(world)), [""; 0]);
    }
}
