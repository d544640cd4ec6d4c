//! Whether the processor does its work, from what source and sink know. No I/O.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crds::worker::WorkerProblem;

use crate::{
    health::{Health, problem},
    source::kafka::trouble::KAFKA_REFUSED,
};

/// What stands in the way, in the order in which a person should hear of it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Obstacle {
    /// No broker of Kafka answers, or they do not let this worker in.
    Connection,
    /// The topic is missing, or Kafka does not show it to this worker.
    Topic,
    /// Kafka does not let this worker read the topic.
    Reading,
    /// Kafka does not let this worker into the consumer group.
    Group,
    /// The database does not take what it is given.
    Database,
    /// Most messages are rejected.
    Rejections,
}

/// Collects what stands in the way and tells [`Health`] about it.
#[derive(Debug)]
pub struct Readiness {
    health: Health,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Whether the consumer group has answered, be it with no partition at all.
    assigned: bool,
    obstacles: BTreeMap<Obstacle, WorkerProblem>,
    /// Partitions that a person must look after.
    halted: BTreeMap<i32, WorkerProblem>,
}

impl Readiness {
    /// Not ready until the group has assigned and the database has answered.
    pub fn new(health: Health) -> Self {
        let starting = problem("Starting", "The database has not answered yet.");
        let state = State {
            assigned: false,
            obstacles: BTreeMap::from([(Obstacle::Database, starting)]),
            halted: BTreeMap::new(),
        };
        Self { health, state: Mutex::new(state) }
    }

    /// A new consumer joins the group. What stood in the way does so until it is seen to be gone.
    pub fn rejoin(&self) {
        self.update(|state| {
            state.assigned = false;
            state.halted.clear();
            state.obstacles.remove(&Obstacle::Rejections);
        });
    }

    /// The consumer group has assigned these partitions.
    pub fn set_assigned(&self, partitions: Vec<i32>) {
        self.health.set_partitions(partitions.clone());
        self.update(|state| {
            state.assigned = true;
            state.forget_refusals();
            // A member of a group whose topic is missing is assigned too: nothing.
            if !partitions.is_empty() {
                state.obstacles.remove(&Obstacle::Topic);
            }
            state.halted.retain(|partition, _| partitions.contains(partition));
        });
    }

    /// How far the partitions are.
    pub fn set_positions(&self, positions: BTreeMap<i32, i64>) {
        self.health.set_positions(positions);
    }

    /// Something stands in the way.
    pub fn block(&self, obstacle: Obstacle, problem: WorkerProblem) {
        self.update(|state| {
            state.obstacles.insert(obstacle, problem);
        });
    }

    /// A new consumer is refused something. What others were refused before it joined the group is said again by
    /// itself, if it still is.
    pub fn block_anew(&self, obstacle: Obstacle, problem: WorkerProblem) {
        self.update(|state| {
            state.forget_refusals();
            state.obstacles.insert(obstacle, problem);
        });
    }

    /// It is gone.
    pub fn clear(&self, obstacle: Obstacle) {
        self.update(|state| {
            state.obstacles.remove(&obstacle);
        });
    }

    /// A partition cannot go on before a person has decided.
    pub fn halt(&self, partition: i32, problem: WorkerProblem) {
        self.update(|state| {
            state.halted.insert(partition, problem);
        });
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        match state.problem() {
            Some(problem) => self.health.set_not_ready(problem),
            None => self.health.set_ready(),
        }
    }
}

impl State {
    fn forget_refusals(&mut self) {
        let is_refusal = |obstacle: &Obstacle, problem: &WorkerProblem| {
            matches!(obstacle, Obstacle::Topic | Obstacle::Group) && problem.reason == KAFKA_REFUSED
        };
        self.obstacles.retain(|obstacle, problem| !is_refusal(obstacle, problem));
    }

    /// What a person should hear of first.
    fn problem(&self) -> Option<WorkerProblem> {
        let waiting = || {
            (!self.assigned)
                .then(|| problem("Joining", "The consumer group has not assigned any partitions yet."))
        };
        let worst = self.halted.values().chain(self.obstacles.values()).next();
        worst.cloned().or_else(waiting)
    }
}

#[cfg(test)]
mod tests {
    use crds::worker::Component;

    use super::*;

    #[test]
    fn ready_needs_an_assignment_and_a_database() {
        let health = Health::new(Component::Processor);
        let readiness = Readiness::new(health.clone());
        readiness.set_assigned(vec![]);
        assert!(!health.status().ready);
        readiness.clear(Obstacle::Database);
        assert!(health.status().ready);
        readiness.block(Obstacle::Database, problem("DatabaseUnreachable", "x"));
        assert_eq!(health.status().problem.unwrap().reason, "DatabaseUnreachable");
    }

    #[test]
    fn a_halted_partition_is_forgotten_when_it_goes_elsewhere() {
        let health = Health::new(Component::Processor);
        let readiness = Readiness::new(health.clone());
        readiness.clear(Obstacle::Database);
        readiness.set_assigned(vec![1, 2]);
        readiness.halt(2, problem("OffsetLost", "x"));
        readiness.clear(Obstacle::Connection);
        assert_eq!(health.status().problem.unwrap().reason, "OffsetLost");
        readiness.set_assigned(vec![1]);
        assert!(health.status().ready);
    }

    #[test]
    fn an_obstacle_stays_until_it_is_seen_to_be_gone() {
        let health = Health::new(Component::Processor);
        let readiness = Readiness::new(health.clone());
        let reason = || health.status().problem.map(|problem| problem.reason);
        readiness.clear(Obstacle::Database);
        readiness.block(Obstacle::Reading, problem(KAFKA_REFUSED, "x"));
        readiness.rejoin();
        readiness.set_assigned(vec![0]);
        assert_eq!(reason().as_deref(), Some(KAFKA_REFUSED));
        readiness.clear(Obstacle::Reading);
        assert_eq!(reason(), None);
        readiness.block(Obstacle::Group, problem(KAFKA_REFUSED, "x"));
        readiness.block(Obstacle::Topic, problem("TopicMissing", "x"));
        readiness.set_assigned(vec![]);
        assert_eq!(reason().as_deref(), Some("TopicMissing"));
    }
}
