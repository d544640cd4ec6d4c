//! Third step: what to do so that the world is as the pipeline says. Synchronous, no client: it decides, and
//! `apply` does.

mod filters;
mod growth;
mod ownership;
mod renewal;
mod sessions;
mod spool;
mod stranded;
mod workers;

pub use ownership::{is_owned, is_owned_by};
pub use renewal::ReplicasPatch;
pub use sessions::Sessions;
pub use workers::WorkerPlan;

use std::{collections::BTreeMap, time::Duration};

use crds::{
    IoTPipeline,
    names::FINALIZER,
    pipeline::{DeletionPolicy, DeletionPolicySpec, Mode},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use self::{
    filters::with_left_filters,
    growth::Growth,
    sessions::with_sessions,
    spool::with_kept_spool,
    stranded::stranded_bridges,
    workers::{orphans, plan_worker},
};
use super::fetch::{LiveChild, Stores, Workers};
use crate::{
    build::{self, WorkerSettings},
    change::{Approvals, Change},
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
    /// The hypertables whose expired chunks the operator itself drops now, because this edition has no policies, and
    /// after which time rows go. Where it only observes: those that have expired chunks, due or not.
    pub drop_expired_chunks: BTreeMap<String, Duration>,
    /// What to do with the topic; `None` where Kafka does not answer, or the database, which knows whose it is.
    pub topic: Option<TopicPlan>,
    /// What to do with the bridge; `None` where the pipeline has none.
    pub bridge: Option<WorkerPlan>,
    /// The sessions of bridges that share their subscriptions.
    pub sessions: Option<Sessions>,
    /// What to do with the processor.
    pub processor: WorkerPlan,
    /// Bridges on nodes that do not answer.
    pub stranded: Vec<Pod>,
    /// Objects of this pipeline that nothing needs any more.
    pub orphans: Vec<LiveChild>,
}

impl Plan {
    /// What the spec asks for and waits, for a person or a better moment; `None` where that is not known.
    pub fn held(&self) -> Option<Vec<Change>> {
        let (table, topic) = (self.table.as_ref()?, self.topic.as_ref()?);
        Some(table.held.iter().chain(&topic.held).cloned().collect())
    }
}

/// Plans everything for a valid pipeline.
///
/// # Errors
/// Fails where an object cannot be built, which is a bug.
pub fn plan(
    pipeline: &Pipeline,
    object: &IoTPipeline,
    approvals: &Approvals,
    workers: &Workers,
    stores: &Stores,
    settings: &WorkerSettings,
    now: Timestamp,
) -> Result<Plan, build::Error> {
    let applied_generation = object.status.as_ref().and_then(|status| status.applied_generation);
    let is_applied = applied_generation == Some(pipeline.generation);
    let growth = Growth::of(pipeline, workers, stores);
    let (pipeline, sessions) = with_sessions(with_kept_spool(pipeline.clone(), workers), object, workers);
    let pipeline = &growth.hold_bridge(with_left_filters(pipeline, workers));
    let table = stores.table.as_ref().ok();
    let bridge = pipeline.bridge.as_ref();
    let mut bridge =
        bridge.map(|bridge| plan_worker(pipeline, bridge, workers, settings, is_applied)).transpose()?;
    let processor = plan_worker(pipeline, &pipeline.processor, workers, settings, is_applied)?;
    let orphans = orphans(pipeline, workers, settings, bridge.iter().chain([&processor]))?;
    if let Some(bridge) = &mut bridge {
        bridge.hold = growth.hold().cloned();
        bridge.note = sessions.as_ref().and_then(|sessions| sessions.note.clone());
    }
    Ok(Plan {
        finalizers: plan_finalizers(pipeline, object.finalizers()),
        table: table.map(|table| timescale::plan(&pipeline.table, &pipeline.id, table, approvals)),
        drop_expired_chunks: due_drops_of_chunks(pipeline, approvals, stores, now),
        topic: plan_topic(pipeline, stores, approvals).map(|plan| growth.restrain(plan)),
        bridge,
        sessions,
        processor,
        stranded: stranded_bridges(pipeline, workers, now),
        orphans,
    })
}

/// Whether a policy asks for something to be deleted outside Kubernetes.
pub fn deletes_something(policy: &DeletionPolicySpec) -> bool {
    [policy.topic, policy.table, policy.dead_letters(), policy.offsets].contains(&DeletionPolicy::Delete)
}

/// A pipeline that leaves nothing behind has no finalizer, so that its deletion waits for nobody.
fn plan_finalizers(pipeline: &Pipeline, finalizers: &[String]) -> Option<Vec<String>> {
    let mut wanted: Vec<String> = finalizers.iter().filter(|name| *name != FINALIZER).cloned().collect();
    // A bridge has a session at the broker.
    if pipeline.bridge.is_some() || deletes_something(&pipeline.deletion_policy) {
        wanted.push(FINALIZER.to_owned());
    }
    let is_changed = wanted.len() != finalizers.len();
    is_changed.then_some(wanted)
}

/// Whose topic it is, the database knows; of one that is only used, nobody needs to be asked.
fn plan_topic(pipeline: &Pipeline, stores: &Stores, approvals: &Approvals) -> Option<TopicPlan> {
    let observed = stores.topic.as_ref().ok()?;
    let marker = match &stores.table {
        Ok(table) => table.topic_marker.as_ref(),
        Err(_) if pipeline.topic.wanted.is_none() => None,
        Err(_) => return None,
    };
    let manager = stores.topic_manager.as_ref();
    Some(kafka::plan(&pipeline.topic, &pipeline.id, observed, marker, manager, approvals))
}

fn due_drops_of_chunks(
    pipeline: &Pipeline,
    approvals: &Approvals,
    stores: &Stores,
    now: Timestamp,
) -> BTreeMap<String, Duration> {
    let table = stores.table.as_ref().ok().filter(|table| table.edition() == Some(Edition::Apache2));
    let Some(table) = table else { return BTreeMap::new() };
    if pipeline.mode == Mode::Observe {
        return timescale::hypertables_with_expired_chunks(&pipeline.table, &pipeline.id, table, approvals);
    }
    let is_due = |(hypertable, drop_after): &(String, Duration)| {
        timescale::drop_is_due(stores.chunks_dropped_at.get(hypertable).copied(), now, *drop_after)
    };
    timescale::retentions_in_force(&pipeline.table, &pipeline.id, table, approvals)
        .into_iter()
        .filter_map(|(hypertable, retention)| Some((hypertable, retention.drop_after()?)))
        .filter(is_due)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, pipeline};

    #[test]
    fn finalizers_follow_what_is_left_behind_and_leave_those_of_others() {
        let plan = |bridge: bool, policy: &str, finalizers: &[&str]| {
            let mut pipeline = pipeline(&format!("{QUICKSTART}  deletionPolicy: {policy}\n"));
            pipeline.bridge = pipeline.bridge.filter(|_| bridge);
            let finalizers: Vec<String> = finalizers.iter().map(|name| (*name).to_owned()).collect();
            plan_finalizers(&pipeline, &finalizers)
        };
        let added = Some(vec!["other/x".to_owned(), FINALIZER.to_owned()]);
        assert_eq!(plan(false, "{}", &["other/x"]), None);
        assert_eq!(plan(false, "{}", &["other/x", FINALIZER]), Some(vec!["other/x".to_owned()]));
        assert_eq!(plan(false, "{topic: Delete}", &["other/x"]), added);
        assert_eq!(plan(false, "{topic: Delete}", &[FINALIZER]), None);
        assert_eq!(plan(true, "{}", &["other/x"]), added);
        assert_eq!(plan(true, "{}", &[FINALIZER]), None);
    }
}
