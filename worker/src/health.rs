//! What a worker knows of its own health: the source of `/livez`, `/readyz` and `/status`. No I/O.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crds::worker::{
    Component, Retirement, SpoolStatus, SubscriptionStatus, UnmappedFields, WorkerProblem, WorkerStatus,
};

use prometheus_client::metrics::counter::Counter;

use crate::waits::Waits;

/// A worker whose data path has not turned for so long is dead.
const LONGEST_TURN: Duration = Duration::from_secs(60);

/// The health of this worker. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    status: WorkerStatus,
    waits: Option<Arc<Waits>>,
    received: Vec<Counter>,
    last_turn: Instant,
}

impl Health {
    /// A worker that has just started: not ready, and alive.
    pub fn new(component: Component) -> Self {
        let problem = problem("Starting", "The worker has just started.");
        Self(Arc::new(Mutex::new(State {
            status: WorkerStatus {
                component,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ready: false,
                problem: Some(problem),
                retirement: None,
                spool: None,
                subscriptions: Vec::new(),
                received: None,
                partitions: Vec::new(),
                positions: BTreeMap::new(),
                database_wait_percent: None,
                unmapped: UnmappedFields::default(),
            },
            waits: None,
            received: Vec::new(),
            last_turn: Instant::now(),
        })))
    }

    /// The worker does its work.
    pub fn set_ready(&self) {
        self.change(true, None);
    }

    /// The worker does not do its work, and why.
    pub fn set_not_ready(&self, problem: WorkerProblem) {
        self.change(false, Some(problem));
    }

    /// The worker does its work, but something needs a person.
    pub fn set_ready_with_problem(&self, problem: WorkerProblem) {
        self.change(true, Some(problem));
    }

    /// How the broker answered each subscription (bridge).
    pub fn set_subscriptions(&self, subscriptions: Vec<SubscriptionStatus>) {
        self.lock().status.subscriptions = subscriptions;
    }

    /// What counts the messages from the broker: their sum is told (bridge).
    pub fn set_received(&self, received: Vec<Counter>) {
        self.lock().received = received;
    }

    /// What has become of the session of a pipeline that goes (bridge).
    pub fn set_retirement(&self, retirement: Retirement) {
        self.lock().status.retirement = Some(retirement);
    }

    /// How full the spool is (bridge).
    pub fn set_spool(&self, spool: SpoolStatus) {
        self.lock().status.spool = Some(spool);
    }

    /// The partitions that this worker owns (processor).
    pub fn set_partitions(&self, partitions: Vec<i32>) {
        let status = &mut self.lock().status;
        status.positions.retain(|partition, _| partitions.contains(partition));
        status.partitions = partitions;
    }

    /// How far its partitions are (processor).
    pub fn set_positions(&self, positions: BTreeMap<i32, i64>) {
        self.lock().status.positions = positions;
    }

    /// Where to ask for how long it waits for the database (processor).
    pub fn set_waits(&self, waits: Arc<Waits>) {
        self.lock().waits = Some(waits);
    }

    /// The fields that no column takes (processor).
    pub fn set_unmapped(&self, unmapped: UnmappedFields) {
        self.lock().status.unmapped = unmapped;
    }

    /// The data path still turns. To be said at least every few seconds, also while waiting for an outage to end.
    pub fn turned(&self) {
        self.lock().last_turn = Instant::now();
    }

    /// Whether the data path has turned lately.
    pub fn is_alive(&self) -> bool {
        self.lock().last_turn.elapsed() < LONGEST_TURN
    }

    /// Everything, as the operator reads it.
    pub fn status(&self) -> WorkerStatus {
        let state = self.lock();
        let database_wait_percent = state.waits.as_ref().and_then(|waits| waits.percent());
        let received =
            (!state.received.is_empty()).then(|| state.received.iter().map(|counter| counter.get()).sum());
        WorkerStatus { database_wait_percent, received, ..state.status.clone() }
    }

    /// Logs what changed: once, however often the same is said again.
    fn change(&self, ready: bool, problem: Option<WorkerProblem>) {
        let mut state = self.lock();
        let reason = |problem: &Option<WorkerProblem>| problem.as_ref().map(|problem| problem.reason.clone());
        let changed = state.status.ready != ready || reason(&state.status.problem) != reason(&problem);
        match &problem {
            Some(WorkerProblem { reason, message }) if changed => tracing::warn!(ready, reason, "{message}"),
            None if changed => tracing::info!(ready, "The worker is ready"),
            _ => {}
        }
        state.status.ready = ready;
        state.status.problem = problem;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A problem with a CamelCase reason and one sentence for a person.
pub fn problem(reason: &str, message: impl Into<String>) -> WorkerProblem {
    WorkerProblem { reason: reason.to_owned(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_worker_is_alive_and_not_ready() {
        let health = Health::new(Component::Bridge);
        assert!(health.is_alive());
        assert!(!health.status().ready);
        assert_eq!(health.status().problem.unwrap().reason, "Starting");
    }

    #[test]
    fn readiness_follows_what_was_said_last() {
        let health = Health::new(Component::Processor);
        health.set_ready();
        assert!(health.status().ready && health.status().problem.is_none());
        health.set_ready_with_problem(problem("Odd", "Something is odd."));
        assert!(health.status().ready && health.status().problem.is_some());
        health.set_not_ready(problem("DatabaseUnreachable", "Connection refused."));
        assert!(!health.status().ready);
    }

    #[test]
    fn the_position_of_a_partition_goes_with_it() {
        let health = Health::new(Component::Processor);
        health.set_partitions(vec![0, 1]);
        health.set_positions(BTreeMap::from([(0, 7), (1, 9)]));
        health.set_partitions(vec![1, 2]);
        assert_eq!(health.status().positions, BTreeMap::from([(1, 9)]));
    }
}
