//! The six conditions. Pure.

use crds::{
    IoTPipeline, IoTPipelineStatus,
    status::{ConditionType, Reason},
    worker::Component,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use super::Assessment;
use crate::{
    change::{Note, Refusal},
    pipeline::Pipeline,
    reconcile::{
        fetch::{Stores, Workers},
        health::{Finding, judge_scaling, judge_worker},
    },
    timescale,
};

/// The longest message of a condition, in bytes; a compiler can say a lot.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// All conditions, in the order in which they are listed.
pub fn conditions(
    object: &IoTPipeline,
    previous: &IoTPipelineStatus,
    workers: &Workers,
    assessment: &Assessment<'_>,
    now: Timestamp,
) -> Vec<Condition> {
    let worker = |component: Component| {
        let outcome = match (assessment, component) {
            (Assessment::Refused(_), _) => None,
            (Assessment::Applied { outcome, .. }, Component::Bridge) => outcome.bridge.as_ref(),
            (Assessment::Applied { outcome, .. }, Component::Processor) => Some(&outcome.processor),
        };
        let workload = workers.workload(&object.name_any(), component);
        let finding = judge_worker(
            component,
            workload,
            &workers.pods,
            outcome,
            object.spec.suspend,
            object.spec.processor.mode,
        );
        let is_let_be =
            outcome.is_none_or(|done| !done.starts_anew && done.problems.is_empty() && done.hold.is_none());
        let note = outcome.and_then(|outcome| outcome.note.as_ref());
        let before = find(&previous.conditions, ready_of(component));
        let scaling = workload
            .filter(|_| !finding.holds && is_let_be)
            .and_then(|workload| judge_scaling(component, workload, &workers.pods, note, before, now));
        Some(scaling.unwrap_or(finding))
    };
    let (topic, table, policies) = match assessment {
        // A refused spec says nothing about what is there.
        Assessment::Refused(_) => (None, None, None),
        Assessment::Applied { pipeline, stores, outcome, .. } => {
            let notes: Vec<_> = outcome.table_notes.iter().chain(&stores.chunk_advice).cloned().collect();
            let table = judge_store(&outcome.table_problems, &notes);
            (Some(judge_store(&outcome.topic_problems, &[])), Some(table), judge_policies(pipeline, stores))
        }
    };
    let mut parts = vec![
        (ConditionType::TopicReady, topic),
        (ConditionType::TableReady, table),
        (ready_of(Component::Bridge), worker(Component::Bridge)),
        (ready_of(Component::Processor), worker(Component::Processor)),
    ];
    // A pipeline without a bridge says nothing of one.
    parts.retain(|(part, _)| *part != ConditionType::BridgeReady || object.spec.mqtt.is_some());
    let ready = match assessment {
        Assessment::Refused(invalid) => Finding::fails(invalid.reason, invalid.message.clone()),
        Assessment::Applied { .. } => summarise(&parts),
    };
    std::iter::once((ConditionType::Ready, Some(ready)))
        .chain(parts)
        // Messages become rows whatever the policies do.
        .chain([(ConditionType::PoliciesHealthy, policies)])
        .map(|(condition_type, finding)| {
            let before = find(&previous.conditions, condition_type);
            condition(condition_type, finding, before, object.metadata.generation, now)
        })
        .collect()
}

/// The condition of one type.
pub fn find(conditions: &[Condition], condition_type: ConditionType) -> Option<&Condition> {
    let name: &str = condition_type.into();
    conditions.iter().find(|condition| condition.type_ == name)
}

fn ready_of(component: Component) -> ConditionType {
    match component {
        Component::Bridge => ConditionType::BridgeReady,
        Component::Processor => ConditionType::ProcessorReady,
    }
}

fn judge_store(problems: &[Refusal], notes: &[Note]) -> Finding {
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    let told: Vec<&str> = notes.iter().map(|note| note.message.as_str()).collect();
    match (problems.first(), notes.first()) {
        (Some(first), _) => Finding::fails(first.reason, messages.join("; ")),
        (None, Some(first)) => {
            Finding { holds: true, reason: first.reason.to_string(), message: told.join("; ") }
        }
        (None, None) => Finding {
            holds: true,
            reason: Reason::AsSpecified.to_string(),
            message: "as the spec says".to_owned(),
        },
    }
}

fn judge_policies(pipeline: &Pipeline, stores: &Stores) -> Option<Finding> {
    let observed = stores.table.as_ref().ok()?;
    Some(match timescale::judge_policies(&pipeline.table, &pipeline.id, observed)? {
        Ok(how) => Finding { message: how.to_owned(), ..judge_store(&[], &[]) },
        Err(problems) => judge_store(&problems, &[]),
    })
}

/// Ready holds where everything holds. Otherwise it says what a person should look at first: what waits or is on its
/// way comes after what is wrong.
fn summarise(parts: &[(ConditionType, Option<Finding>)]) -> Finding {
    let failing: Vec<_> = parts
        .iter()
        .filter_map(|(condition_type, finding)| Some((condition_type, finding.as_ref()?)))
        .filter(|(_, finding)| !finding.holds)
        .collect();
    let first = failing.iter().find(|(_, finding)| !is_no_trouble(&finding.reason)).or(failing.first());
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
    [Reason::Pending, Reason::Progressing, Reason::TopicGrowing, Reason::IndexBuilding]
        .iter()
        .any(|transient| reason == transient.to_string())
}

/// Whether a reason stands for something that passes by itself, or that is as a person wants it for now.
pub fn is_no_trouble(reason: &str) -> bool {
    is_transient(reason)
        || [Reason::Observing, Reason::Suspended].iter().any(|wanted| reason == wanted.to_string())
}

/// One condition; without a finding it stays as it was before.
pub fn condition(
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            summary(&[(false, Reason::Observing), fine, (false, Reason::WorkersNotReady)]),
            "false WorkersNotReady: BridgeReady: so it is"
        );
        assert_eq!(
            summary(&[fine, (false, Reason::Suspended), (false, Reason::ReconcileFailed)]),
            "false ReconcileFailed: BridgeReady: so it is"
        );
    }

    #[test]
    fn a_store_that_holds_may_have_something_to_say() {
        let note = Note { reason: Reason::ColumnstoreUnsupported, message: "it has none".into() };
        let problem = Refusal { reason: Reason::ApprovalRequired, message: "rows would go".into() };
        let judged = |problems: &[Refusal], notes: &[Note]| {
            let Finding { holds, reason, message } = judge_store(problems, notes);
            format!("{holds} {reason}: {message}")
        };
        assert_eq!(judged(&[], &[]), "true AsSpecified: as the spec says");
        assert_eq!(
            judged(&[], &[note.clone(), note.clone()]),
            "true ColumnstoreUnsupported: it has none; it has none"
        );
        assert_eq!(judged(&[problem], &[note]), "false ApprovalRequired: rows would go");
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
    fn a_message_is_never_cut_within_a_character() {
        let message = shorten("ä".repeat(MAX_MESSAGE_BYTES));
        assert!(message.len() <= MAX_MESSAGE_BYTES + "…".len());
    }
}
