//! Fourth step where the spec is only compared: what `apply` would do, and why it is not done. Synchronous, no client.

use crds::{
    names::COMPONENT_LABEL,
    status::{ChangeClass, Reason},
    worker::Component,
};
use kube::ResourceExt;

use super::{
    apply::{Outcome, WorkerOutcome, removal_of, table_is_unknown, topic_is_unknown},
    drift::changes_of_child,
    fetch::{LiveChild, Stores, Workers},
    plan::{Plan, WorkerPlan},
};
use crate::{
    build::{Child, ChildKind},
    change::{Change, Refusal},
    kafka::TopicPlan,
    pipeline::Pipeline,
    timescale::expired_chunks,
};

/// What becomes of a plan of which nothing is done. The conditions say how much waits, and what is wrong already.
pub fn observe(plan: Plan, pipeline: &Pipeline, workers: &Workers, stores: &Stores) -> Outcome {
    let is_known = plan.table.is_some() && plan.topic.is_some();
    let mut outcome = Outcome::default();
    match plan.table.as_ref() {
        None => outcome.table_problems.extend(table_is_unknown(stores)),
        Some(table) => {
            outcome.table_problems.extend(told_refusals(&table.refusals));
            outcome.table_notes.clone_from(&table.notes);
        }
    }
    match plan.topic.as_ref() {
        None => outcome.topic_problems.push(topic_is_unknown(pipeline, stores)),
        Some(topic) => outcome.topic_problems.extend(told_refusals(&topic.refusals)),
    }

    let (topic_fits, table_fits) = (outcome.topic_fits(), outcome.table_fits());
    let table = changes_of_table(&plan, pipeline);
    let topic = plan.topic.as_ref().map(changes_of_topic).unwrap_or_default();
    let mut bridge = Vec::new();
    if let Some(worker) = &plan.bridge {
        bridge.extend(changes_of_worker(worker, topic_fits, workers));
    }
    bridge.extend(plan.stranded.iter().map(removal_of));
    let mut processor = changes_of_worker(&plan.processor, topic_fits && table_fits, workers);
    for orphan in &plan.orphans {
        if is_of_bridge(orphan) { &mut bridge } else { &mut processor }.push(deletion_of(orphan));
    }

    let is_unfinished = plan.table.as_ref().is_some_and(|table| table.unfinished);
    outcome.table_problems.extend(waiting(table.len(), is_unfinished));
    outcome.topic_problems.extend(waiting(topic.len(), false));
    outcome.bridge = plan.bridge.map(|worker| outcome_of_worker(worker, bridge.len()));
    outcome.processor = outcome_of_worker(plan.processor, processor.len());
    outcome.pending = is_known.then(|| [table, topic, bridge, processor].concat());
    outcome
}

/// What waits for approval waits with everything else: it can be approved once the spec is brought about.
fn told_refusals(refusals: &[Refusal]) -> impl Iterator<Item = Refusal> {
    refusals.iter().filter(|refusal| refusal.reason != Reason::ApprovalRequired).cloned()
}

fn changes_of_table(plan: &Plan, pipeline: &Pipeline) -> Vec<Change> {
    let Some(table) = &plan.table else { return Vec::new() };
    let builds = table.builds.iter().map(|build| &build.step);
    let changes = table.steps.iter().chain(builds).flat_map(|step| &step.changes).chain(&table.held);
    let drops = plan.drop_expired_chunks.iter().map(|(hypertable, drop_after)| {
        let chunks = expired_chunks(&pipeline.table.schema, hypertable, *drop_after);
        Change::new(chunks, "", hypertable, "").classed(ChangeClass::Destructive)
    });
    changes.cloned().chain(drops).collect()
}

fn changes_of_topic(plan: &TopicPlan) -> Vec<Change> {
    let steps = plan.steps.iter().flat_map(|step| &step.changes);
    plan.adoption.iter().chain(steps).chain(&plan.held).cloned().collect()
}

/// What is only rolled once the stores are ready for it is left out where they would not be.
fn changes_of_worker(plan: &WorkerPlan, stores_fit: bool, workers: &Workers) -> Vec<Change> {
    let may_roll = stores_fit && plan.problems.is_empty();
    let rolled = if may_roll { plan.roll.as_slice() } else { &[] };
    let mut children: Vec<_> = plan.keep.iter().chain(rolled).collect();
    children.sort_by_key(|child| child.kind);
    let changes = |child: &Child| changes_of_child(child, workers.child(child.kind, &child.name));
    children.into_iter().flat_map(changes).collect()
}

/// Only a volume holds something that cannot be made again.
fn deletion_of(child: &LiveChild) -> Change {
    let name = child.object.name_any();
    let class = match child.kind {
        ChildKind::PersistentVolumeClaim => ChangeClass::Destructive,
        ChildKind::StatefulSet | ChildKind::Deployment => ChangeClass::Disruptive,
        ChildKind::ConfigMap
        | ChildKind::Service
        | ChildKind::NetworkPolicy
        | ChildKind::PodDisruptionBudget => ChangeClass::Safe,
    };
    Change::new(format!("{} {name}", child.kind), "", name, "").classed(class)
}

fn is_of_bridge(child: &LiveChild) -> bool {
    let component = child.object.labels().get(COMPONENT_LABEL);
    component.is_some_and(|component| *component == Component::Bridge.to_string())
}

/// Nothing was written, so the workers are told what they were told before.
fn outcome_of_worker(plan: WorkerPlan, changes: usize) -> WorkerOutcome {
    let mut problems = plan.problems;
    problems.extend(waiting(changes, false));
    WorkerOutcome { problems, ..WorkerOutcome::default() }
}

fn waiting(changes: usize, there_will_be_more: bool) -> Option<Refusal> {
    let what = match changes {
        0 => return None,
        1 => "1 change waits".to_owned(),
        several => format!("{several} changes wait"),
    };
    let more = if there_will_be_more { "; what else there is to do shows once it is made" } else { "" };
    let message = format!("{what}, because spec.mode is Observe; see status.plan{more}");
    Some(Refusal { reason: Reason::Observing, message })
}
