//! Last step: what to report. Synchronous, no client.
//!
//! A status that says the same as before is the same as before, to the last byte: nothing in it counts attempts or
//! tells the time of the last look.

use crds::{
    IoTPipeline, IoTPipelineStatus,
    names::{SKIP_CLEANUP_ANNOTATION, worker_name},
    status::{BridgeStatus, ConditionType, LagStatus, ProcessorStatus, Reason, TableStatus, TopicStatus},
    worker::Component,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use super::{
    apply::Outcome,
    fetch::{LiveChild, Stores, Workers},
    health::{Finding, judge_worker},
    validate::Invalid,
};
use crate::{
    build::{selector_text, workload_kind},
    change::Refusal,
    pipeline::Pipeline,
};

/// What a reconciliation found and did.
pub enum Assessment<'a> {
    /// The spec is refused; nothing was done.
    Refused(&'a Invalid),
    /// The spec was applied, as far as possible.
    Applied {
        /// What the spec says.
        pipeline: &'a Pipeline,
        /// What there was in Kafka and the database.
        stores: &'a Stores,
        /// What was done.
        outcome: &'a Outcome,
    },
}

/// The longest message of a condition, in bytes; a compiler can say a lot.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// What to report of a pipeline.
pub fn status(
    object: &IoTPipeline,
    workers: &Workers,
    assessment: &Assessment<'_>,
    now: Timestamp,
) -> IoTPipelineStatus {
    let previous = object.status.clone().unwrap_or_default();
    let name = object.name_any();
    let workload = |component| workers.workload(workload_kind(component), &worker_name(&name, component));
    let mut status = IoTPipelineStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(object, &previous, workers, assessment, now),
        bridge: Some(bridge_status(workload(Component::Bridge), workers, &previous)),
        processor: Some(processor_status(workload(Component::Processor), &name)),
        // What this reconciliation does not know stays as it was.
        ..previous
    };
    if let Assessment::Applied { pipeline, stores, outcome } = assessment {
        if outcome.bridge.is_current && outcome.processor.is_current {
            status.applied_generation = Some(pipeline.generation);
        }
        status.topic = topic_status(pipeline, stores, outcome).or(status.topic);
        status.table = table_status(pipeline, stores).or(status.table);
        status.lag = stores.lag.as_ref().map(coarse).or(status.lag);
    }
    status
}

/// What to report of a deleted pipeline whose clean-up takes a while: the last report, and what is waited for.
pub fn cleanup_pending(object: &IoTPipeline, message: &str, now: Timestamp) -> IoTPipelineStatus {
    let mut status = object.status.clone().unwrap_or_default();
    let finding = Finding::fails(
        Reason::CleanupPending,
        format!(
            "{message}; given up after about three minutes, or at once with the annotation \
             {SKIP_CLEANUP_ANNOTATION}=true"
        ),
    );
    let before = find(&status.conditions, ConditionType::Ready);
    let ready = condition(ConditionType::Ready, Some(finding), before, object.metadata.generation, now);
    status.conditions.retain(|condition| condition.type_ != ready.type_);
    status.conditions.insert(0, ready);
    status
}

/// Whether the pipeline is ready, and the condition that says so.
pub fn ready(status: &IoTPipelineStatus) -> Option<&Condition> {
    find(&status.conditions, ConditionType::Ready)
}

/// The condition of one type.
pub fn find(conditions: &[Condition], condition_type: ConditionType) -> Option<&Condition> {
    let name: &str = condition_type.into();
    conditions.iter().find(|condition| condition.type_ == name)
}

fn conditions(
    object: &IoTPipeline,
    previous: &IoTPipelineStatus,
    workers: &Workers,
    assessment: &Assessment<'_>,
    now: Timestamp,
) -> Vec<Condition> {
    let worker = |component: Component| {
        let outcome = match assessment {
            Assessment::Refused(_) => None,
            Assessment::Applied { outcome, .. } => Some(match component {
                Component::Bridge => &outcome.bridge,
                Component::Processor => &outcome.processor,
            }),
        };
        let workload =
            workers.workload(workload_kind(component), &worker_name(&object.name_any(), component));
        Some(judge_worker(component, workload, &workers.pods, outcome, object.spec.suspend))
    };
    let (topic, table) = match assessment {
        // A refused spec says nothing about what is there.
        Assessment::Refused(_) => (None, None),
        Assessment::Applied { outcome, .. } => {
            (Some(judge_store(&outcome.topic_problems)), Some(judge_store(&outcome.table_problems)))
        }
    };
    let parts = [
        (ConditionType::TopicReady, topic),
        (ConditionType::TableReady, table),
        (ConditionType::BridgeReady, worker(Component::Bridge)),
        (ConditionType::ProcessorReady, worker(Component::Processor)),
    ];
    let ready = match assessment {
        Assessment::Refused(invalid) => Finding::fails(invalid.reason, invalid.message.clone()),
        Assessment::Applied { .. } => summarise(&parts),
    };
    std::iter::once((ConditionType::Ready, Some(ready)))
        .chain(parts)
        .map(|(condition_type, finding)| {
            let before = find(&previous.conditions, condition_type);
            condition(condition_type, finding, before, object.metadata.generation, now)
        })
        .collect()
}

fn judge_store(problems: &[Refusal]) -> Finding {
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    match problems.first() {
        Some(first) => Finding::fails(first.reason, messages.join("; ")),
        None => Finding {
            holds: true,
            reason: Reason::AsSpecified.to_string(),
            message: "as the spec says".to_owned(),
        },
    }
}

/// Ready holds where everything holds. Otherwise it says what a person should look at first: what waits or is on its
/// way comes after what is wrong.
fn summarise(parts: &[(ConditionType, Option<Finding>)]) -> Finding {
    let failing: Vec<_> = parts
        .iter()
        .filter_map(|(condition_type, finding)| Some((condition_type, finding.as_ref()?)))
        .filter(|(_, finding)| !finding.holds)
        .collect();
    let first = failing.iter().find(|(_, finding)| !is_transient(&finding.reason)).or(failing.first());
    match first {
        Some((condition_type, finding)) => Finding {
            holds: false,
            reason: finding.reason.clone(),
            message: format!("{condition_type}: {}", finding.message),
        },
        None => Finding {
            holds: true,
            reason: Reason::AsSpecified.to_string(),
            message: "messages become rows".to_owned(),
        },
    }
}

/// Whether a reason stands for something that passes by itself.
pub fn is_transient(reason: &str) -> bool {
    [Reason::Pending, Reason::Progressing].iter().any(|transient| reason == transient.to_string())
}

fn condition(
    condition_type: ConditionType,
    finding: Option<Finding>,
    before: Option<&Condition>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let (status, reason, message) = match (finding, before) {
        (Some(Finding { holds, reason, message }), _) => {
            (if holds { "True" } else { "False" }, reason, shorten(message))
        }
        (None, Some(before)) => return before.clone(),
        (None, None) => ("Unknown", Reason::Pending.to_string(), "not looked at yet".to_owned()),
    };
    let unchanged = before.filter(|before| before.status == status);
    // Whole seconds: what Kubernetes keeps.
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        last_transition_time: unchanged.map_or(Time(seconds), |before| before.last_transition_time.clone()),
        message,
        observed_generation: generation,
        reason,
        status: status.to_owned(),
        type_: condition_type.to_string(),
    }
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    message
}

fn topic_status(pipeline: &Pipeline, stores: &Stores, outcome: &Outcome) -> Option<TopicStatus> {
    let observed = stores.topic.as_ref().ok()?;
    let partitions = if outcome.topic_problems.is_empty() {
        pipeline.topic.partitions
    } else {
        observed.topic.as_ref()?.partitions
    };
    Some(TopicStatus { name: pipeline.topic.name.to_string(), partitions })
}

fn table_status(pipeline: &Pipeline, stores: &Stores) -> Option<TableStatus> {
    let extension = stores.table.as_ref().ok()?.extension.installed.as_ref()?;
    Some(TableStatus {
        name: pipeline.table.to_string(),
        edition: extension.edition.to_string(),
        timescaledb_version: extension.version.clone(),
    })
}

fn bridge_status(
    workload: Option<&LiveChild>,
    workers: &Workers,
    previous: &IoTPipelineStatus,
) -> BridgeStatus {
    let rollout = workload.map(LiveChild::rollout);
    let mut reports = workers
        .pods
        .iter()
        .filter_map(|pod| pod.report.as_ref())
        .filter(|report| report.component == Component::Bridge)
        .peekable();
    let filters = if reports.peek().is_some() {
        let granted =
            reports.flat_map(|report| &report.subscriptions).filter(|one| one.granted_qos.is_some());
        let filters: std::collections::BTreeSet<_> = granted.map(|one| one.filter.clone()).collect();
        filters.into_iter().collect()
    } else {
        // A bridge that does not answer has lost no subscription by that.
        previous.bridge.as_ref().map(|bridge| bridge.filters.clone()).unwrap_or_default()
    };
    BridgeStatus {
        replicas: rollout.map_or(0, |rollout| rollout.existing),
        ready_replicas: rollout.map_or(0, |rollout| rollout.ready),
        filters,
    }
}

fn processor_status(workload: Option<&LiveChild>, pipeline: &str) -> ProcessorStatus {
    let rollout = workload.map(LiveChild::rollout);
    ProcessorStatus {
        replicas: rollout.map_or(0, |rollout| rollout.existing),
        ready_replicas: rollout.map_or(0, |rollout| rollout.ready),
        selector: selector_text(pipeline, Component::Processor),
    }
}

/// Two significant digits: enough to see whether something is wrong, and not a new status for every message.
fn coarse(lag: &LagStatus) -> LagStatus {
    let round = |number: i64| {
        let unit = 10_i64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
        number / unit * unit
    };
    LagStatus { messages: round(lag.messages), seconds: round(lag.seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, object};

    fn parts(findings: &[(bool, Reason)]) -> Vec<(ConditionType, Option<Finding>)> {
        [ConditionType::TopicReady, ConditionType::TableReady, ConditionType::BridgeReady]
            .into_iter()
            .zip(findings)
            .map(|(condition_type, (holds, reason))| {
                let finding =
                    Finding { holds: *holds, reason: reason.to_string(), message: "so it is".to_owned() };
                (condition_type, Some(finding))
            })
            .collect()
    }

    #[test]
    fn ready_names_what_is_wrong_before_what_is_on_its_way() {
        let fine = (true, Reason::AsSpecified);
        let summary = |findings: &[(bool, Reason)]| {
            let Finding { holds, reason, message } = summarise(&parts(findings));
            format!("{holds} {reason}: {message}")
        };
        assert_eq!(summary(&[fine, fine, fine]), "true AsSpecified: messages become rows");
        assert_eq!(
            summary(&[
                (false, Reason::Pending),
                (false, Reason::PermissionMissing),
                (false, Reason::Progressing)
            ]),
            "false PermissionMissing: TableReady: so it is"
        );
        assert_eq!(
            summary(&[fine, fine, (false, Reason::Progressing)]),
            "false Progressing: BridgeReady: so it is"
        );
    }

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_turn() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let finding = |holds| Some(Finding { holds, ..Finding::fails(Reason::Progressing, "starts") });
        let make = |holds, before: Option<&Condition>, second| {
            condition(ConditionType::Ready, finding(holds), before, Some(1), at(second))
        };
        let first = make(false, None, 10);
        let same = make(false, Some(&first), 20);
        assert_eq!(first, same);
        assert_eq!(make(true, Some(&first), 30).last_transition_time, Time(at(30)));
    }

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

    #[test]
    fn a_message_is_never_cut_within_a_character() {
        let message = shorten("ä".repeat(MAX_MESSAGE_BYTES));
        assert!(message.len() <= MAX_MESSAGE_BYTES + "…".len());
    }
}
