//! When there shall be more: they are needed, they pay, and the last ones brought something. Pure.

use std::time::Duration;

use crds::status::AutoscalingReason as Reason;

use super::{
    Bounds, Limit, Policy, REBALANCE, REMEMBERED, Reading, TakenBack, Trial, effective, load::Tick, snap,
    told,
};

/// After a change has settled, how long before more are added. So long at least as it takes to see that a partition is stuck.
const BETWEEN_RISES: Duration = Duration::from_secs(10);

/// How long it is remembered that more replicas brought nothing, while there is a lag; then one more step is tried.
const LIMIT_KEPT: Duration = Duration::from_secs(6 * 3600);

/// How long more replicas are measured before it is said that they bring nothing.
const TRIAL_SECONDS: f64 = 8.0;

/// What more replicas must bring to have brought something, as a multiple of the rate before.
const LEAST_GAIN: f64 = 1.1;

/// Below this share of what was to be expected of them, some of the new replicas are of no use.
const LEAST_EFFICIENCY: f64 = 0.6;

impl Policy {
    /// Adds replicas, unless that brings nothing.
    pub(super) fn judge_rise(
        &mut self,
        now: Duration,
        wanted: i32,
        required: f64,
        bounds: &Bounds,
    ) -> (i32, Reason, String) {
        let mut wanted = wanted;
        if let Some(limit) = self.limit {
            let is_old = now.saturating_sub(limit.since) > LIMIT_KEPT;
            let most = if is_old { snap::above(limit.replicas, bounds.partitions) } else { limit.replicas };
            wanted = wanted.min(most);
        }
        if let Some(limit) = self.limit
            && wanted <= self.desired
        {
            let message = format!(
                "more than {} processors wrote no more than {} rows a second together; the database is the limit",
                limit.replicas,
                told(limit.rate)
            );
            return self.keep(Reason::DatabaseIsTheLimit, message);
        }
        if self.ready_since.is_some_and(|since| now.saturating_sub(since) < REBALANCE + BETWEEN_RISES) {
            return self.keep(Reason::CoolingDown, "the last change is still taking effect".to_owned());
        }
        if !self.pays(wanted, bounds.partitions) {
            let message = "what waits is done before more processors would have started".to_owned();
            return self.keep(Reason::RebalanceCostsMore, message);
        }
        let rate_before = self.rates.total(self.desired, bounds.partitions).unwrap_or_default();
        self.trial = Some(Trial { from: self.desired, rate_before });
        self.rates.forget(wanted);
        if let Some(fall) = self.fall
            && now.saturating_sub(fall.at) < REMEMBERED
            && wanted > fall.to
        {
            self.taken_back = Some(TakenBack { at: now, arrival: self.load.arrival() });
        }
        self.rise(wanted, required)
    }

    pub(super) fn rise(&self, wanted: i32, required: f64) -> (i32, Reason, String) {
        let message = format!(
            "{} messages a second come and {} wait; that takes {} a second, and {} processors do",
            told(self.load.arrival()),
            told(self.load.lag() as f64),
            told(required),
            wanted
        );
        (wanted, Reason::ScaledUp, message)
    }

    /// Whether the lag is gone later with the replicas of now than with more, which first cost a rebalance.
    pub(super) fn pays(&self, wanted: i32, partitions: usize) -> bool {
        let (arrival, lag) = (self.load.arrival(), self.load.lag() as f64);
        let drained_in = |replicas, lag: f64| {
            let left = self.rates.total(replicas, partitions).unwrap_or_default() - arrival;
            if left > 0.0 { lag / left } else { f64::INFINITY }
        };
        let pause = REBALANCE.as_secs_f64();
        let by_these = drained_in(self.desired, lag);
        // Where even more do not keep up, every one of them helps all the same.
        by_these.is_infinite() || by_these > pause + drained_in(wanted, lag + arrival * pause)
    }

    /// Whether the replicas that were added bring something. Those that do not go again.
    pub(super) fn judge_trial(
        &mut self,
        now: Duration,
        reading: &Reading,
        tick: &Tick,
        bounds: &Bounds,
    ) -> Option<(i32, Reason, String)> {
        let trial = self.trial?;
        if !tick.is_busy && self.load.is_caught_up() {
            self.trial = None;
            return None;
        }
        let rate = self.rates.measured(reading.ready, TRIAL_SECONDS)?;
        self.trial = None;
        let share = |replicas| effective(replicas, bounds.partitions);
        let expected = |replicas| trial.rate_before * share(replicas) / share(trial.from);
        let back = if rate < trial.rate_before * LEAST_GAIN {
            trial.from
        } else if rate < expected(self.desired) * LEAST_EFFICIENCY {
            (trial.from + 1..self.desired).find(|replicas| expected(*replicas) >= rate)?
        } else {
            return None;
        };
        self.limit = Some(Limit { since: now, replicas: back, rate });
        self.rates.forget(back);
        let message = format!(
            "{} processors wrote {} rows a second and {} no more than {}: the database is the limit",
            trial.from,
            told(trial.rate_before),
            self.desired,
            told(rate)
        );
        Some((back, Reason::DatabaseIsTheLimit, message))
    }

    /// A limit is over where the same replicas write clearly more, and an hour after nothing waits any more.
    pub(super) fn lift_limit(&mut self, now: Duration, reading: &Reading, tick: &Tick) {
        let is_over = |limit: &Limit| {
            let rate = self.rates.measured(reading.ready, TRIAL_SECONDS).unwrap_or_default();
            let is_faster = reading.ready <= limit.replicas && rate > limit.rate * 1.25;
            let is_past = !tick.is_busy && self.load.is_caught_up();
            is_faster || (is_past && now.saturating_sub(limit.since) > REMEMBERED)
        };
        self.limit = self.limit.filter(|limit| !is_over(limit));
    }
}
