//! What replicas were measured to take, by their number. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::{
    load::Tick,
    snap::{effective, useful},
};

/// Over how many seconds a rate is averaged.
const HORIZON: f64 = 15.0;

/// From how many seconds on it counts: two looks, which are a little more or less than a second apart.
const LEAST_SECONDS: f64 = 1.5;

/// For how long it counts: programs, rows and databases change.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// For how long a rate of another number of replicas counts beside that of the newest.
const RECENT: Duration = Duration::from_secs(900);

/// The rates of busy replicas.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    now: Duration,
    by_replicas: BTreeMap<i32, Measured>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Records a second of all replicas together.
    rate: f64,
    seconds: f64,
    at: Duration,
}

impl Rates {
    /// Takes in what `replicas` drained. Where they were not busy, they can do that at least.
    pub fn observe(&mut self, now: Duration, replicas: i32, tick: &Tick, mean_drained: f64) {
        self.now = now;
        self.by_replicas.retain(|_, measured| now.saturating_sub(measured.at) < KEPT);
        if tick.is_busy {
            let fresh = Measured { rate: 0.0, seconds: 0.0, at: now };
            let measured = self.by_replicas.entry(replicas).or_insert(fresh);
            let weight = tick.seconds / (measured.seconds + tick.seconds).min(HORIZON);
            measured.rate += (tick.drained / tick.seconds - measured.rate) * weight.min(1.0);
            measured.seconds += tick.seconds;
            measured.at = now;
        } else if let Some(measured) = self.by_replicas.get_mut(&replicas) {
            measured.rate = measured.rate.max(mean_drained);
        }
    }

    /// Measures this number of replicas from the beginning.
    pub fn forget(&mut self, replicas: i32) {
        if self.by_replicas.len() > 1 {
            self.by_replicas.remove(&replicas);
        }
    }

    /// Whether anything was measured.
    pub fn is_known(&self) -> bool {
        self.newest().is_some()
    }

    /// What so many replicas did while they were busy for at least so long.
    pub fn measured(&self, replicas: i32, seconds: f64) -> Option<f64> {
        self.by_replicas.get(&replicas).filter(|one| one.seconds >= seconds).map(|one| one.rate)
    }

    /// For how many seconds so many replicas were measured.
    pub fn measured_for(&self, replicas: i32) -> f64 {
        self.by_replicas.get(&replicas).map_or(0.0, |one| one.seconds)
    }

    /// What so many replicas can take, records a second. In proportion to what was measured last; less, where less was
    /// measured of that number a while ago.
    pub fn total(&self, replicas: i32, partitions: usize) -> Option<f64> {
        let (measured_of, newest) = self.newest()?;
        // By head, although some of them may have more partitions than others: those with fewer are done sooner.
        let heads = usize::try_from(measured_of).unwrap_or(1).clamp(1, partitions.max(1));
        let linear = newest.rate / heads as f64 * effective(replicas, partitions);
        let own = self.by_replicas.get(&replicas).filter(|own| {
            own.seconds >= LEAST_SECONDS && self.now.saturating_sub(own.at) < RECENT && own.rate > 0.0
        });
        Some(own.map_or(linear, |own| own.rate.min(linear)))
    }

    /// The fewest replicas that can take so many records a second; `None` where no number can.
    pub fn fewest(&self, required: f64, partitions: usize) -> Option<i32> {
        useful(partitions)
            .find(|replicas| self.total(*replicas, partitions).is_some_and(|total| total >= required))
    }

    fn newest(&self) -> Option<(i32, &Measured)> {
        let counts = |one: &&Measured| one.seconds >= LEAST_SECONDS && one.rate > 0.0;
        let measured = self.by_replicas.iter().filter(|(_, one)| counts(one));
        measured.max_by_key(|(_, one)| one.at).map(|(replicas, one)| (*replicas, one))
    }
}
