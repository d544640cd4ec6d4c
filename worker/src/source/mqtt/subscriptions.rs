//! Which subscriptions have been made, as the broker answered. Pure.

use crds::worker::{Subscription, SubscriptionStatus, WorkerProblem};

use super::SUBSCRIPTION_REFUSED;
use crate::health::problem;

/// The subscriptions of the spec and the broker's answers, over all connections of this process.
#[derive(Debug)]
pub struct Subscriptions {
    wanted: Vec<Subscription>,
    answers: Option<Vec<Result<u8, String>>>,
}

impl Subscriptions {
    /// None of them made yet in this process: the spec may have changed since the last one.
    pub fn new(wanted: Vec<Subscription>) -> Self {
        Self { wanted, answers: None }
    }

    /// What to subscribe to at a new connection; `None` where the session has it all.
    pub fn to_make(&mut self, session_present: bool) -> Option<&[Subscription]> {
        if !session_present || self.problem().is_some() {
            self.answers = None;
        }
        self.answers.is_none().then_some(&self.wanted)
    }

    /// The broker answered.
    pub fn answered(&mut self, answers: Vec<Result<u8, String>>) {
        self.answers = Some(answers);
    }

    /// Whether the broker has answered at all.
    pub fn are_answered(&self) -> bool {
        self.answers.is_some()
    }

    /// Whether every subscription was granted, at whatever QoS.
    pub fn are_granted(&self) -> bool {
        (self.answers.as_ref())
            .is_some_and(|answers| answers.len() == self.wanted.len() && answers.iter().all(Result::is_ok))
    }

    /// What the broker refused, or granted with less than was asked.
    pub fn problem(&self) -> Option<WorkerProblem> {
        let answers = self.answers.as_ref()?;
        let refused = self.wanted.iter().zip(answers).find_map(|(wanted, answer)| match answer {
            Err(code) => Some(problem(
                SUBSCRIPTION_REFUSED,
                format!("The MQTT broker refused the subscription to {}: {code}.", wanted.filter),
            )),
            Ok(_) => None,
        });
        let lowered = || {
            self.wanted.iter().zip(answers).find_map(|(wanted, answer)| match answer {
                Ok(granted) if *granted < wanted.qos => Some(problem(
                    "SubscriptionLowered",
                    format!(
                        "The MQTT broker granted QoS {granted} where {} asks for {}.",
                        wanted.filter, wanted.qos
                    ),
                )),
                _ => None,
            })
        };
        refused.or_else(lowered)
    }

    /// One status for each subscription.
    pub fn status(&self) -> Vec<SubscriptionStatus> {
        let answer = |index: usize| self.answers.as_ref()?.get(index)?.as_ref().ok().copied();
        (self.wanted.iter().enumerate())
            .map(|(index, wanted)| SubscriptionStatus {
                filter: wanted.filter.clone(),
                granted_qos: answer(index),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Subscriptions {
        let wanted = |filter: &str| Subscription { filter: filter.to_owned(), qos: 1 };
        Subscriptions::new(vec![wanted("a/#"), wanted("b/+")])
    }

    #[test]
    fn a_new_process_subscribes_although_the_session_is_there() {
        assert_eq!(two().to_make(true).unwrap().len(), 2);
    }

    #[test]
    fn a_kept_session_needs_no_second_subscription_and_a_lost_one_does() {
        let mut subscriptions = two();
        subscriptions.answered(vec![Ok(1), Ok(1)]);
        assert!(subscriptions.are_granted());
        assert!(subscriptions.to_make(true).is_none());
        assert!(subscriptions.to_make(false).is_some());
        assert!(!subscriptions.are_granted(), "not made until the next SUBACK");
    }

    #[test]
    fn a_refusal_names_filter_and_code_and_is_tried_again() {
        let mut subscriptions = two();
        subscriptions.answered(vec![Ok(1), Err("NotAuthorized".to_owned())]);
        assert!(!subscriptions.are_granted());
        let problem = subscriptions.problem().unwrap();
        assert_eq!(problem.reason, SUBSCRIPTION_REFUSED);
        assert!(problem.message.contains("b/+: NotAuthorized"), "{}", problem.message);
        assert_eq!(subscriptions.status()[0].granted_qos, Some(1));
        assert_eq!(subscriptions.status()[1].granted_qos, None);
        assert!(subscriptions.to_make(true).is_some());
    }

    #[test]
    fn a_lowered_qos_is_granted_and_told() {
        let mut subscriptions = two();
        subscriptions.answered(vec![Ok(0), Ok(1)]);
        assert!(subscriptions.are_granted());
        assert_eq!(subscriptions.problem().unwrap().reason, "SubscriptionLowered");
    }
}
