//! Whether the processor does its work, from what source and sink know. No I/O.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crds::worker::WorkerProblem;

use crate::health::{Health, problem};

/// The reason of a problem that ends by itself once the topic is there.
pub const TOPIC_MISSING: &str = "TopicMissing";

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
    kafka: Option<WorkerProblem>,
    topic: Option<WorkerProblem>,
    database: Option<WorkerProblem>,
    /// Partitions that a person must look after.
    halted: BTreeMap<i32, WorkerProblem>,
}

impl Readiness {
    /// Not ready until the group has assigned and the database has answered.
    pub fn new(health: Health) -> Self {
        let state = State {
            assigned: false,
            kafka: None,
            topic: None,
            database: Some(problem("Starting", "The database has not answered yet.")),
            halted: BTreeMap::new(),
        };
        Self { health, state: Mutex::new(state) }
    }

    /// The consumer group has assigned these partitions.
    pub fn set_assigned(&self, partitions: Vec<i32>) {
        self.health.set_partitions(partitions.clone());
        self.update(|state| {
            state.assigned = true;
            // A member of a group whose topic is missing is assigned too: nothing.
            if !partitions.is_empty() {
                state.topic = None;
            }
            state.halted.retain(|partition, _| partitions.contains(partition));
        });
    }

    /// Whether a broker can be reached.
    pub fn set_kafka(&self, problem: Option<WorkerProblem>) {
        self.update(|state| state.kafka = problem);
    }

    /// What is wrong with the topic.
    pub fn set_topic(&self, problem: WorkerProblem) {
        self.update(|state| state.topic = Some(problem));
    }

    /// Kafka names partitions of the topic, so it is not missing.
    pub fn topic_exists(&self) {
        self.update(|state| {
            state.topic.take_if(|problem| problem.reason == TOPIC_MISSING);
        });
    }

    /// Whether the database takes what it is given.
    pub fn set_database(&self, problem: Option<WorkerProblem>) {
        self.update(|state| state.database = problem);
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
    /// What a person should hear of first.
    fn problem(&self) -> Option<WorkerProblem> {
        let waiting = || {
            (!self.assigned)
                .then(|| problem("Joining", "The consumer group has not assigned any partitions yet."))
        };
        self.halted
            .values()
            .next()
            .or(self.topic.as_ref())
            .or(self.kafka.as_ref())
            .or(self.database.as_ref())
            .cloned()
            .or_else(waiting)
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
        readiness.set_database(None);
        assert!(health.status().ready);
        readiness.set_database(Some(problem("DatabaseUnreachable", "x")));
        assert_eq!(health.status().problem.unwrap().reason, "DatabaseUnreachable");
    }

    #[test]
    fn a_halted_partition_is_forgotten_when_it_goes_elsewhere() {
        let health = Health::new(Component::Processor);
        let readiness = Readiness::new(health.clone());
        readiness.set_database(None);
        readiness.set_assigned(vec![1, 2]);
        readiness.halt(2, problem("OffsetLost", "x"));
        readiness.set_kafka(None);
        assert_eq!(health.status().problem.unwrap().reason, "OffsetLost");
        readiness.set_assigned(vec![1]);
        assert!(health.status().ready);
    }
}
