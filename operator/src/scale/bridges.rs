//! How many bridges there shall be: the decision, from how many messages come. Pure, and without a clock: the caller says
//! what time it is.
//!
//! More come at once; fewer are only as many as would have carried the most that came for a while, with head-room. A change
//! is never made while another is on its way: a bridge that leaves has to be led to its end.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crds::status::AutoscalingReason as Reason;

use super::policy::told;

/// Over which time the rate is taken.
const WINDOW: Duration = Duration::from_secs(15);

/// What waited for a bridge that was away comes at once when it is back. For as long as it was away nothing is measured then, so
/// long at least ...
const SHORTEST_CATCHING_UP: Duration = Duration::from_secs(10);

/// ... and so long at most.
const LONGEST_CATCHING_UP: Duration = Duration::from_secs(600);

/// How long bridges may take to come or leave until it is no longer said why they do, but that they are waited for.
const ON_ITS_WAY: Duration = Duration::from_secs(60);

/// For how long fewer bridges must have been enough.
const STABILISATION: Duration = Duration::from_secs(600);

/// Where nothing was measured for so long, what was enough before says nothing of now.
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// By how much more may come, where there shall be fewer.
const HEAD_ROOM: f64 = 1.25;

/// What the spec says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Never fewer.
    pub min: i32,
    /// Never more.
    pub max: i32,
    /// How many messages a second one bridge shall carry.
    pub target_rate: i32,
}

/// What is seen at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// How many messages each bridge has received since it started, by the uid of its pod.
    pub received: BTreeMap<String, u64>,
    /// How many bridges are asked of Kubernetes.
    pub replicas: i32,
    /// Whether they are all there and ready, and none of them leaves.
    pub is_settled: bool,
}

/// What was decided, why, and from what.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// How many bridges there shall be.
    pub desired: i32,
    /// Why.
    pub reason: Reason,
    /// Why, for a person.
    pub message: String,
    /// Messages a second that come; `None` until it is measured.
    pub rate: Option<f64>,
}

/// The decisions about the bridges of one pipeline, one after the other.
#[derive(Clone, Debug)]
pub struct Policy {
    desired: i32,
    said: (Reason, String),
    /// Since when there shall be so many.
    desired_since: Duration,
    /// What each bridge had received when it was asked last.
    received: BTreeMap<String, u64>,
    /// What all have received since the policy began.
    total: u64,
    /// Since when a bridge comes, leaves or restarts, and when the last one was done.
    unsettled_since: Option<Duration>,
    settled_since: Option<Duration>,
    /// `total` at each moment of the window, and at one before it.
    samples: VecDeque<(Duration, u64)>,
    /// How many would have been enough, when: each fewer than the one before, over the time of stabilisation.
    enough: VecDeque<(Duration, i32)>,
    /// Since when that is known without a gap.
    enough_since: Duration,
    measured_at: Option<Duration>,
}

impl Policy {
    /// Begins with what there is, so that an operator that starts changes nothing before it has seen something.
    pub fn new(replicas: i32) -> Self {
        Self {
            desired: replicas,
            said: (Reason::Measuring, String::new()),
            desired_since: Duration::ZERO,
            received: BTreeMap::new(),
            total: 0,
            unsettled_since: None,
            settled_since: None,
            samples: VecDeque::new(),
            enough: VecDeque::new(),
            enough_since: Duration::ZERO,
            measured_at: None,
        }
    }

    /// Decides anew, about once a second. Without a reading, everything stays.
    pub fn decide(&mut self, now: Duration, reading: Option<&Reading>, settings: &Settings) -> Decision {
        let rate = reading.and_then(|reading| self.measure(now, reading));
        let (desired, reason, message) = self.judge(now, reading, rate, settings);
        if desired != self.desired {
            self.desired_since = now;
        }
        self.desired = desired;
        self.said = (reason, message.clone());
        Decision { desired, reason, message, rate }
    }

    /// Messages a second over the window; `None` until it is full of seconds in which no bridge came, left or restarted.
    fn measure(&mut self, now: Duration, reading: &Reading) -> Option<f64> {
        let has_restarted = self.count(&reading.received);
        if !reading.is_settled || reading.replicas != self.desired || has_restarted {
            self.settled_since = None;
            self.unsettled_since.get_or_insert(now);
            self.samples.clear();
            return None;
        }
        let since = *self.settled_since.get_or_insert(now);
        let away = since.saturating_sub(self.unsettled_since.unwrap_or(since));
        if now.saturating_sub(since) < away.clamp(SHORTEST_CATCHING_UP, LONGEST_CATCHING_UP) {
            return None;
        }
        self.unsettled_since = None;
        self.samples.push_back((now, self.total));
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        let (at, total) = *self.samples.front()?;
        let seconds = now.saturating_sub(at);
        (seconds >= WINDOW).then(|| (self.total - total) as f64 / seconds.as_secs_f64())
    }

    /// Takes note of what the bridges have received; whether one of them is there anew.
    fn count(&mut self, received: &BTreeMap<String, u64>) -> bool {
        let mut has_restarted = false;
        for (bridge, after) in received {
            match self.received.insert(bridge.clone(), *after) {
                Some(before) if before <= *after => self.total += after - before,
                // Its count began anew, or it is seen first.
                Some(_) | None => has_restarted = true,
            }
        }
        self.received.retain(|bridge, _| received.contains_key(bridge));
        has_restarted
    }

    fn judge(
        &mut self,
        now: Duration,
        reading: Option<&Reading>,
        rate: Option<f64>,
        settings: &Settings,
    ) -> (i32, Reason, String) {
        let Settings { min, max, target_rate } = *settings;
        if self.desired < min {
            return (min, Reason::AtMinimum, format!("minReplicas is {min}"));
        }
        if self.desired > max {
            return (max, Reason::AtMaximum, format!("maxReplicas is {max}"));
        }
        if reading.is_none() {
            return self
                .keep(Reason::SignalMissing, "a bridge does not tell how much it receives".to_owned());
        }
        let Some(rate) = rate else { return self.wait(now) };
        let needed = fewest(rate, target_rate);
        let enough = fewest(rate * HEAD_ROOM, target_rate);
        self.remember(now, enough);
        let come = format!("{} messages a second come", told(rate));
        if needed > max {
            let message = format!("{come}, which takes {needed} bridges, and maxReplicas is {max}");
            return (max, Reason::AtMaximum, message);
        }
        if needed > self.desired {
            let message = format!("{come}, and one bridge shall carry {target_rate}");
            return (needed, Reason::ScaledUp, message);
        }
        if enough >= self.desired {
            return self.keep(Reason::AsNeeded, format!("{come}, and fewer bridges would have no head-room"));
        }
        if self.desired == min {
            let message = format!("{come}, and fewer bridges would be enough, but minReplicas is {min}");
            return self.keep(Reason::AtMinimum, message);
        }
        let most = self.enough.front().map_or(self.desired, |(_, most)| (*most).max(min));
        if most >= self.desired || now.saturating_sub(self.enough_since) < STABILISATION {
            let message = format!("{come}, and fewer bridges are enough, but have not been for 10 minutes");
            return self.keep(Reason::Stabilizing, message);
        }
        (most, Reason::ScaledDown, format!("{come}, and so few have been enough for 10 minutes"))
    }

    /// What is said while nothing can be measured.
    fn wait(&self, now: Duration) -> (i32, Reason, String) {
        match self.said.0 {
            Reason::ScaledUp | Reason::ScaledDown if now.saturating_sub(self.desired_since) < ON_ITS_WAY => {
                self.keep(self.said.0, self.said.1.clone())
            }
            _ if self.settled_since.is_some() => {
                self.keep(Reason::Measuring, "it is being measured how much comes".to_owned())
            }
            _ => self.keep(
                Reason::CoolingDown,
                "bridges come, leave or restart, and nothing is changed meanwhile".to_owned(),
            ),
        }
    }

    fn keep(&self, reason: Reason, message: String) -> (i32, Reason, String) {
        (self.desired, reason, message)
    }

    fn remember(&mut self, now: Duration, enough: i32) {
        if self.measured_at.is_none_or(|at| now.saturating_sub(at) > LONGEST_GAP) {
            self.enough.clear();
            self.enough_since = now;
        }
        self.measured_at = Some(now);
        while self.enough.back().is_some_and(|(_, before)| *before <= enough) {
            self.enough.pop_back();
        }
        self.enough.push_back((now, enough));
        while self.enough.front().is_some_and(|(at, _)| now.saturating_sub(*at) > STABILISATION) {
            self.enough.pop_front();
        }
    }
}

/// The fewest bridges that carry so many messages a second; one at least.
fn fewest(rate: f64, target_rate: i32) -> i32 {
    // A float becomes the nearest number that there is.
    ((rate / f64::from(target_rate)).ceil() as i32).max(1)
}

#[cfg(test)]
mod tests;
