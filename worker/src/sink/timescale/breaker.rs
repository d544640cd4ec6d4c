//! The circuit breaker: where most messages are rejected, the program, the columns or the devices are at fault, and
//! draining the topic into dead letters would help nobody. Pure.

use std::collections::{HashMap, VecDeque};

use crate::rejection::Reason;

/// Of how many of the latest records the share is taken.
pub const WINDOW: usize = 1_000;

/// Opens where too many of the latest records were rejected, and stays open.
#[derive(Debug)]
pub struct Breaker {
    max_rejected_percent: usize,
    /// What became of the latest records: why each was rejected, if it was.
    latest: VecDeque<Option<Reason>>,
    rejected: usize,
    is_open: bool,
}

impl Breaker {
    /// Opens where more than `max_rejected_percent` are rejected: with 100 never.
    pub fn new(max_rejected_percent: u8) -> Self {
        Self {
            max_rejected_percent: max_rejected_percent.into(),
            latest: VecDeque::with_capacity(WINDOW),
            rejected: 0,
            is_open: false,
        }
    }

    /// Notes what became of a record. Answers whether this opened the breaker.
    pub fn note(&mut self, rejection: Option<Reason>) -> bool {
        if self.latest.len() == WINDOW {
            self.rejected -= usize::from(self.latest.pop_front().flatten().is_some());
        }
        self.rejected += usize::from(rejection.is_some());
        self.latest.push_back(rejection);
        let opens = !self.is_open
            && self.latest.len() == WINDOW
            && self.rejected * 100 > self.max_rejected_percent * WINDOW;
        self.is_open |= opens;
        opens
    }

    /// Whether no more records should be taken.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// What happened, for a person.
    pub fn message(&self) -> String {
        let mut counts = HashMap::new();
        for reason in self.latest.iter().flatten() {
            *counts.entry(reason.to_string()).or_insert(0_usize) += 1;
        }
        let most = counts.into_iter().max_by_key(|(reason, count)| (*count, reason.clone()));
        let most = most.map(|(reason, count)| format!(", {count} of them as {reason}")).unwrap_or_default();
        format!(
            "{} of the last {WINDOW} messages were rejected{most}, so the processor has paused; the others wait in Kafka. Look \
             at the dead letters, then mend the program, the columns or the devices. It goes on after a change of the \
             spec, or when its pod is deleted; spec.processing.maxRejectedPercent: 100 never pauses.",
            self.rejected
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many records the breaker opens.
    fn opens_after(max_rejected_percent: u8, is_rejected: impl Fn(usize) -> bool) -> Option<usize> {
        let mut breaker = Breaker::new(max_rejected_percent);
        (1..=5 * WINDOW).find(|record| breaker.note(is_rejected(*record).then_some(Reason::Empty)))
    }

    #[test]
    fn it_opens_where_more_than_the_share_of_a_full_window_is_rejected() {
        assert_eq!(opens_after(50, |_| true), Some(WINDOW), "not before the window is full");
        assert_eq!(opens_after(50, |record| record % 2 == 0), None, "no more than half");
        assert_eq!(opens_after(49, |record| record % 2 == 0), Some(WINDOW));
        assert_eq!(opens_after(100, |_| true), None, "never");
        // After good ones, so many bad ones that they are more than half.
        assert_eq!(opens_after(50, |record| record > 2 * WINDOW), Some(2 * WINDOW + WINDOW / 2 + 1));
    }

    #[test]
    fn it_stays_open_and_says_what_is_most_often_wrong() {
        let mut breaker = Breaker::new(50);
        for record in 0..WINDOW {
            breaker.note(match record {
                0..100 => None,
                100..300 => Some(Reason::Empty),
                _ => Some(Reason::ProgramFailed),
            });
        }
        assert!(breaker.is_open());
        let message = breaker.message();
        assert!(
            message.starts_with(
                "900 of the last 1000 messages were rejected, 700 of them as ProgramFailed, so the"
            ),
            "{message}"
        );
        (0..2 * WINDOW).for_each(|_| assert!(!breaker.note(None)));
        assert!(breaker.is_open());
    }
}
