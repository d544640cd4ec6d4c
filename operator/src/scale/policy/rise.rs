//! When there shall be more: they are needed, they pay, and those before brought something. Pure.

use std::time::Duration;

use crds::status::AutoscalingReason as Reason;

use super::{Bounds, Policy, REBALANCE, REMEMBERED, TakenBack, snap, told, trial::Trial};

/// After a change has settled, how long before more are added. So long at least as it takes to see that a partition is stuck.
const BETWEEN_RISES: Duration = Duration::from_secs(15);

/// How long it is remembered that more replicas brought nothing, while there is a lag; then one more step is tried.
const LIMIT_KEPT: Duration = Duration::from_secs(6 * 3600);

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
            let is_old = limit.age(now) > LIMIT_KEPT;
            let most = if is_old { snap::above(limit.replicas, bounds.partitions) } else { limit.replicas };
            wanted = wanted.min(most);
        }
        if let Some(limit) = self.limit
            && wanted <= self.desired
        {
            let (reason, message) = limit.explain();
            return self.keep(reason, message);
        }
        if self.trial.is_some() {
            let message = "what the last ones bring is being measured".to_owned();
            return self.keep(Reason::CoolingDown, message);
        }
        if self.ready_since.is_some_and(|since| now.saturating_sub(since) < REBALANCE + BETWEEN_RISES) {
            return self.keep(Reason::CoolingDown, "the last change is still taking effect".to_owned());
        }
        if !self.pays(wanted, bounds.partitions) {
            let message = "what waits is done before more processors would have started".to_owned();
            return self.keep(Reason::RebalanceCostsMore, message);
        }
        let rate_before = self.rates.total(self.desired, bounds.partitions).unwrap_or_default();
        let seconds_before = self.rates.measured_for(self.desired);
        self.trial = Some(Trial::new(self.desired, rate_before, seconds_before));
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
}
