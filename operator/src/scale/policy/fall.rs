//! When there shall be fewer: they have been enough for a while, or nothing comes any more. Pure.

use std::time::Duration;

use crds::status::AutoscalingReason as Reason;

use super::{Bounds, Fall, Policy, REMEMBERED, Settings, snap};

/// How long fewer replicas must have sufficed, with head-room, before the others go.
const STABILISATION: Duration = Duration::from_secs(300);

/// What fewer replicas must be able to take, as a multiple of what arrives.
const HEADROOM: f64 = 1.2;

/// How long nothing must arrive before there are no replicas any more (`minReplicas: 0`).
const IDLE: Duration = Duration::from_secs(300);

impl Policy {
    pub(super) fn judge_idleness(&mut self, now: Duration) -> Option<(i32, Reason, String)> {
        if !self.load.is_empty() || self.load.arrival() > 0.0 {
            self.idle_since = None;
            return None;
        }
        let since = *self.idle_since.get_or_insert(now);
        let minutes = IDLE.as_secs() / 60;
        (now.saturating_sub(since) >= IDLE)
            .then(|| (0, Reason::Idle, format!("nothing has come for {minutes} minutes, and nothing waits")))
    }

    /// Removes replicas once fewer have sufficed for long enough.
    pub(super) fn judge_surplus(
        &mut self,
        now: Duration,
        settings: &Settings,
        bounds: &Bounds,
    ) -> (i32, Reason, String) {
        let arrival = self.load.mean_arrival();
        let required = arrival * HEADROOM + self.load.lag() as f64 / settings.target_drain.as_secs_f64();
        let fewest = if self.rates.is_known() {
            self.rates.fewest(required, bounds.partitions).unwrap_or(self.desired)
        } else {
            // Never seen busy: how many would suffice shows one step at a time.
            snap::below(self.desired, bounds.partitions)
        };
        let fewest = bounds.clamp(if self.has_turned(now, arrival) { self.desired } else { fewest });
        if fewest >= self.desired {
            self.surplus_since = None;
            let message = "they take what comes, and fewer would not with head-room".to_owned();
            return self.keep(Reason::AsNeeded, message);
        }
        let since = *self.surplus_since.get_or_insert_with(|| {
            self.sufficient.clear();
            now
        });
        let most = self.most_of_late(now, fewest);
        let minutes = STABILISATION.as_secs() / 60;
        let elapsed = now.saturating_sub(since);
        // Where it goes down still further, once is better than twice.
        let is_over = elapsed >= STABILISATION && (most == fewest || elapsed >= 2 * STABILISATION);
        if !is_over {
            let message =
                format!("{most} would do; the others go once that has been so for {minutes} minutes");
            return self.keep(Reason::Stabilizing, message);
        }
        self.fall = Some(Fall { at: now, to: most });
        (most, Reason::ScaledDown, format!("{most} have been enough for {minutes} minutes"))
    }

    /// The most replicas that would have been needed at any moment of the time of stabilisation.
    pub(super) fn most_of_late(&mut self, now: Duration, fewest: i32) -> i32 {
        self.sufficient.retain(|(at, needed)| *needed > fewest && now.saturating_sub(*at) < STABILISATION);
        self.sufficient.push_back((now, fewest));
        self.sufficient.front().map_or(fewest, |(_, needed)| *needed)
    }

    /// Whether the last step down had to be taken back, and no less comes than then: once is enough in an hour.
    pub(super) fn has_turned(&self, now: Duration, arrival: f64) -> bool {
        self.taken_back.is_some_and(|taken_back| {
            now.saturating_sub(taken_back.at) < REMEMBERED && arrival > taken_back.arrival / 2.0
        })
    }
}
