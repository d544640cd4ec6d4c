//! More partitions for a topic whose keys stay in order. Pure.
//!
//! With more partitions a key's records go elsewhere, and whoever reads both partitions may write the later record first.
//! So the bridge holds, the processors make rows of everything that is in the topic, the topic grows, and the bridge goes
//! on: messages wait at the MQTT broker meanwhile. What was done so far is seen in what there is, so nothing is
//! remembered, and whoever goes on in the middle does the right thing.

use crds::{pipeline::Mode, status::Reason, worker::Component};

use crate::{
    change::Refusal,
    kafka::{TopicAction, TopicPlan, TopicStep},
    pipeline::Pipeline,
    reconcile::fetch::{Stores, Workers},
};

/// How far the table may be behind when the bridge begins to hold: nobody waits long for that. Records, or seconds.
const SOON: (i64, i64) = (10_000, 60);

/// Whether the topic may grow now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Growth {
    /// It may, or it need not.
    Free,
    /// Not yet, and nothing is done about it.
    Waits(Refusal),
    /// Not yet; the bridge holds until everything is rows.
    Holds(Refusal),
}

impl Growth {
    /// Judges by what there is.
    pub fn of(pipeline: &Pipeline, workers: &Workers, stores: &Stores) -> Self {
        let Some((from, to)) = stores.ordered_growth(pipeline) else { return Self::Free };
        let name = &pipeline.topic.name;
        let waits = |reason, why: &str| {
            Self::Waits(Refusal {
                reason,
                message: format!(
                    "topic {name} keeps {from} partitions instead of {to} for now: {why}. With kafka.topic.allowReorder: \
                     true it grows at once, and records of one key may change places"
                ),
            })
        };
        if pipeline.bridge.is_none() {
            let why = "others write into it, and nobody can hold them until everything is rows";
            return waits(Reason::TopicChangeRefused, why);
        }
        if pipeline.mode == Mode::Observe {
            // What would be done in the end does not depend on the lag of the moment.
            return Self::Free;
        }
        let Some(lag) = &stores.lag else {
            return waits(Reason::TopicGrowing, "how much of it is rows is not known");
        };
        let is_held = is_held(pipeline, workers);
        if is_held && lag.messages == 0 {
            return Self::Free;
        }
        let mut processors = workers.pods.iter().filter(|pod| pod.component == Component::Processor);
        let are_at_work = processors.any(|pod| pod.report.as_ref().is_some_and(|report| report.ready));
        if lag.messages > 0 && !are_at_work {
            return waits(Reason::TopicGrowing, "no processor makes rows of what is in it");
        }
        if !is_held && lag.messages > SOON.0 && lag.seconds > SOON.1 {
            let why = format!("{} records are not rows yet", lag.messages);
            return waits(Reason::TopicGrowing, &why);
        }
        Self::Holds(Refusal {
            reason: Reason::TopicGrowing,
            message: format!(
                "topic {name} grows from {from} to {to} partitions once everything in it is rows; the bridge holds, and \
                 messages wait at the MQTT broker"
            ),
        })
    }

    /// Why the bridge holds, if it does.
    pub fn hold(&self) -> Option<&Refusal> {
        match self {
            Self::Holds(refusal) => Some(refusal),
            Self::Free | Self::Waits(_) => None,
        }
    }

    /// The pipeline as it runs meanwhile.
    pub fn hold_bridge(&self, mut pipeline: Pipeline) -> Pipeline {
        if let Some(bridge) = pipeline.bridge.as_mut().filter(|_| self.hold().is_some()) {
            bridge.replicas = 0;
        }
        pipeline
    }

    /// What may be done about the topic meanwhile.
    pub fn restrain(&self, mut plan: TopicPlan) -> TopicPlan {
        if let Self::Waits(refusal) | Self::Holds(refusal) = self {
            let is_growth = |step: &mut TopicStep| matches!(step.action, TopicAction::AddPartitions { .. });
            let growth = plan.steps.extract_if(.., is_growth);
            plan.held.extend(growth.flat_map(|step| step.changes));
            plan.refusals.push(refusal.clone());
        }
        plan
    }
}

/// Whether there is no bridge, and none on its way.
fn is_held(pipeline: &Pipeline, workers: &Workers) -> bool {
    let workload = workers.workload(&pipeline.id.name, Component::Bridge);
    let runs_none = workload.is_none_or(|workload| {
        let rollout = workload.rollout();
        rollout.wanted == 0 && rollout.is_complete()
    });
    runs_none && !workers.pods.iter().any(|pod| pod.component == Component::Bridge)
}
