//! Pods that the operator itself wants to replace, without anybody having changed the spec: it is of another version than
//! the one that made them. They may have to wait for their turn (`rollouts`). Pure.

use serde_json::Value;

use super::{Plan, WorkerPlan};
use crate::{
    build::{Child, ChildKind},
    pipeline::Pipeline,
    reconcile::{
        drift::differs,
        fetch::{LiveChild, Workers},
    },
    rollouts::Stage,
};

/// Another number of pods, all of them as they are.
#[derive(Clone, Debug)]
pub struct ReplicasPatch {
    /// The workload as it is.
    pub live: LiveChild,
    /// How many pods there shall be.
    pub replicas: i32,
}

impl ReplicasPatch {
    fn is_needed(&self) -> bool {
        self.live.rollout().wanted != self.replicas
    }

    /// Whether there are some pods, and some of them go on.
    fn keeps_some(&self) -> bool {
        self.live.rollout().wanted > 0 && self.replicas > 0
    }
}

/// Where applying a workload would replace its pods, although the spec was applied: what can be done without that.
pub(super) fn renewal(child: &Child, live: &LiveChild, is_applied: bool) -> Option<ReplicasPatch> {
    let none = Value::Null;
    let template = live.object.data.pointer("/spec/template").unwrap_or(&none);
    let is_renewal = is_applied && differs(&child.object["spec"]["template"], template);
    let wanted = child.object["spec"]["replicas"].as_i64().and_then(|replicas| i32::try_from(replicas).ok());
    let replicas = wanted.unwrap_or_else(|| live.rollout().wanted);
    is_renewal.then(|| ReplicasPatch { live: live.clone(), replicas })
}

impl Plan {
    /// How the workers stand to what this operator wants.
    pub fn stage(&self, pipeline: &Pipeline, workers: &Workers) -> Stage {
        let work = pipeline.workers().all(|worker| {
            let workload = workers.workload(&pipeline.id.name, worker.component());
            workload.is_some_and(|live| live.rollout().is_complete())
        });
        let mut plans = self.bridge.iter().chain([&self.processor]);
        if plans.clone().any(|plan| plan.renewal.is_some()) {
            Stage::Outdated { work }
        } else if work && !plans.any(writes_workload) {
            Stage::Complete
        } else {
            Stage::Incomplete
        }
    }

    /// Leaves the pods as they are for now, but for their number.
    pub fn postpone_renewal(&mut self) {
        for plan in self.bridge.iter_mut().chain([&mut self.processor]) {
            if let Some(scaling) = plan.renewal.take() {
                plan.keep.retain(|child| !is_for_the_pods(child));
                plan.roll.retain(|child| !is_for_the_pods(child));
                plan.awaits_turn = true;
                plan.lets_some_go_on = scaling.keeps_some();
                plan.scale = Some(scaling).filter(ReplicasPatch::is_needed);
            }
        }
    }
}

fn writes_workload(plan: &WorkerPlan) -> bool {
    plan.keep.iter().chain(&plan.roll).any(is_for_the_pods)
}

fn is_for_the_pods(child: &Child) -> bool {
    matches!(child.kind, ChildKind::ConfigMap | ChildKind::StatefulSet | ChildKind::Deployment)
}
