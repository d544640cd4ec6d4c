//! A topic, its processors and a database, second by second. No clock and no chance but that of a seed.

use std::{collections::VecDeque, time::Duration};

use operator::scale::policy::{Decision, Partition, Policy, Reading, Settings};

/// How long a pod takes from being asked for to being a member of the group.
const POD_START: f64 = 4.0;

/// How long nothing is drained when members come or go. Cooperative groups do better; this is the worst.
const REBALANCE_PAUSE: f64 = 2.0;

/// From a decision to the Deployment's replicas.
const REACTION: usize = 1;

/// What decides how many replicas there are.
pub trait Scaler {
    /// Looks at a reading, once a second, and says how many there shall be.
    fn decide(&mut self, second: u64, reading: &Reading) -> i32;
}

/// The policy of this operator.
pub struct BuiltIn {
    pub policy: Policy,
    pub settings: Settings,
    pub decisions: Vec<Decision>,
}

impl BuiltIn {
    pub fn new(settings: Settings, replicas: i32) -> Self {
        Self { policy: Policy::new(replicas, Duration::ZERO), settings, decisions: Vec::new() }
    }
}

impl Scaler for BuiltIn {
    fn decide(&mut self, second: u64, reading: &Reading) -> i32 {
        let decision = self.policy.decide(Duration::from_secs(second), Some(reading), &self.settings);
        let desired = decision.desired;
        self.decisions.push(decision);
        desired
    }
}

/// What the world is like.
#[derive(Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub seconds: u64,
    pub partitions: usize,
    /// Records a second of one replica.
    pub replica_rate: f64,
    /// How long a new replica takes to come from a tenth of that to all of it, seconds: little of a processor, cold
    /// connections.
    pub slow_start: f64,
    pub settings: Settings,
    /// Replicas at the beginning.
    pub replicas: i32,
    /// Records a second that come.
    pub arrival: fn(u64) -> f64,
    /// Over how many of the partitions it is spread; the others are idle.
    pub active: usize,
    /// By how much that varies from second to second, as a share.
    pub noise: f64,
    /// Rows a second that the database takes, of all replicas together.
    pub ceiling: fn(u64) -> f64,
    /// Whether the replicas tell for how much of the time they wait for the database.
    pub tells_waits: bool,
    /// The partition that does not move, if one does not.
    pub stuck: fn(u64) -> Option<usize>,
    pub seed: u64,
}

/// What became of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The replicas that were asked for, by second.
    pub replicas: Vec<i32>,
    /// The seconds in which a record waited for longer than `target_drain`, in partitions that are not stuck.
    pub late_seconds: u64,
    /// The last of them.
    pub last_late: Option<u64>,
    /// What the pods took.
    pub replica_hours: f64,
}

impl Outcome {
    /// The changes of the number of replicas: when, from and to.
    pub fn changes(&self) -> Vec<(usize, i32, i32)> {
        let pairs = self.replicas.windows(2).enumerate();
        pairs.filter(|(_, pair)| pair[0] != pair[1]).map(|(at, pair)| (at + 1, pair[0], pair[1])).collect()
    }

    /// How often a change was in another direction than the one before.
    pub fn turns(&self) -> usize {
        self.turned_at().len()
    }

    /// How often at most within any 3,600 seconds.
    pub fn most_turns_in_an_hour(&self) -> usize {
        let turned_at = self.turned_at();
        let in_hour_of =
            |first: &usize| turned_at.iter().filter(|at| (*first..first + 3600).contains(at)).count();
        turned_at.iter().map(in_hour_of).max().unwrap_or(0)
    }

    fn turned_at(&self) -> Vec<usize> {
        let is_turn = |pair: &[(usize, i32, i32)]| (pair[0].2 > pair[0].1) != (pair[1].2 > pair[1].1);
        self.changes().windows(2).filter(|pair| is_turn(pair)).map(|pair| pair[1].0).collect()
    }
}

struct Queue {
    end: f64,
    position: f64,
}

impl Queue {
    fn waits(&self) -> f64 {
        (self.end - self.position).max(0.0)
    }
}

struct World<'a> {
    scenario: &'a Scenario,
    queues: Vec<Queue>,
    /// When each pod is a member.
    pods: Vec<f64>,
    members: usize,
    paused_until: f64,
    /// For how much of the last second the replicas waited for the database.
    waiting: f64,
    random: u64,
}

/// Lets a scenario run with a scaler.
pub fn run(scenario: &Scenario, scaler: &mut dyn Scaler) -> Outcome {
    let mut world = World::new(scenario);
    let mut outcome = Outcome::default();
    let mut asked = VecDeque::from(vec![scenario.replicas; REACTION]);
    let mut arrivals = VecDeque::new();
    let (mut arrived, mut drained) = (0.0, 0.0);
    for second in 0..scenario.seconds {
        let stuck = (scenario.stuck)(second);
        // A part of what comes in a second is still on its way at its end.
        let factor = world.noise();
        arrived += world.arrive(second, stuck, factor / 2.0);
        drained += world.drain(second, stuck);
        arrived += world.arrive(second, stuck, factor / 2.0);
        arrivals.push_back((second, arrived));
        while arrivals.front().is_some_and(|(_, total)| *total <= drained + 1.0) {
            arrivals.pop_front();
        }
        let oldest = arrivals.front().map_or(0, |(since, _)| second - since);
        if oldest > scenario.settings.target_drain.as_secs() {
            outcome.late_seconds += 1;
            outcome.last_late = Some(second);
        }
        outcome.replica_hours += world.pods.len() as f64 / 3600.0;
        asked.push_back(scaler.decide(second, &world.reading(second)));
        let replicas = asked.pop_front().unwrap();
        world.scale(second, replicas);
        outcome.replicas.push(replicas);
    }
    outcome
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let queues = (0..scenario.partitions).map(|_| Queue { end: 0.0, position: 0.0 }).collect();
        let pods = vec![-1.0 - scenario.slow_start; scenario.replicas as usize];
        let (members, random) = (pods.len(), scenario.seed);
        Self { scenario, queues, pods, members, paused_until: 0.0, waiting: 0.0, random }
    }

    /// What comes is spread evenly. Answers how much of it came into partitions that are not stuck.
    fn arrive(&mut self, second: u64, stuck: Option<usize>, factor: f64) -> f64 {
        let active = self.scenario.active.min(self.queues.len());
        let each = (self.scenario.arrival)(second) * factor / active as f64;
        let mut came = 0.0;
        for (index, queue) in self.queues.iter_mut().enumerate().take(active) {
            queue.end += each;
            came += if stuck == Some(index) { 0.0 } else { each };
        }
        came
    }

    fn drain(&mut self, second: u64, stuck: Option<usize>) -> f64 {
        let now = second as f64;
        let members = self.pods.iter().filter(|ready_at| **ready_at <= now).count().min(self.queues.len());
        if members != self.members {
            (self.members, self.paused_until) = (members, now + REBALANCE_PAUSE);
        }
        if now < self.paused_until || members == 0 {
            return 0.0;
        }
        let mut left: Vec<f64> = self.pods[..members].iter().map(|begun| self.rate(now - begun)).collect();
        let mut takes = vec![0.0; self.queues.len()];
        // Each shares what it can do among its partitions, and what one does not need among the others.
        for (member, left) in left.iter_mut().enumerate() {
            let own = (member..self.queues.len()).step_by(members).filter(|index| stuck != Some(*index));
            let mut waiting: Vec<_> = own.collect();
            waiting.sort_by(|a, b| self.queues[*a].waits().total_cmp(&self.queues[*b].waits()));
            let mut others = waiting.len();
            for index in waiting {
                takes[index] = self.queues[index].waits().min(*left / others as f64);
                *left -= takes[index];
                others -= 1;
            }
        }
        let total: f64 = takes.iter().sum();
        let factor = ((self.scenario.ceiling)(second) / total.max(1.0)).min(1.0);
        // One that has less to do, or computes for longer, waits for less.
        let at_best = self.scenario.replica_rate * members as f64;
        self.waiting = if factor < 1.0 { 0.95 } else { 0.4 * total / at_best };
        for (queue, take) in self.queues.iter_mut().zip(&takes) {
            queue.position += take * factor;
        }
        total * factor
    }

    /// Records a second of a replica that has been a member for so long.
    fn rate(&self, age: f64) -> f64 {
        let begun =
            if self.scenario.slow_start > 0.0 { (age / self.scenario.slow_start).min(1.0) } else { 1.0 };
        self.scenario.replica_rate * (0.1 + 0.9 * begun)
    }

    fn scale(&mut self, second: u64, replicas: i32) {
        let replicas = replicas as usize;
        self.pods.truncate(replicas);
        while self.pods.len() < replicas {
            self.pods.push(second as f64 + POD_START);
        }
    }

    fn reading(&self, second: u64) -> Reading {
        let partition = |queue: &Queue| Partition {
            end: queue.end as i64,
            position: queue.position as i64,
            is_owned: self.members > 0 && self.paused_until <= second as f64,
        };
        let ready = self.pods.iter().filter(|ready_at| **ready_at <= second as f64).count();
        Reading {
            partitions: (0..).zip(self.queues.iter().map(partition)).collect(),
            replicas: self.pods.len() as i32,
            ready: ready as i32,
            waiting: (self.scenario.tells_waits && ready > 0).then_some(self.waiting),
            database_refuses: false,
        }
    }

    fn noise(&mut self) -> f64 {
        1.0 + self.scenario.noise * (2.0 * self.chance() - 1.0)
    }

    /// A number from 0 to 1 (xorshift).
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}
