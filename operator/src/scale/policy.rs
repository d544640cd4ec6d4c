//! How many processors there shall be: the decision, from what is measured. Pure, and without a clock: the caller says
//! what time it is, so that a simulation can.
//!
//! The replicas that are wanted are the fewest that take what arrives and drain the lag within `targetDrain`, by the rate
//! that replicas were measured to have while they were busy. Everything else here keeps that number from being followed
//! blindly: a rebalance must pay, fewer replicas must have sufficed for a while, and more must have brought something.

mod bounds;
mod fall;
mod load;
mod rates;
mod rise;
mod snap;
mod trial;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crds::status::AutoscalingReason as Reason;

pub use self::snap::effective;
use self::{
    bounds::Bounds,
    load::{Load, Tick},
    rates::Rates,
    trial::{Limit, Trial},
};

/// How long new replicas take to start, join the group and have partitions again: nothing is measured meanwhile, and so
/// long nothing is drained in the reckoning of what a change costs.
const REBALANCE: Duration = Duration::from_secs(6);

/// How long replicas that do not become ready are waited for before the decision is made with those that are.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long it is remembered that fewer replicas did not suffice, or how long nothing waited since more brought nothing.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// What the spec says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Never fewer; with 0 none while nothing arrives, and otherwise one.
    pub min: i32,
    /// Never more.
    pub max: i32,
    /// Within which time a lag shall be drained.
    pub target_drain: Duration,
}

/// What is seen at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The topic's partitions.
    pub partitions: BTreeMap<i32, Partition>,
    /// How many replicas are asked of Kubernetes.
    pub replicas: i32,
    /// How many of them have partitions and write.
    pub ready: i32,
    /// The share of the last seconds, from 0 to 1, that they waited for the database to take rows; `None` where they do
    /// not know.
    pub waiting: Option<f64>,
    /// Whether replicas say that the database does not take what they have.
    pub database_refuses: bool,
}

/// Where one partition stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Partition {
    /// The offset of the next record to come.
    pub end: i64,
    /// The offset of the next record to become rows.
    pub position: i64,
    /// Whether a replica that runs has it.
    pub is_owned: bool,
}

/// What was decided, why, and from what.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// How many replicas there shall be.
    pub desired: i32,
    /// Why.
    pub reason: Reason,
    /// Why, for a person.
    pub message: String,
    /// What led to it.
    pub inputs: Inputs,
}

/// What a decision was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Records that wait in partitions that move.
    pub lag: i64,
    /// Records a second that come into them.
    pub arrival: f64,
    /// Records a second that become rows.
    pub drained: f64,
    /// Records a second that the replicas of now can take; `None` until they were seen busy.
    pub capacity: Option<f64>,
    /// Partitions with a lag that does not move.
    pub stuck: usize,
    /// The share of the last seconds that replicas waited for the database, from 0 to 1; `None` where they do not know.
    pub waiting: Option<f64>,
}

/// The decisions about one pipeline, one after the other.
#[derive(Clone, Debug)]
pub struct Policy {
    desired: i32,
    said: (Reason, String),
    load: Load,
    rates: Rates,
    /// When `desired` changed last.
    changed_at: Duration,
    /// Since when all replicas of `desired` are ready.
    ready_since: Option<Duration>,
    /// Since when some of them are not.
    unready_since: Option<Duration>,
    /// Since when fewer would suffice.
    surplus_since: Option<Duration>,
    /// How many would suffice, when: each less than the one before, over the time of stabilisation.
    sufficient: VecDeque<(Duration, i32)>,
    /// Since when nothing arrives and nothing waits.
    idle_since: Option<Duration>,
    /// More replicas whose use is not seen yet.
    trial: Option<Trial>,
    limit: Option<Limit>,
    /// The last step down.
    fall: Option<Fall>,
    taken_back: Option<TakenBack>,
    /// For how much of the time replicas wait for the database.
    waiting: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Fall {
    at: Duration,
    to: i32,
}

/// A step down that had to be taken back, and what came then, records a second.
#[derive(Clone, Copy, Debug)]
struct TakenBack {
    at: Duration,
    arrival: f64,
}

impl Policy {
    /// Begins with what there is, so that an operator that starts changes nothing before it has seen something.
    pub fn new(replicas: i32, now: Duration) -> Self {
        Self {
            desired: replicas,
            said: (Reason::AsNeeded, "has just begun to watch".to_owned()),
            load: Load::default(),
            rates: Rates::default(),
            changed_at: now,
            ready_since: None,
            unready_since: None,
            surplus_since: None,
            sufficient: VecDeque::new(),
            idle_since: None,
            trial: None,
            limit: None,
            fall: None,
            taken_back: None,
            waiting: None,
        }
    }

    /// How many replicas there shall be by the last decision.
    pub fn desired(&self) -> i32 {
        self.desired
    }

    /// Decides anew, about once a second. Without a reading, everything stays.
    pub fn decide(&mut self, now: Duration, reading: Option<&Reading>, settings: &Settings) -> Decision {
        let Some(reading) = reading.filter(|reading| !reading.partitions.is_empty()) else {
            self.load.interrupt();
            self.waiting = None;
            return self
                .say(Reason::SignalMissing, "Kafka or a processor does not tell how far it is".to_owned());
        };
        self.waiting = reading.waiting;
        let is_running = reading.ready > 0 && self.settles(now, reading);
        let tick = self.load.observe(now, reading, is_running);
        if let (true, Some(tick)) = (is_running, &tick) {
            self.rates.observe(now, reading.ready, tick, self.load.mean_drained());
        }
        let bounds = Bounds::new(settings, reading.partitions.len());
        let (desired, reason, message) = self.judge(now, reading, tick.as_ref(), settings, &bounds);
        self.change_to(desired, now);
        self.say(reason, message)
    }

    /// As [`Policy::decide`], for one that nobody follows: what would be changed is said again until it is so, or would
    /// not be any more.
    pub fn advise(&mut self, now: Duration, reading: Option<&Reading>, settings: &Settings) -> Decision {
        let before = self.clone();
        let decision = self.decide(now, reading, settings);
        if self.desired != before.desired {
            // What was seen is kept, and what was done did not happen.
            *self = Self { load: self.load.clone(), rates: self.rates.clone(), ..before };
        }
        decision
    }

    /// Takes over a number of replicas that somebody else has chosen.
    pub fn follow(&mut self, replicas: i32, now: Duration) {
        self.change_to(replicas, now);
    }

    fn judge(
        &mut self,
        now: Duration,
        reading: &Reading,
        tick: Option<&Tick>,
        settings: &Settings,
        bounds: &Bounds,
    ) -> (i32, Reason, String) {
        let partitions = bounds.partitions;
        let required = self.load.arrival_beyond(self.rates.total(self.desired, partitions))
            + self.load.lag() as f64 / settings.target_drain.as_secs_f64();
        let wanted =
            self.rates.fewest(required, partitions).map_or(bounds.most, |fewest| bounds.clamp(fewest));

        if self.desired == 0 {
            if self.load.is_empty() && settings.min > 0 {
                return (bounds.least, Reason::AtMinimum, bounds.why_no_fewer());
            }
            if self.load.is_empty() {
                return (0, Reason::Idle, "nothing waits; the first message starts a processor".to_owned());
            }
            let first = if self.rates.is_known() { wanted } else { bounds.least };
            return (first, Reason::Woken, "messages wait, and no processor runs".to_owned());
        }
        if self.desired < bounds.least {
            return (bounds.least, Reason::AtMinimum, bounds.why_no_fewer());
        }
        if self.desired > bounds.most {
            return (bounds.most, Reason::AtMaximum, self.why_no_more(settings, bounds));
        }
        if reading.database_refuses {
            self.surplus_since = None;
            let message = "writes wait for the database; more processors would wait too".to_owned();
            return self.keep(Reason::DatabaseIsTheLimit, message);
        }
        if self.load.is_mostly_stuck() {
            self.surplus_since = None;
            let stuck = self.load.stuck();
            let message =
                format!("{stuck} partitions have a lag and do not move; more processors would not move them");
            return self.keep(Reason::PartitionsStuck, message);
        }
        let Some(tick) = tick else { return self.keep_on() };
        if reading.replicas != self.desired {
            // Not done yet, so it costs nothing to ask for more at once.
            let is_rise = reading.replicas < self.desired && self.rates.is_known() && self.limit.is_none();
            return if is_rise && wanted > self.desired {
                self.rise(wanted, required)
            } else {
                self.keep_on()
            };
        }
        if !self.settles(now, reading) {
            return self.keep_on();
        }
        if let Some(back) = self.judge_trial(now, reading, tick, bounds) {
            return back;
        }
        self.lift_limit(now, reading, tick);
        if settings.min == 0
            && let Some(idle) = self.judge_idleness(now)
        {
            return idle;
        }
        if self.load.stands_still() {
            self.surplus_since = None;
            let message =
                "nothing becomes rows at the moment, and how fast it could is not to be seen".to_owned();
            return self.keep(Reason::Measuring, message);
        }
        if !self.rates.is_known() {
            if tick.is_busy {
                return self.keep(Reason::Measuring, "the rate of a processor is being measured".to_owned());
            }
        } else if wanted > self.desired {
            self.surplus_since = None;
            return self.judge_rise(now, wanted, required, bounds);
        } else if required > self.rates.total(self.desired, partitions).unwrap_or(f64::INFINITY) {
            self.surplus_since = None;
            return self.keep(Reason::AtMaximum, self.why_no_more(settings, bounds));
        }
        self.judge_surplus(now, settings, bounds)
    }

    fn why_no_more(&self, settings: &Settings, bounds: &Bounds) -> String {
        if settings.max <= bounds.partitions as i32 {
            format!("maxReplicas is {}", settings.max)
        } else {
            format!("the topic has {} partitions, and more processors would have none", bounds.partitions)
        }
    }

    /// Takes note of how many are ready, and tells whether the last change has taken effect.
    fn settles(&mut self, now: Duration, reading: &Reading) -> bool {
        if reading.replicas != self.desired {
            (self.ready_since, self.unready_since) = (None, None);
            return false;
        }
        if reading.ready == self.desired {
            self.unready_since = None;
            let since = *self.ready_since.get_or_insert(now);
            return now.saturating_sub(since) >= REBALANCE;
        }
        // Some do not become ready, or not any more: after a while the others count.
        let from = self.ready_since.take().map_or(self.changed_at, |_| now);
        let since = *self.unready_since.get_or_insert(from);
        now.saturating_sub(since) >= PATIENCE
    }

    fn change_to(&mut self, desired: i32, now: Duration) {
        if desired != self.desired {
            self.desired = desired;
            self.changed_at = now;
            (self.ready_since, self.unready_since) = (None, None);
            self.surplus_since = None;
            self.idle_since = None;
        }
    }

    fn keep(&self, reason: Reason, message: String) -> (i32, Reason, String) {
        (self.desired, reason, message)
    }

    fn keep_on(&self) -> (i32, Reason, String) {
        self.keep(self.said.0, self.said.1.clone())
    }

    fn say(&mut self, reason: Reason, message: String) -> Decision {
        self.said = (reason, message.clone());
        let inputs = Inputs {
            lag: self.load.lag(),
            arrival: self.load.arrival(),
            drained: self.load.mean_drained(),
            capacity: self.rates.total(self.desired, self.load.partitions()),
            stuck: self.load.stuck(),
            waiting: self.waiting,
        };
        Decision { desired: self.desired, reason, message, inputs }
    }
}

/// A number for a person: two digits and zeros.
pub(super) fn told(number: f64) -> String {
    let unit = 10_f64.powf((number.max(1.0).log10().floor() - 1.0).max(0.0));
    format!("{:.0}", (number / unit).round() * unit)
}
