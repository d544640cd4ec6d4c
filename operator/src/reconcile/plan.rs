//! Third step: what to do so that the world is as the pipeline says. Synchronous, no client: it decides, and
//! `apply` does.

use crds::{
    names::{self, FINALIZER, PIPELINE_LABEL},
    pipeline::{DeletionPolicy, DeletionPolicySpec},
    status::Reason,
    worker::Component,
};
use jiff::Timestamp;
use kube::ResourceExt;

use super::{
    drift::differs,
    fetch::{LiveChild, Stores, Workers},
};
use crate::{
    build::{self, Child, ChildKind, WorkerImage, build_configuration, build_worker, pod, workload_kind},
    change::Refusal,
    kafka::{self, TopicPlan},
    pipeline::Pipeline,
    timescale::{self, Edition, TablePlan},
};

/// What to do.
#[derive(Debug)]
pub struct Plan {
    /// The finalizers to write, where they change.
    pub finalizers: Option<Vec<String>>,
    /// What to do with the table; `None` where the database does not answer.
    pub table: Option<TablePlan>,
    /// Whether the operator itself drops expired chunks now, because this edition has no policies.
    pub drop_expired_chunks: bool,
    /// What to do with the topic; `None` where Kafka does not answer, or the database, which knows whose it is.
    pub topic: Option<TopicPlan>,
    /// What to do with the bridge.
    pub bridge: WorkerPlan,
    /// What to do with the processor.
    pub processor: WorkerPlan,
    /// Objects of this pipeline that nothing needs any more.
    pub orphans: Vec<LiveChild>,
}

/// What to do with one kind of worker.
#[derive(Debug, Default)]
pub struct WorkerPlan {
    /// What to write in any case: repairs, and everything that does not change what the workers do.
    pub keep: Vec<Child>,
    /// What to write only once the stores are as the workers will expect them: a first configuration or another.
    pub roll: Vec<Child>,
    /// Objects in the way.
    pub problems: Vec<Refusal>,
}

/// Whose an object is that has the name of a child.
enum Ownership {
    Ours,
    /// Of a pipeline of this name that is gone, or on its way out: it will go by itself.
    Going,
    SomebodyElses,
}

/// Plans everything for a valid pipeline.
///
/// # Errors
/// Fails where an object cannot be built, which is a bug.
pub fn plan(
    pipeline: &Pipeline,
    finalizers: &[String],
    workers: &Workers,
    stores: &Stores,
    image: &WorkerImage,
    now: Timestamp,
) -> Result<Plan, build::Error> {
    let table = stores.table.as_ref().ok();
    let bridge = plan_worker(pipeline, Component::Bridge, workers, image)?;
    let processor = plan_worker(pipeline, Component::Processor, workers, image)?;
    let orphans = orphans(pipeline, workers, [&bridge, &processor])?;
    Ok(Plan {
        finalizers: plan_finalizers(&pipeline.deletion_policy, finalizers),
        table: table.map(|table| timescale::plan(&pipeline.table, &pipeline.id, table)),
        drop_expired_chunks: is_drop_of_chunks_due(pipeline, stores, now),
        topic: stores.topic.as_ref().ok().zip(table).map(|(topic, table)| {
            kafka::plan(&pipeline.topic, &pipeline.id, topic, table.topic_marker.as_ref())
        }),
        bridge,
        processor,
        orphans,
    })
}

/// Whether a policy asks for something to be deleted outside Kubernetes.
pub fn deletes_something(policy: &DeletionPolicySpec) -> bool {
    [policy.topic, policy.table].contains(&DeletionPolicy::Delete)
}

/// A pipeline that leaves nothing to delete has no finalizer, so that its deletion waits for nobody.
fn plan_finalizers(policy: &DeletionPolicySpec, finalizers: &[String]) -> Option<Vec<String>> {
    let mut wanted: Vec<String> = finalizers.iter().filter(|name| *name != FINALIZER).cloned().collect();
    if deletes_something(policy) {
        wanted.push(FINALIZER.to_owned());
    }
    let is_changed = wanted.len() != finalizers.len();
    is_changed.then_some(wanted)
}

fn is_drop_of_chunks_due(pipeline: &Pipeline, stores: &Stores, now: Timestamp) -> bool {
    let Ok(table) = &stores.table else { return false };
    let is_ours = table.marker.as_ref() == Some(&pipeline.id) && table.is_hypertable();
    is_ours
        && table.edition() == Some(Edition::Apache2)
        && pipeline
            .table
            .drop_after
            .is_some_and(|drop_after| timescale::drop_is_due(stores.chunks_dropped_at, now, drop_after))
}

fn plan_worker(
    pipeline: &Pipeline,
    component: Component,
    workers: &Workers,
    image: &WorkerImage,
) -> Result<WorkerPlan, build::Error> {
    let configuration = build_configuration(pipeline, component)?;
    let workload =
        workers.workload(workload_kind(component), &names::worker_name(&pipeline.id.name, component));
    // With the same configuration a write to the workload is a repair, another number of pods or another image:
    // nothing for which the stores have to be changed first.
    let runs_this_configuration =
        workload.is_some_and(|workload| configuration_of(workload) == Some(configuration.name.as_str()));
    let mut plan = WorkerPlan::default();
    let children = build_worker(pipeline, component, &configuration.name, image)?;
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
                let is_for_the_pods =
                    child.kind == workload_kind(component) || child.kind == ChildKind::ConfigMap;
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

fn is_drifted(child: &Child, live: &LiveChild) -> bool {
    // An object that cannot be written as JSON is compared with nothing, and so repaired.
    let live = serde_json::to_value(&live.object).unwrap_or_default();
    differs(&child.object, &live)
}

/// Everything of this pipeline that the plan does not name. A configuration goes only when no pod can need it any
/// more: after the roll that replaced it.
fn orphans(
    pipeline: &Pipeline,
    workers: &Workers,
    plans: [&WorkerPlan; 2],
) -> Result<Vec<LiveChild>, build::Error> {
    let mut needed = Vec::new();
    let mut is_rolling = plans.iter().any(|plan| !plan.roll.is_empty() || !plan.problems.is_empty());
    for component in [Component::Bridge, Component::Processor] {
        let name = names::worker_name(&pipeline.id.name, component);
        let workload = workers.workload(workload_kind(component), &name);
        is_rolling |= !workload.is_some_and(|workload| workload.rollout().is_complete());
        needed.push((ChildKind::ConfigMap, build_configuration(pipeline, component)?.name));
        needed
            .extend(workload.and_then(configuration_of).map(|name| (ChildKind::ConfigMap, name.to_owned())));
        for kind in [ChildKind::Service, ChildKind::PodDisruptionBudget, workload_kind(component)] {
            needed.push((kind, name.clone()));
        }
    }
    let is_orphan = |child: &&LiveChild| {
        child.object.owner_references().iter().any(|owner| owner.uid == pipeline.owner.uid)
            && child.object.metadata.deletion_timestamp.is_none()
            && !needed.contains(&(child.kind, child.object.name_any()))
            && !(is_rolling && child.kind == ChildKind::ConfigMap)
    };
    Ok(workers.children.iter().filter(is_orphan).cloned().collect())
}

fn ownership(pipeline: &Pipeline, child: &LiveChild) -> Ownership {
    let owner = child.object.owner_references().iter().find(|owner| owner.controller == Some(true));
    let is_labelled = child.object.labels().get(PIPELINE_LABEL) == Some(&pipeline.id.name);
    match owner {
        _ if child.object.metadata.deletion_timestamp.is_some() => Ownership::Going,
        Some(owner) if owner.uid == pipeline.owner.uid => Ownership::Ours,
        Some(owner) if owner.kind == pipeline.owner.kind && owner.name == pipeline.owner.name => {
            Ownership::Going
        }
        // What was orphaned on purpose (`kubectl delete --cascade=orphan`) is taken back.
        None if is_labelled => Ownership::Ours,
        Some(_) | None => Ownership::SomebodyElses,
    }
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

/// The ConfigMap that a workload's pods read.
fn configuration_of(workload: &LiveChild) -> Option<&str> {
    let volumes = workload.object.data.pointer("/spec/template/spec/volumes")?.as_array()?;
    let volume = volumes.iter().find(|volume| volume["name"] == pod::CONFIG_VOLUME)?;
    volume.pointer("/configMap/name")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::test_support::{QUICKSTART, image, pipeline};

    /// The children of a pipeline as they are in the cluster, all pods new and ready.
    fn children(pipeline: &Pipeline) -> Vec<LiveChild> {
        let mut children = Vec::new();
        for component in [Component::Bridge, Component::Processor] {
            let configuration = build_configuration(pipeline, component).unwrap();
            children.extend(build_worker(pipeline, component, &configuration.name, &image()).unwrap());
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
        plan_worker(pipeline, Component::Bridge, workers, &image()).unwrap()
    }

    fn orphans_of(pipeline: &Pipeline, workers: &Workers) -> Vec<String> {
        let bridge = plan_bridge(pipeline, workers);
        let processor = plan_worker(pipeline, Component::Processor, workers, &image()).unwrap();
        let orphans = orphans(pipeline, workers, [&bridge, &processor]).unwrap();
        orphans.iter().map(|orphan| orphan.object.name_any()).collect()
    }

    #[test]
    fn finalizers_follow_the_policy_and_leave_those_of_others() {
        let plan = |policy: Value, finalizers: &[&str]| {
            let finalizers: Vec<String> = finalizers.iter().map(|name| (*name).to_owned()).collect();
            plan_finalizers(&serde_json::from_value(policy).unwrap(), &finalizers)
        };
        let (retain, delete) = (json!({}), json!({"topic": "Delete"}));
        assert_eq!(plan(retain.clone(), &["other/x"]), None);
        assert_eq!(plan(delete.clone(), &[FINALIZER]), None);
        assert_eq!(plan(delete, &["other/x"]), Some(vec!["other/x".to_owned(), FINALIZER.to_owned()]));
        assert_eq!(plan(retain, &["other/x", FINALIZER]), Some(vec!["other/x".to_owned()]));
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
    fn a_superseded_configuration_is_kept_until_the_roll_is_complete() {
        let before = pipeline(QUICKSTART);
        let after = pipeline(&QUICKSTART.replace("plants/+", "sites/+"));
        let old_configuration = build_configuration(&before, Component::Bridge).unwrap();
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

    #[test]
    fn an_object_is_ours_by_its_owner_and_not_by_its_name() {
        let pipeline = pipeline(QUICKSTART);
        let judged = |owner: Value, labels: Value| {
            let metadata = json!({"name": "line-bridge", "ownerReferences": owner, "labels": labels});
            let child = live(ChildKind::StatefulSet, json!({"metadata": metadata}), |_| {});
            match ownership(&pipeline, &child) {
                Ownership::Ours => "ours",
                Ownership::Going => "going",
                Ownership::SomebodyElses => "somebody else's",
            }
        };
        let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        assert_eq!(judged(owner("IoTPipeline", "line", "6f2b"), json!({})), "ours");
        assert_eq!(judged(owner("IoTPipeline", "line", "0000"), json!({})), "going");
        assert_eq!(judged(owner("IoTPipeline", "other", "1111"), json!({})), "somebody else's");
        assert_eq!(judged(owner("Kafka", "line", "2222"), json!({})), "somebody else's");
        assert_eq!(judged(json!([]), json!({PIPELINE_LABEL: "line"})), "ours");
        assert_eq!(judged(json!([]), json!({})), "somebody else's");
    }
}
