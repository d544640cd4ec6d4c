//! Last step: what to report. Synchronous, no client.
//!
//! A status that says the same as before is the same as before, to the last byte: nothing in it counts attempts or
//! tells the time of the last look.

mod autoscaling;
mod conditions;
mod unmapped;

pub use conditions::{condition, find, is_no_trouble, is_transient};

use std::{collections::BTreeSet, time::Duration};

use crds::{
    IoTPipeline, IoTPipelineStatus,
    names::{SKIP_CLEANUP_ANNOTATION, unshared_filter},
    pipeline::{Mode, MqttSpec},
    status::{
        BridgeStatus, ChangeClass, ConditionType, LagStatus, PlannedChange, ProcessorStatus, Reason,
        RollupKind, RollupStatus, SpoolLevel, TableStatus, TopicStatus,
    },
    worker::Component,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use self::{
    autoscaling::{autoscaling, bridge_autoscaling},
    conditions::conditions,
    unmapped::unmapped,
};
use super::{
    apply::Outcome,
    fetch::{LiveChild, Stores, Workers},
    health::Finding,
    validate::Invalid,
};
use crate::{
    build::{ChildKind, selector_text},
    change::{Approvals, Change, coarse_number},
    pipeline::Pipeline,
    scale::{bridges, policy::Decision},
    timescale::{ObservedRollup, ViewKind, duration_text},
};

/// How many steps of a plan are listed.
const MAX_PLANNED: usize = 50;

/// How much of each of its values is, in bytes.
const MAX_PLANNED_BYTES: usize = 256;

/// What a reconciliation found and did.
pub enum Assessment<'a> {
    /// The spec is refused; nothing was done.
    Refused(&'a Invalid),
    /// The spec was applied, as far as possible, or compared with what there is.
    Applied {
        /// What the spec says.
        pipeline: &'a Pipeline,
        /// What there was in Kafka and the database.
        stores: &'a Stores,
        /// What was done.
        outcome: &'a Outcome,
        /// What a person lets through.
        approvals: &'a Approvals,
        /// What was decided about the number of processors, where something was.
        decision: Option<&'a Decision>,
        /// What was decided about the number of bridges, where something was.
        bridge_decision: Option<&'a bridges::Decision>,
    },
}

/// What to report of a pipeline.
pub fn status(
    object: &IoTPipeline,
    workers: &Workers,
    assessment: &Assessment<'_>,
    now: Timestamp,
) -> IoTPipelineStatus {
    let previous = object.status.clone().unwrap_or_default();
    let name = object.name_any();
    let workload = |component| workers.workload(&name, component);
    let mut status = IoTPipelineStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(object, &previous, workers, assessment, now),
        bridge: object
            .spec
            .mqtt
            .as_ref()
            .map(|mqtt| bridge_status(mqtt, workload(Component::Bridge), workers, &previous)),
        processor: Some(processor_status(workload(Component::Processor), &name, workers, &previous)),
        // What this reconciliation does not know stays as it was.
        ..previous
    };
    if let Assessment::Applied { pipeline, stores, outcome, approvals, decision, bridge_decision } =
        assessment
    {
        if let Some(processor) = &mut status.processor {
            processor.autoscaling =
                pipeline.scaled().and_then(|_| autoscaling(*decision, processor.autoscaling.take()));
        }
        if let Some(bridge) = &mut status.bridge {
            bridge.autoscaling = pipeline
                .scaled_bridges()
                .and_then(|_| bridge_autoscaling(*bridge_decision, bridge.autoscaling.take()));
        }
        if let Some(bridge) = status.bridge.as_mut().filter(|_| pipeline.mode == Mode::Enforce) {
            bridge.sessions = outcome.sessions;
        }
        if outcome.bridge.as_ref().is_none_or(|bridge| bridge.is_current) && outcome.processor.is_current {
            status.applied_generation = Some(pipeline.generation);
        }
        status.topic = topic_status(pipeline, stores, outcome).or(status.topic);
        status.table = table_status(pipeline, stores).or(status.table);
        status.lag = stores.lag.as_ref().map(coarse).or(status.lag);
        if let Some(pending) = &outcome.pending {
            status.plan = planned(pending, pipeline.mode, approvals);
        }
        if let Some(held) = &outcome.held {
            status.used_approvals = approvals.used_after(held);
        }
    }
    status
}

/// What was not done yet.
fn planned(pending: &[Change], mode: Mode, approvals: &Approvals) -> Vec<PlannedChange> {
    let planned = pending.iter().take(MAX_PLANNED).map(|change| PlannedChange {
        object: shortened(&change.object),
        field: shortened(&change.field),
        from: shortened(&change.from),
        to: shortened(&change.to),
        class: change.class,
        // Where the spec is only compared, an approval would be of a generation that is not brought about.
        approval: (mode == Mode::Enforce && change.class == ChangeClass::Destructive)
            .then(|| approvals.hash(change)),
    });
    planned.collect()
}

fn shortened(text: &str) -> String {
    if text.len() <= MAX_PLANNED_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_PLANNED_BYTES)])
}

/// What to report of a deleted pipeline whose clean-up takes a while: the last report, what is waited for, and for how long at
/// most.
pub fn cleanup_pending(
    object: &IoTPipeline,
    message: &str,
    limit: Duration,
    session_is_over: bool,
    now: Timestamp,
) -> IoTPipelineStatus {
    let mut status = object.status.clone().unwrap_or_default();
    let finding = Finding::fails(
        Reason::CleanupPending,
        format!(
            "{message}; given up after {}, or at once with the annotation {SKIP_CLEANUP_ANNOTATION}=true",
            duration_text(limit)
        ),
    );
    let before = find(&status.conditions, ConditionType::Ready);
    let ready = condition(ConditionType::Ready, Some(finding), before, object.metadata.generation, now);
    status.conditions.retain(|condition| condition.type_ != ready.type_);
    status.conditions.insert(0, ready);
    if let Some(bridge) = status.bridge.as_mut().filter(|_| session_is_over) {
        bridge.filters.clear();
    }
    status
}

/// The condition that says whether the pipeline is ready.
pub fn ready(status: &IoTPipelineStatus) -> Option<&Condition> {
    find(&status.conditions, ConditionType::Ready)
}

fn topic_status(pipeline: &Pipeline, stores: &Stores, outcome: &Outcome) -> Option<TopicStatus> {
    let observed = stores.topic.as_ref().ok()?;
    let partitions = match &pipeline.topic.wanted {
        Some(wanted) if outcome.topic_problems.is_empty() => wanted.partitions,
        _ => observed.topic.as_ref()?.partitions,
    };
    Some(TopicStatus { name: pipeline.topic.name.to_string(), partitions })
}

fn table_status(pipeline: &Pipeline, stores: &Stores) -> Option<TableStatus> {
    let observed = stores.table.as_ref().ok()?;
    let extension = observed.extension.installed.as_ref()?;
    let rollups = pipeline.table.wanted.iter().flat_map(|wanted| &wanted.rollups);
    let found =
        rollups.filter_map(|rollup| observed.rollups.iter().find(|found| found.name == rollup.name.as_str()));
    Some(TableStatus {
        name: pipeline.table.to_string(),
        edition: extension.edition.to_string(),
        timescaledb_version: extension.version.clone(),
        rollups: found.filter_map(rollup_status).collect(),
    })
}

/// `None` where there is none, or something else.
fn rollup_status(found: &ObservedRollup) -> Option<RollupStatus> {
    let (marker, view) = (found.marker.as_ref()?, found.view.as_ref()?);
    let kind = match view.kind {
        ViewKind::Aggregate(_) => RollupKind::ContinuousAggregate,
        ViewKind::View => RollupKind::View,
        ViewKind::Other => return None,
    };
    let filled_to = marker.filled_to.filter(|_| !marker.is_filled).map(Time);
    Some(RollupStatus { name: found.name.clone(), kind, filled_to })
}

fn bridge_status(
    mqtt: &MqttSpec,
    workload: Option<&LiveChild>,
    workers: &Workers,
    previous: &IoTPipelineStatus,
) -> BridgeStatus {
    let rollout = workload.map(LiveChild::rollout);
    let bridges = workers.pods.iter().filter(|pod| pod.component == Component::Bridge);
    let mut reports = bridges.filter_map(|pod| pod.report.as_ref()).peekable();
    let spool = reports.clone().find_map(|report| report.spool).map(|spool| SpoolLevel {
        messages: coarse_number(i64::try_from(spool.messages).unwrap_or(i64::MAX), 2),
        bytes: coarse_number(i64::try_from(spool.bytes).unwrap_or(i64::MAX), 2),
    });
    let has_spool = workers.children.iter().any(|child| child.kind == ChildKind::PersistentVolumeClaim);
    let filters = if reports.peek().is_some() {
        let granted =
            reports.flat_map(|report| &report.subscriptions).filter(|one| one.granted_qos.is_some());
        let granted: BTreeSet<_> = granted.map(|one| unshared_filter(&one.filter)).collect();
        // Only what was asked for: a pod that is no bridge could say anything.
        let mut filters: Vec<_> =
            mqtt.subscriptions.iter().map(|subscription| subscription.filter.clone()).collect();
        filters.retain(|filter| granted.contains(filter.as_str()));
        filters.sort_unstable();
        filters
    } else {
        // A bridge that does not answer has lost no subscription by that.
        previous.bridge.as_ref().map(|bridge| bridge.filters.clone()).unwrap_or_default()
    };
    BridgeStatus {
        replicas: rollout.map_or(0, |rollout| rollout.existing),
        ready_replicas: rollout.map_or(0, |rollout| rollout.ready),
        filters,
        sessions: previous.bridge.as_ref().and_then(|bridge| bridge.sessions),
        // Without its volume there is nothing in it; a bridge that does not answer has lost nothing by that.
        spool: spool.or_else(|| previous.bridge.as_ref()?.spool).filter(|_| has_spool),
        autoscaling: previous.bridge.as_ref().and_then(|bridge| bridge.autoscaling.clone()),
    }
}

fn processor_status(
    workload: Option<&LiveChild>,
    pipeline: &str,
    workers: &Workers,
    previous: &IoTPipelineStatus,
) -> ProcessorStatus {
    let rollout = workload.map(LiveChild::rollout);
    let processors = workers.pods.iter().filter(|pod| pod.component == Component::Processor);
    let mut reports = processors.filter_map(|pod| pod.report.as_ref()).peekable();
    let unmapped = if reports.peek().is_some() {
        unmapped(reports.map(|report| &report.unmapped))
    } else {
        // Processors that do not answer have met what they have met.
        previous.processor.as_ref().and_then(|processor| processor.unmapped.clone())
    };
    ProcessorStatus {
        replicas: rollout.map_or(0, |rollout| rollout.existing),
        ready_replicas: rollout.map_or(0, |rollout| rollout.ready),
        selector: selector_text(pipeline, Component::Processor),
        autoscaling: previous.processor.as_ref().and_then(|processor| processor.autoscaling.clone()),
        unmapped,
    }
}

/// Two significant digits: enough to see whether something is wrong, and not a new status for every message.
fn coarse(lag: &LagStatus) -> LagStatus {
    LagStatus { messages: coarse_number(lag.messages, 2), seconds: coarse_number(lag.seconds, 2) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, object};

    #[test]
    fn a_refused_spec_leaves_what_is_known_of_the_stores() {
        let mut object = object(QUICKSTART);
        let invalid = Invalid { reason: Reason::InvalidSpec, message: "no".to_owned() };
        let now = Timestamp::UNIX_EPOCH;
        let first = status(&object, &Workers::default(), &Assessment::Refused(&invalid), now);
        let topic = find(&first.conditions, ConditionType::TopicReady).unwrap();
        assert_eq!((topic.status.as_str(), topic.reason.as_str()), ("Unknown", "Pending"));
        assert_eq!((first.observed_generation, first.applied_generation), (Some(4), None));
        assert_eq!(
            first.processor.clone().unwrap().selector,
            "app.kubernetes.io/component=processor,iotpipeline.dev/pipeline=line"
        );
        let mut before = first;
        before.conditions[1].status = "True".to_owned();
        before.applied_generation = Some(3);
        object.status = Some(before);
        let second = status(&object, &Workers::default(), &Assessment::Refused(&invalid), now);
        assert_eq!(find(&second.conditions, ConditionType::TopicReady).unwrap().status, "True");
        assert_eq!(second.applied_generation, Some(3));
    }

    #[test]
    fn lag_is_told_in_two_digits() {
        for (exact, told) in [(0, 0), (7, 7), (99, 99), (123, 120), (98_765, 98_000)] {
            let lag = coarse(&LagStatus { messages: exact, seconds: exact });
            assert_eq!((lag.messages, lag.seconds), (told, told));
        }
    }
}
