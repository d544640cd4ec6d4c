//! What comes, what is drained and what waits, from where the partitions stand. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{Partition, Reading};

/// A partition whose position does not move for so long, while it has a lag and a replica that runs, is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// The same for one that no replica has: a group that is being rebalanced is done before.
const ADRIFT_AFTER: Duration = Duration::from_secs(60);

/// Over how long rates are averaged.
const WINDOW: Duration = Duration::from_secs(30);

/// Replicas that leave more than they drain in so many seconds do what they can.
const BUSY_SECONDS: f64 = 2.0;

/// Of how many readings in a row something must be seen to be more than a moment's.
const SUSTAINED: usize = 2;

/// What two readings, one after the other, tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tick {
    at: Duration,
    /// How far the readings are apart.
    pub seconds: f64,
    /// Records that came into partitions that move.
    pub arrived: f64,
    /// Records of them that became rows.
    pub drained: f64,
    /// Whether the replicas did what they can: in most partitions with traffic more waits than they drain in a moment.
    pub is_busy: bool,
    /// Whether each partition that moves has a replica.
    pub is_whole: bool,
}

/// The recent load of a topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    at: Option<Duration>,
    tracks: BTreeMap<i32, Track>,
    ticks: VecDeque<Tick>,
    lag: i64,
    stuck: usize,
    active: usize,
    is_empty: bool,
}

#[derive(Clone, Copy, Debug)]
struct Track {
    last: Partition,
    /// For how long it has not moved although it has a lag, since a replica took it or left it.
    still: Duration,
    /// Whether that was for too long. So it stays until it moves, whoever takes it.
    is_stuck: bool,
}

impl Load {
    /// Takes in a reading; `None` for the first one, and where time stood still. A partition that no replica has is not
    /// stuck while replicas come and go.
    pub fn observe(&mut self, now: Duration, reading: &Reading, is_running: bool) -> Option<Tick> {
        let elapsed = self.at.map(|at| now.saturating_sub(at)).filter(|elapsed| !elapsed.is_zero());
        let mut tick = Tick {
            at: now,
            seconds: elapsed.unwrap_or_default().as_secs_f64(),
            arrived: 0.0,
            drained: 0.0,
            is_busy: false,
            is_whole: true,
        };
        let mut busy = 0;
        (self.lag, self.stuck, self.active, self.is_empty) = (0, 0, 0, true);
        self.tracks.retain(|partition, _| reading.partitions.contains_key(partition));
        for (partition, seen) in &reading.partitions {
            let lag = (seen.end - seen.position).max(0);
            self.is_empty &= lag == 0;
            let new = Track { last: *seen, still: Duration::ZERO, is_stuck: false };
            let track = self.tracks.entry(*partition).or_insert(new);
            let drained = (seen.position - track.last.position).max(0);
            let arrived = (seen.end - track.last.end).max(0);
            let has_moved = drained > 0 || lag == 0;
            if has_moved || seen.is_owned != track.last.is_owned {
                track.still = Duration::ZERO;
            } else if seen.is_owned || is_running {
                track.still += elapsed.unwrap_or_default();
            }
            let patience = if seen.is_owned { STUCK_AFTER } else { ADRIFT_AFTER };
            track.is_stuck = !has_moved && (track.is_stuck || track.still >= patience);
            track.last = *seen;
            if track.is_stuck {
                self.stuck += 1;
                continue;
            }
            tick.is_whole &= seen.is_owned;
            self.lag += lag;
            tick.arrived += arrived as f64;
            tick.drained += drained as f64;
            if lag > 0 || arrived > 0 {
                self.active += 1;
                busy += usize::from(lag as f64 > BUSY_SECONDS * drained as f64 / tick.seconds.max(1e-3));
            }
        }
        tick.is_busy = self.active > 0 && busy * 2 >= self.active;
        self.at = Some(now);
        elapsed?;
        self.ticks.push_back(tick);
        while self.ticks.front().is_some_and(|first| now.saturating_sub(first.at) >= WINDOW) {
            self.ticks.pop_front();
        }
        Some(tick)
    }

    /// The next reading does not follow this one.
    pub fn interrupt(&mut self) {
        self.at = None;
        self.ticks.clear();
    }

    /// Records a second that come, on average.
    pub fn mean_arrival(&self) -> f64 {
        self.mean(|tick| tick.arrived)
    }

    /// Records a second that come: the average, or more where more came in each of the last readings.
    pub fn arrival(&self) -> f64 {
        let rate = |tick: &Tick| tick.arrived / tick.seconds;
        let last = self.ticks.iter().rev().take(SUSTAINED);
        let sustained =
            if self.ticks.len() < SUSTAINED { 0.0 } else { last.map(rate).fold(f64::INFINITY, f64::min) };
        sustained.max(self.mean_arrival())
    }

    /// As [`Load::arrival`]; the average alone while no more waits than is drained in a second, because then what came in
    /// the last readings was chance.
    pub fn arrival_beyond(&self, capacity: Option<f64>) -> f64 {
        let is_behind = capacity.is_none_or(|capacity| self.lag as f64 > capacity);
        if is_behind { self.arrival() } else { self.mean_arrival() }
    }

    /// Records a second that become rows, on average.
    pub fn mean_drained(&self) -> f64 {
        self.mean(|tick| tick.drained)
    }

    /// Records that wait in partitions that move.
    pub fn lag(&self) -> i64 {
        self.lag
    }

    /// Whether nothing waits in any partition.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Whether no more waits than comes in a second or two.
    pub fn is_caught_up(&self) -> bool {
        self.lag as f64 <= 2.0 * self.arrival()
    }

    /// How many partitions have a lag that does not move.
    pub fn stuck(&self) -> usize {
        self.stuck
    }

    /// Whether half of the partitions with traffic do not move: then it is not the number of replicas.
    pub fn is_mostly_stuck(&self) -> bool {
        self.stuck > 0 && self.stuck >= self.active
    }

    /// Whether something waits and nothing was drained in the last readings.
    pub fn stands_still(&self) -> bool {
        let last = self.ticks.iter().rev().take(SUSTAINED);
        self.lag > 0 && self.ticks.len() >= SUSTAINED && last.map(|tick| tick.drained).sum::<f64>() == 0.0
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.tracks.len()
    }

    fn mean(&self, count: impl Fn(&Tick) -> f64) -> f64 {
        let seconds: f64 = self.ticks.iter().map(|tick| tick.seconds).sum();
        if seconds > 0.0 { self.ticks.iter().map(count).sum::<f64>() / seconds } else { 0.0 }
    }
}
