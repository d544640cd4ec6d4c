//! Which subscriptions have been made, as the broker answered. Pure.

use crds::worker::{Subscription, SubscriptionStatus, WorkerProblem};

use super::{Failure, SUBSCRIPTION_REFUSED, UNSUBSCRIBE_REFUSED};
use crate::health::problem;

/// The answer of an MQTT 5 broker that has no shared subscriptions (0x9E).
const NO_SHARED_SUBSCRIPTIONS: &str = "SharedSubscriptionsNotSupported";

/// The subscriptions of the spec and the broker's answers, over all connections of this process.
#[derive(Debug)]
pub struct Subscriptions {
    wanted: Vec<Subscription>,
    unwanted: Vec<String>,
    answers: Option<Vec<Result<u8, String>>>,
    farewell: Option<Result<(), String>>,
}

impl Subscriptions {
    /// None of them made yet in this process, and none of `unwanted` ended: the spec may have changed since the
    /// last one.
    pub fn new(wanted: Vec<Subscription>, mut unwanted: Vec<String>) -> Self {
        unwanted.retain(|filter| wanted.iter().all(|wanted| wanted.filter != *filter));
        let answers = wanted.is_empty().then(Vec::new);
        let farewell = unwanted.is_empty().then_some(Ok(()));
        Self { wanted, unwanted, answers, farewell }
    }

    /// What to subscribe to at a new connection; `None` where the session has it all.
    pub fn to_make(&mut self, session_present: bool) -> Option<&[Subscription]> {
        if self.wanted.is_empty() {
            return None;
        }
        if !session_present || self.made_with_problem().is_some() {
            self.answers = None;
        }
        self.answers.is_none().then_some(&self.wanted)
    }

    /// What to unsubscribe from at a new connection; `None` where the session has none of it.
    pub fn to_end(&mut self, session_present: bool) -> Option<&[String]> {
        if !session_present {
            self.farewell = Some(Ok(()));
        } else if matches!(self.farewell, Some(Err(_))) {
            self.farewell = None;
        }
        self.farewell.is_none().then_some(&self.unwanted)
    }

    /// The broker answered SUBSCRIBE.
    pub fn answered(&mut self, answers: Vec<Result<u8, String>>) {
        self.answers = Some(answers);
    }

    /// The broker answered UNSUBSCRIBE.
    pub fn ended(&mut self, answer: Result<(), String>) {
        self.farewell = Some(answer);
    }

    /// Whether the broker has answered at all.
    pub fn are_answered(&self) -> bool {
        self.answers.is_some() && self.farewell.is_some()
    }

    /// Whether every subscription was granted, at whatever QoS.
    pub fn are_granted(&self) -> bool {
        (self.answers.as_ref())
            .is_some_and(|answers| answers.len() == self.wanted.len() && answers.iter().all(Result::is_ok))
    }

    /// Whether the session holds no subscription that nobody wants.
    pub fn are_ended(&self) -> bool {
        matches!(self.farewell, Some(Ok(())))
    }

    /// What the broker refused, or granted with less than was asked.
    pub fn problem(&self) -> Option<WorkerProblem> {
        let kept = || match self.farewell.as_ref()? {
            Ok(()) => None,
            Err(code) => Some(problem(
                UNSUBSCRIBE_REFUSED,
                format!(
                    "The MQTT broker refused to end a subscription that the spec no longer has ({code}), so its \
                     messages still come. Allow the client to unsubscribe; the bridge asks again every minute."
                ),
            )),
        };
        self.refused().or_else(kept).or_else(|| self.lowered())
    }

    fn made_with_problem(&self) -> Option<WorkerProblem> {
        self.refused().or_else(|| self.lowered())
    }

    fn refused(&self) -> Option<WorkerProblem> {
        self.wanted.iter().zip(self.answers.as_ref()?).find_map(|(wanted, answer)| match answer {
            Err(code) if code == NO_SHARED_SUBSCRIPTIONS => {
                let Failure { reason, message } = Failure::shared_unsupported();
                Some(problem(reason, message))
            }
            Err(code) => Some(problem(
                SUBSCRIPTION_REFUSED,
                format!("The MQTT broker refused the subscription to {}: {code}.", wanted.filter),
            )),
            Ok(_) => None,
        })
    }

    fn lowered(&self) -> Option<WorkerProblem> {
        self.wanted.iter().zip(self.answers.as_ref()?).find_map(|(wanted, answer)| match answer {
            Ok(granted) if *granted < wanted.qos => Some(problem(
                "SubscriptionLowered",
                format!(
                    "The MQTT broker granted QoS {granted} where {} asks for {}.",
                    wanted.filter, wanted.qos
                ),
            )),
            _ => None,
        })
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
        Subscriptions::new(vec![wanted("a/#"), wanted("b/+")], Vec::new())
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
    fn a_broker_without_shared_subscriptions_is_told_of() {
        let mut subscriptions = two();
        subscriptions.answered(vec![Err("SharedSubscriptionsNotSupported".to_owned()), Ok(1)]);
        assert_eq!(subscriptions.problem().unwrap().reason, "SharedSubscriptionsUnsupported");
    }

    #[test]
    fn a_lowered_qos_is_granted_and_told() {
        let mut subscriptions = two();
        subscriptions.answered(vec![Ok(0), Ok(1)]);
        assert!(subscriptions.are_granted());
        assert_eq!(subscriptions.problem().unwrap().reason, "SubscriptionLowered");
    }

    fn leaving(filters: &[&str]) -> Subscriptions {
        let wanted = vec![Subscription { filter: "a/#".to_owned(), qos: 1 }];
        Subscriptions::new(wanted, filters.iter().map(|filter| (*filter).to_owned()).collect())
    }

    #[test]
    fn a_filter_that_left_is_unsubscribed_once() {
        let mut subscriptions = leaving(&["old/#", "a/#"]);
        assert_eq!(subscriptions.to_end(true).unwrap(), ["old/#"], "never one that is wanted");
        assert!(!subscriptions.are_ended());
        subscriptions.answered(vec![Ok(1)]);
        assert!(!subscriptions.are_answered(), "UNSUBACK is missing");
        subscriptions.ended(Ok(()));
        assert!(subscriptions.are_answered() && subscriptions.are_ended());
        assert!(subscriptions.to_end(true).is_none());
    }

    #[test]
    fn a_refused_farewell_is_told_and_asked_for_again_without_a_second_subscribe() {
        let mut subscriptions = leaving(&["old/#"]);
        subscriptions.answered(vec![Ok(1)]);
        subscriptions.ended(Err("NotAuthorized".to_owned()));
        let problem = subscriptions.problem().unwrap();
        assert_eq!(problem.reason, UNSUBSCRIBE_REFUSED);
        assert!(problem.message.contains("NotAuthorized"), "{}", problem.message);
        assert!(subscriptions.to_make(true).is_none());
        assert!(subscriptions.to_end(true).is_some());
    }

    #[test]
    fn a_new_session_holds_nothing_to_unsubscribe_from() {
        let mut subscriptions = leaving(&["old/#"]);
        assert!(subscriptions.to_end(false).is_none());
        assert!(subscriptions.are_ended());
    }

    #[test]
    fn without_a_wanted_filter_nothing_is_subscribed_to() {
        let mut subscriptions = Subscriptions::new(Vec::new(), vec!["old/#".to_owned()]);
        assert!(subscriptions.to_make(false).is_none());
        assert!(subscriptions.are_granted());
    }
}
