//! Writes the objects of the workers, and removes what is left of them.

use crds::status::{ChangeClass, Reason};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::Outcome;
use crate::{
    build::ChildKind,
    change::{Change, Note, Refusal},
    context::Context,
    pipeline::Pipeline,
    reconcile::{fetch::LiveChild, plan::WorkerPlan, write},
    telemetry::chain,
};

/// What became of the plan for one kind of worker.
#[derive(Debug, Default)]
pub struct WorkerOutcome {
    /// Whether the workers are told what the spec says; otherwise they keep what they were told before.
    pub is_current: bool,
    /// Whether its pods start, or all of them start anew, by what was written: what was read of them before is out of date.
    pub starts_anew: bool,
    /// What stands in the way.
    pub problems: Vec<Refusal>,
    /// Why there shall be no pods for now, where that is not what the spec says.
    pub hold: Option<Refusal>,
    /// What a person should know although they do their work.
    pub note: Option<Note>,
    /// Whether the pods are of another version of the operator, and are replaced when it is their turn.
    pub awaits_turn: bool,
}

/// Scales what is only scaled, and writes the objects of one kind of worker; those that would roll its pods only where its stores
/// fit and nothing stands in the way.
pub(super) async fn apply_worker(
    mut plan: WorkerPlan,
    stores_fit: bool,
    pipeline: &Pipeline,
    context: &Context,
    whole: &mut Outcome,
) -> WorkerOutcome {
    let may_roll = stores_fit && plan.problems.is_empty();
    let mut outcome = WorkerOutcome {
        is_current: plan.problems.is_empty() && (stores_fit || plan.roll.is_empty()),
        starts_anew: false,
        problems: plan.problems,
        hold: plan.hold,
        note: plan.note,
        awaits_turn: plan.awaits_turn,
    };
    if let Some(scaling) = plan.scale {
        match write::scale(context, &pipeline.id.namespace, &scaling).await {
            Ok(()) => outcome.starts_anew = !plan.lets_some_go_on,
            Err(error) => whole.fail(error),
        }
    }
    let rolled = if may_roll { plan.roll } else { Vec::new() };
    let mut children: Vec<_> = plan.keep.into_iter().chain(rolled).collect();
    children.sort_by_key(|child| child.kind);
    for child in children {
        match write::apply_child(context, &pipeline.id.namespace, &child).await {
            Ok(()) => {
                let runs_pods = matches!(child.kind, ChildKind::StatefulSet | ChildKind::Deployment);
                outcome.starts_anew |= runs_pods && !plan.lets_some_go_on;
                whole.changes.extend(plan.repairs.remove(&(child.kind, child.name)).unwrap_or_default());
            }
            Err(error) => {
                outcome.is_current = false;
                outcome.problems.push(Refusal { reason: Reason::ReconcileFailed, message: chain(&error) });
                whole.failure.get_or_insert(error);
                break;
            }
        }
    }
    outcome
}

/// Removes the pods on nodes that do not answer.
pub(super) async fn remove_stranded(pods: &[Pod], context: &Context, outcome: &mut Outcome) {
    for pod in pods {
        match write::remove_pod(context, pod).await {
            Ok(()) => outcome.changes.push(removal_of(pod)),
            Err(error) => outcome.fail(error),
        }
    }
}

/// The removal of a pod on a node that does not answer.
pub fn removal_of(pod: &Pod) -> Change {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let name = pod.name_any();
    let object = format!("pod {name} on node {node}, which does not answer,");
    Change::new(object, "", name, "").classed(ChangeClass::Disruptive)
}

/// Removes what the pipeline no longer has.
pub(super) async fn remove_orphans(
    orphans: &[LiveChild],
    pipeline: &Pipeline,
    context: &Context,
    outcome: &mut Outcome,
) {
    for orphan in orphans {
        if let Err(error) = write::delete_child(context, &pipeline.id.namespace, orphan).await {
            outcome.fail(error);
        }
    }
}
