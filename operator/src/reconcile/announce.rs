//! Which Events to publish: what was changed outside Kubernetes, what is refused, and readiness when it changes.
//! Nothing that was said before. Pure but for [`announce_unreadable`].

use crds::{
    IoTPipeline, IoTPipelineStatus,
    status::{AutoscalingReason, ConditionType, Reason},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{DeserializeGuard, error_boundary::InvalidObject};

use super::{
    event::{Event, EventType},
    status::{find, is_no_trouble},
    write,
};
use crate::{change::Change, context::Context};

/// The Events of one reconciliation.
pub fn events(previous: &IoTPipelineStatus, status: &IoTPipelineStatus, changes: &[Change]) -> Vec<Event> {
    let changed = changes.iter().map(|change| Event::new(EventType::Normal, "Changed", change.to_string()));
    // A store may hold and still have something to say.
    let stores = [ConditionType::TopicReady, ConditionType::TableReady, ConditionType::PoliciesHealthy];
    let noteworthy = stores.into_iter().filter_map(|condition_type| {
        let condition = find(&status.conditions, condition_type)?;
        let is_news =
            find(&previous.conditions, condition_type).is_none_or(|before| !says_the_same(before, condition));
        let is_fine = condition.reason == Reason::AsSpecified.to_string();
        (!is_fine && is_news && !is_no_trouble(&condition.reason))
            .then(|| Event::new(EventType::Warning, &condition.reason, condition.message.clone()))
    });
    changed
        .chain(noteworthy)
        .chain(readiness(previous, status))
        .chain(lost_spool(previous, status))
        .chain(autoscaling(previous, status))
        .chain(bridge_autoscaling(previous, status))
        .collect()
}

/// Another number of processors was decided, or that more would bring nothing.
fn autoscaling(previous: &IoTPipelineStatus, status: &IoTPipelineStatus) -> Option<Event> {
    let told = |status: &IoTPipelineStatus| status.processor.as_ref()?.autoscaling.clone();
    let after = told(status)?;
    let before = told(previous);
    let desired = after.desired_replicas;
    let note = match &before {
        Some(before) if before.desired_replicas != desired => {
            format!("{desired} processors instead of {}: {}", before.desired_replicas, after.message)
        }
        _ => format!("{desired} processors: {}", after.message),
    };
    let is_in_vain = [
        AutoscalingReason::DatabaseIsTheLimit,
        AutoscalingReason::NoGain,
        AutoscalingReason::PartitionsStuck,
    ]
    .contains(&after.reason);
    let is_news = before.is_some_and(|before| {
        before.desired_replicas != desired || (is_in_vain && before.reason != after.reason)
    });
    let type_ = if is_in_vain { EventType::Warning } else { EventType::Normal };
    is_news.then(|| Event::new(type_, after.reason.into(), note))
}

/// Another number of bridges was decided.
fn bridge_autoscaling(previous: &IoTPipelineStatus, status: &IoTPipelineStatus) -> Option<Event> {
    let told = |status: &IoTPipelineStatus| status.bridge.as_ref()?.autoscaling.clone();
    let (before, after) = (told(previous)?, told(status)?);
    let (before, desired) = (before.desired_replicas, after.desired_replicas);
    let note = format!("{desired} bridges instead of {before}: {}", after.message);
    (before != desired).then(|| Event::new(EventType::Normal, after.reason.into(), note))
}

/// The volume of a spool is gone with what was in it.
fn lost_spool(previous: &IoTPipelineStatus, status: &IoTPipelineStatus) -> Option<Event> {
    let spool = |status: &IoTPipelineStatus| status.bridge.as_ref()?.spool;
    let lost = spool(previous).filter(|before| before.messages > 0 && spool(status).is_none())?;
    let note = format!(
        "the volume of the spool is gone, and with it about {} messages ({} bytes) that were acknowledged to the MQTT broker \
         and not yet in Kafka",
        lost.messages, lost.bytes
    );
    Some(Event::new(EventType::Warning, "SpoolLost", note))
}

/// Says that an object does not have the shape of an IoTPipeline. Its status cannot be written, for the same reason.
pub async fn announce_unreadable(
    object: &DeserializeGuard<IoTPipeline>,
    unreadable: &InvalidObject,
    context: &Context,
) {
    let note = format!(
        "This operator cannot read the object: {}; does the CRD in the cluster belong to this version?",
        unreadable.error
    );
    let reason = Reason::InvalidSpec.to_string();
    write::publish(context, object, Event::new(EventType::Warning, &reason, note)).await;
}

fn readiness(previous: &IoTPipelineStatus, status: &IoTPipelineStatus) -> Option<Event> {
    let after = find(&status.conditions, ConditionType::Ready)?;
    let before = find(&previous.conditions, ConditionType::Ready);
    let was_ready = before.is_some_and(|before| before.status == "True");
    let is_refused =
        [Reason::InvalidSpec, Reason::ProgramInvalid, Reason::SecretMissing, Reason::SecretInvalid]
            .iter()
            .any(|reason| after.reason == reason.to_string());
    let is_news = before.is_none_or(|before| !says_the_same(before, after));
    match (was_ready, after.status == "True") {
        (false, true) => Some(Event::new(EventType::Normal, "Ready", after.message.clone())),
        _ if is_refused && is_news => {
            Some(Event::new(EventType::Warning, &after.reason, after.message.clone()))
        }
        (true, false) => {
            let type_ = if is_no_trouble(&after.reason) { EventType::Normal } else { EventType::Warning };
            Some(Event::new(type_, "NotReady", after.message.clone()))
        }
        _ => None,
    }
}

fn says_the_same(a: &Condition, b: &Condition) -> bool {
    (&a.status, &a.reason, &a.message) == (&b.status, &b.reason, &b.message)
}

#[cfg(test)]
mod tests {
    use crds::status::{
        AutoscalingStatus, BridgeAutoscalingStatus, BridgeStatus, ProcessorStatus, SpoolLevel,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn status(conditions: &[(&str, &str, &str, &str)]) -> IoTPipelineStatus {
        let conditions = conditions.iter().map(|(type_, status, reason, message)| Condition {
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            message: (*message).to_owned(),
            observed_generation: None,
            reason: (*reason).to_owned(),
            status: (*status).to_owned(),
            type_: (*type_).to_owned(),
        });
        IoTPipelineStatus { conditions: conditions.collect(), ..IoTPipelineStatus::default() }
    }

    fn told(before: &[(&str, &str, &str, &str)], after: &[(&str, &str, &str, &str)]) -> Vec<String> {
        events(&status(before), &status(after), &[])
            .iter()
            .map(|event| format!("{:?} {}: {}", event.type_, event.reason, event.note))
            .collect()
    }

    #[test]
    fn nothing_new_is_not_told() {
        let refused = [
            ("Ready", "False", "TableNotOwned", "TableReady: theirs"),
            ("TableReady", "False", "TableNotOwned", "theirs"),
        ];
        assert_eq!(told(&refused, &refused), [""; 0]);
        assert_eq!(told(&[], &[("Ready", "False", "Progressing", "starts")]), [""; 0]);
    }

    #[test]
    fn refusals_are_told_when_they_are_new() {
        let before =
            [("Ready", "True", "AsSpecified", "fine"), ("TableReady", "True", "AsSpecified", "fine")];
        let after = [
            ("Ready", "False", "TableChangeRefused", "TableReady: no"),
            ("TableReady", "False", "TableChangeRefused", "no"),
        ];
        assert_eq!(
            told(&before, &after),
            ["Warning TableChangeRefused: no", "Warning NotReady: TableReady: no"]
        );
        let invalid = [("Ready", "False", "InvalidSpec", "no such type")];
        assert_eq!(told(&before, &invalid), ["Warning InvalidSpec: no such type"]);
        assert_eq!(
            told(&invalid, &[("Ready", "False", "InvalidSpec", "other")]),
            ["Warning InvalidSpec: other"]
        );
    }

    #[test]
    fn what_is_to_know_of_a_store_that_holds_is_told_when_it_is_new() {
        let fine = [("TableReady", "True", "AsSpecified", "fine")];
        let noted = [("TableReady", "True", "ColumnstoreUnsupported", "it has none")];
        for before in [&fine[..], &[]] {
            assert_eq!(told(before, &noted), ["Warning ColumnstoreUnsupported: it has none"]);
        }
        assert_eq!(told(&noted, &noted), [""; 0]);
        assert_eq!(told(&noted, &fine), [""; 0]);
    }

    #[test]
    fn a_policy_that_fails_is_told_though_the_pipeline_is_ready() {
        let ready = ("Ready", "True", "AsSpecified", "fine");
        let failing = [ready, ("PoliciesHealthy", "False", "PolicyFailing", "retention fails")];
        assert_eq!(told(&[ready], &failing), ["Warning PolicyFailing: retention fails"]);
        assert_eq!(told(&failing, &failing), [""; 0]);
    }

    #[test]
    fn another_number_of_processors_is_told_and_why_there_are_no_more() {
        let with = |desired: i32, reason: AutoscalingReason| {
            let autoscaling = AutoscalingStatus {
                desired_replicas: desired,
                reason,
                message: "so".into(),
                ..Default::default()
            };
            let processor = ProcessorStatus { autoscaling: Some(autoscaling), ..ProcessorStatus::default() };
            IoTPipelineStatus { processor: Some(processor), ..IoTPipelineStatus::default() }
        };
        let told = |before: &IoTPipelineStatus, after: &IoTPipelineStatus| {
            let told = events(before, after, &[]).pop();
            told.map(|event| format!("{:?} {}: {}", event.type_, event.reason, event.note))
        };
        let [one, more] = [(1, AutoscalingReason::AsNeeded), (3, AutoscalingReason::ScaledUp)]
            .map(|(desired, reason)| with(desired, reason));
        assert_eq!(told(&one, &more).unwrap(), "Normal ScaledUp: 3 processors instead of 1: so");
        assert_eq!(told(&more, &more), None);
        assert_eq!(told(&with(1, AutoscalingReason::Stabilizing), &one), None, "another reason for the same");
        assert_eq!(told(&IoTPipelineStatus::default(), &one), None, "the first one");
        for reason in [
            AutoscalingReason::DatabaseIsTheLimit,
            AutoscalingReason::NoGain,
            AutoscalingReason::PartitionsStuck,
        ] {
            let in_vain = with(1, reason);
            assert_eq!(told(&one, &in_vain).unwrap(), format!("Warning {reason}: 1 processors: so"));
            assert_eq!(told(&in_vain, &in_vain), None);
        }
    }

    #[test]
    fn another_number_of_bridges_is_told() {
        let with = |desired: i32, reason: AutoscalingReason| {
            let autoscaling = BridgeAutoscalingStatus {
                desired_replicas: desired,
                reason,
                message: "so".into(),
                message_rate: None,
            };
            let bridge = BridgeStatus { autoscaling: Some(autoscaling), ..BridgeStatus::default() };
            IoTPipelineStatus { bridge: Some(bridge), ..IoTPipelineStatus::default() }
        };
        let one = with(1, AutoscalingReason::AsNeeded);
        let told = events(&one, &with(3, AutoscalingReason::ScaledUp), &[]).pop().unwrap();
        assert_eq!((told.reason.as_str(), told.note.as_str()), ("ScaledUp", "3 bridges instead of 1: so"));
        assert!(events(&one, &with(1, AutoscalingReason::Stabilizing), &[]).is_empty());
        assert!(events(&IoTPipelineStatus::default(), &one, &[]).is_empty(), "the first one");
    }

    #[test]
    fn messages_that_went_with_a_volume_are_told_once() {
        let with = |spool: Option<i64>| IoTPipelineStatus {
            bridge: Some(BridgeStatus {
                spool: spool.map(|messages| SpoolLevel { messages, bytes: 9_000 }),
                ..BridgeStatus::default()
            }),
            ..IoTPipelineStatus::default()
        };
        let told = |before, after| {
            events(&with(before), &with(after), &[]).into_iter().map(|event| event.reason).collect::<Vec<_>>()
        };
        assert_eq!(told(Some(70), None), ["SpoolLost"]);
        for (before, after) in [(Some(0), None), (Some(70), Some(0)), (None, None)] {
            assert_eq!(told(before, after), [""; 0]);
        }
    }

    #[test]
    fn readiness_is_told_when_it_changes() {
        let ready = [("Ready", "True", "AsSpecified", "fine")];
        let rolling = [("Ready", "False", "Progressing", "rolls")];
        assert_eq!(told(&ready, &rolling), ["Normal NotReady: rolls"]);
        assert_eq!(told(&rolling, &ready), ["Normal Ready: fine"]);
    }

    #[test]
    fn changes_are_told_one_by_one() {
        let change = |object| Change::new(object, "", "", "x");
        let events = events(&status(&[]), &status(&[]), &[change("a"), change("b")]);
        assert_eq!(events.len(), 2);
    }
}
