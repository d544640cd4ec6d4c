//! What to report of the number of processors, and of bridges. Pure.

use crds::status::{AutoscalingStatus, BridgeAutoscalingStatus};

use super::coarse_number;
use crate::scale::{bridges, policy::Decision};

/// A figure is told anew where it is further from what was told than this share of it: rates are never twice the same.
const NEWS: f64 = 0.25;

/// A share of the time is told anew where it differs by more than so many points.
const MORE_WAITING: i64 = 30;

/// What was decided; as it was told before, where nothing is known or nothing is news.
pub(super) fn autoscaling(
    decision: Option<&Decision>,
    before: Option<AutoscalingStatus>,
) -> Option<AutoscalingStatus> {
    let Some(decision) = decision else { return before };
    let inputs = &decision.inputs;
    let coarse = |number: f64| coarse_number(number.round() as i64, 2);
    let status = AutoscalingStatus {
        desired_replicas: decision.desired,
        reason: decision.reason,
        message: decision.message.clone(),
        lag_messages: coarse_number(inputs.lag, 2),
        arrival_rate: coarse(inputs.arrival),
        drained_rate: coarse(inputs.drained),
        capacity_rate: inputs.capacity.map(coarse),
        stuck_partitions: i64::try_from(inputs.stuck).unwrap_or(i64::MAX),
        database_wait_percent: inputs.waiting.map(|share| (share * 10.0).round() as i64 * 10),
    };
    Some(before.filter(|before| says_the_same(before, &status)).unwrap_or(status))
}

/// What was decided about the bridges; as it was told before, where nothing is known or nothing is news.
pub(super) fn bridge_autoscaling(
    decision: Option<&bridges::Decision>,
    before: Option<BridgeAutoscalingStatus>,
) -> Option<BridgeAutoscalingStatus> {
    let Some(decision) = decision else { return before };
    let status = BridgeAutoscalingStatus {
        desired_replicas: decision.desired,
        reason: decision.reason,
        message: decision.message.clone(),
        message_rate: decision.rate.map(|rate| coarse_number(rate.round() as i64, 2)),
    };
    let says_the_same = |before: &BridgeAutoscalingStatus| {
        (before.desired_replicas, before.reason) == (status.desired_replicas, status.reason)
            && match (before.message_rate, status.message_rate) {
                (Some(before), Some(after)) => is_near((before, after)),
                (None, Some(_)) => false,
                // What was told last is worth more than nothing.
                (_, None) => true,
            }
    };
    Some(before.filter(says_the_same).unwrap_or(status))
}

fn is_near((before, after): (i64, i64)) -> bool {
    (after - before).abs() as f64 <= NEWS * before.max(after) as f64
}

fn says_the_same(before: &AutoscalingStatus, after: &AutoscalingStatus) -> bool {
    let figures = |status: &AutoscalingStatus| {
        [status.arrival_rate, status.drained_rate, status.capacity_rate.unwrap_or_default()]
    };
    // What is on its way from Kafka to the table within two seconds is no lag.
    let is_flowing = |status: &AutoscalingStatus| status.lag_messages <= 2 * status.arrival_rate;
    let waits = |status: &AutoscalingStatus| status.database_wait_percent.unwrap_or_default();
    before.desired_replicas == after.desired_replicas
        && before.reason == after.reason
        && before.stuck_partitions == after.stuck_partitions
        && before.capacity_rate.is_some() == after.capacity_rate.is_some()
        && (waits(before) - waits(after)).abs() <= MORE_WAITING
        && figures(before).into_iter().zip(figures(after)).all(is_near)
        && ((is_flowing(before) && is_flowing(after)) || is_near((before.lag_messages, after.lag_messages)))
}

#[cfg(test)]
mod tests {
    use crds::status::AutoscalingReason;

    use super::*;
    use crate::scale::policy::Inputs;

    fn told(desired: i32, arrival: f64, lag: i64, before: Option<AutoscalingStatus>) -> AutoscalingStatus {
        let inputs = Inputs {
            lag,
            arrival,
            drained: arrival,
            capacity: Some(10_400.0),
            stuck: 0,
            waiting: Some(0.37),
        };
        let (reason, message) = (AutoscalingReason::AsNeeded, format!("{arrival} come"));
        autoscaling(Some(&Decision { desired, reason, message, inputs }), before).unwrap()
    }

    #[test]
    fn a_rate_of_the_bridges_that_stays_is_told_once() {
        let told = |desired: i32, rate: Option<f64>, before| {
            let (reason, message) = (AutoscalingReason::AsNeeded, format!("{rate:?} come"));
            bridge_autoscaling(Some(&bridges::Decision { desired, reason, message, rate }), before).unwrap()
        };
        let first = told(2, Some(12_345.6), None);
        assert_eq!((first.desired_replicas, first.message_rate), (2, Some(12_000)));
        for rate in [Some(13_900.0), Some(9_900.0), None] {
            assert_eq!(told(2, rate, Some(first.clone())), first);
        }
        assert_ne!(told(2, Some(19_000.0), Some(first.clone())), first);
        assert_ne!(told(3, Some(12_345.6), Some(first.clone())), first);
        assert_eq!(bridge_autoscaling(None, Some(first.clone())), Some(first));
    }

    #[test]
    fn a_load_that_stays_is_told_once() {
        let first = told(2, 8_123.4, 900, None);
        assert_eq!((first.arrival_rate, first.capacity_rate, first.lag_messages), (8_100, Some(10_000), 900));
        assert_eq!(first.database_wait_percent, Some(40));
        assert_eq!(told(2, 9_000.0, 9_000, Some(first.clone())), first);
        assert_eq!(told(2, 7_000.0, 0, Some(first.clone())), first);
        assert_ne!(told(2, 12_000.0, 900, Some(first.clone())), first);
        assert_ne!(told(2, 8_123.4, 90_000, Some(first.clone())), first);
        assert_ne!(told(3, 8_123.4, 900, Some(first.clone())), first);
        assert_eq!(autoscaling(None, Some(first.clone())), Some(first));
    }
}
