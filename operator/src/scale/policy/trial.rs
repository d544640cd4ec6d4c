//! Whether replicas that were added bring something. Pure.
//!
//! Before and after are only compared where that is fair: every partition has a replica, the replicas had time to start,
//! and what they write does not grow any more. And more that bring little are only taken back where the database is seen to be
//! why, or where they bring next to nothing: slow pods and busy nodes look much the same.

use std::time::Duration;

use crds::status::AutoscalingReason as Reason;

use super::{Bounds, Policy, REMEMBERED, Reading, effective, load::Tick, told};

/// For how long rates are taken before they are compared, with another one, or with the next.
const WINDOW: f64 = 10.0;

/// From how many seconds on a gain is believed.
const LEAST_SECONDS: f64 = 5.0;

/// How long it is waited for a fair comparison; then there is none.
const LONGEST: Duration = Duration::from_secs(180);

/// What more replicas must bring to have brought something, as a multiple of the rate before. By as much a rate may differ
/// from the one before and be the same.
const LEAST_GAIN: f64 = 1.1;

/// Below this share of what was to be expected of them, some of the new replicas are of no use.
const LEAST_EFFICIENCY: f64 = 0.6;

/// From this share on they do what was expected, and that is all there is to know.
const GOOD_EFFICIENCY: f64 = 0.85;

/// From which share of their time on replicas are said to wait for the database.
const WAITING: f64 = 0.6;

/// More replicas whose use is not seen yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    from: i32,
    rate_before: f64,
    /// For how long that was measured.
    seconds_before: f64,
    drained: f64,
    seconds: f64,
    /// The rate of the window before this one.
    last: Option<f64>,
}

/// More replicas than `replicas` bring nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    since: Duration,
    pub replicas: i32,
    rate: f64,
    reason: Reason,
}

impl Trial {
    pub fn new(from: i32, rate_before: f64, seconds_before: f64) -> Self {
        Self { from, rate_before, seconds_before, drained: 0.0, seconds: 0.0, last: None }
    }

    /// Takes in what was drained in one more moment. Answers the rate once it has come to stay.
    fn settle(&mut self, tick: &Tick) -> Option<f64> {
        if tick.is_busy && tick.is_whole {
            self.drained += tick.drained;
            self.seconds += tick.seconds;
        }
        if self.seconds < WINDOW {
            return None;
        }
        let (rate, before) = (self.drained / self.seconds, self.last);
        (self.drained, self.seconds, self.last) = (0.0, 0.0, Some(rate));
        before.filter(|before| rate <= before * LEAST_GAIN).map(|before| rate.max(before))
    }

    /// The rate as far as it is known.
    fn rate(&self) -> Option<f64> {
        let of_now = (self.seconds >= LEAST_SECONDS).then(|| self.drained / self.seconds);
        of_now.or(self.last)
    }
}

impl Limit {
    /// How long it has held.
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    /// Why there are no more although more are needed.
    pub fn explain(&self) -> (Reason, String) {
        let (replicas, rate, why) = (self.replicas, told(self.rate), why(self.reason));
        let message = format!(
            "more than {replicas} processors wrote no more than {rate} rows a second together; {why}"
        );
        (self.reason, message)
    }
}

impl Policy {
    /// Those that bring nothing go again.
    pub(super) fn judge_trial(
        &mut self,
        now: Duration,
        reading: &Reading,
        tick: &Tick,
        bounds: &Bounds,
    ) -> Option<(i32, Reason, String)> {
        let trial = self.trial.as_mut()?;
        let is_past = !tick.is_busy && self.load.is_caught_up();
        if is_past || now.saturating_sub(self.changed_at) >= LONGEST {
            self.trial = None;
            return None;
        }
        let settled = trial.settle(tick);
        let trial = *trial;
        let share = |replicas| effective(replicas, bounds.partitions);
        let expected = |replicas| trial.rate_before * share(replicas) / share(trial.from);
        if trial.rate().is_some_and(|rate| rate >= expected(self.desired) * GOOD_EFFICIENCY) {
            self.trial = None;
            return None;
        }
        let rate = settled?;
        self.trial = None;
        let waits = reading.waiting.map(|share| share >= WAITING);
        if waits != Some(true) && trial.seconds_before < WINDOW {
            // What those before could do for a moment says little.
            return None;
        }
        let back = if rate < trial.rate_before * LEAST_GAIN {
            trial.from
        } else if waits == Some(true) && rate < expected(self.desired) * LEAST_EFFICIENCY {
            (trial.from + 1..self.desired).find(|replicas| expected(*replicas) >= rate)?
        } else {
            return None;
        };
        let reason = if waits == Some(false) { Reason::NoGain } else { Reason::DatabaseIsTheLimit };
        self.limit = Some(Limit { since: now, replicas: back, rate, reason });
        self.rates.forget(back);
        let message = format!(
            "{} processors wrote {} rows a second and {} no more than {}; {}",
            trial.from,
            told(trial.rate_before),
            self.desired,
            told(rate),
            why(reason)
        );
        Some((back, reason, message))
    }

    /// A limit is over where the same replicas write clearly more, and an hour after nothing waits any more.
    pub(super) fn lift_limit(&mut self, now: Duration, reading: &Reading, tick: &Tick) {
        let is_over = |limit: &Limit| {
            let rate = self.rates.measured(reading.ready, WINDOW).unwrap_or_default();
            let is_faster = reading.ready <= limit.replicas && rate > limit.rate * 1.25;
            let is_past = !tick.is_busy && self.load.is_caught_up();
            is_faster || (is_past && limit.age(now) > REMEMBERED)
        };
        self.limit = self.limit.filter(|limit| !is_over(limit));
    }
}

fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::NoGain => {
            "they do not wait for the database, so look at the CPU that their nodes have left, and at Kafka"
        }
        _ => "the database is the limit",
    }
}
