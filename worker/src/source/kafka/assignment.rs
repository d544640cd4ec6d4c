//! Which partitions this worker owns and where each goes on: what source and sink agree on. No I/O.
//!
//! The source adds and removes partitions as the consumer group says. The sink gives each its position, from the
//! database, and moves it with every commit. Whatever makes records that were already read invalid (a new
//! assignment, a rewind) gives the partition a new epoch: records carry theirs, so stale ones are told apart
//! wherever they are.

use std::{
    collections::BTreeMap,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::rejection::Rejection;

/// The partitions of this worker.
#[derive(Debug, Default)]
pub struct Assignment {
    state: Mutex<State>,
    /// Changes whenever the source has something to look at.
    version: AtomicU64,
    /// Wakes the rebalance callback, which waits for positions.
    positioned: Condvar,
    /// Wakes the sink, which gives positions.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    next_epoch: u64,
    owned: BTreeMap<i32, Owned>,
    /// Records that the database refused: to be dead letters when they are read again.
    refused: BTreeMap<(i32, i64), Rejection>,
}

/// What is known of an owned partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owned {
    /// Counts what made records that were read before invalid.
    pub epoch: u64,
    /// The position in the database, as last seen; `None` until the sink has read it.
    pub position: Option<i64>,
    /// Whether the source has yet to go to `position`.
    pub must_seek: bool,
    /// Whether a person must decide first.
    pub halted: bool,
}

impl Owned {
    /// Whether records that are read now are the ones that come next.
    pub fn is_flowing(&self) -> bool {
        self.position.is_some() && !self.must_seek && !self.halted
    }
}

impl Assignment {
    /// The group gave these partitions to this worker.
    pub fn assign(&self, partitions: &[i32]) {
        let mut state = self.lock();
        for partition in partitions {
            let epoch = state.new_epoch();
            let owned = Owned { epoch, position: None, must_seek: false, halted: false };
            state.owned.insert(*partition, owned);
        }
        self.changed(state);
        self.wanted.notify_one();
    }

    /// Waits until these partitions have positions, at most for `limit`. Those that have none by then must be
    /// sought once they have.
    pub fn wait_for_positions(&self, partitions: &[i32], limit: Duration) -> Vec<(i32, Option<i64>)> {
        let missing = |state: &mut State| {
            let settled = |owned: &Owned| owned.position.is_some() || owned.halted;
            partitions.iter().any(|partition| state.owned.get(partition).is_some_and(|owned| !settled(owned)))
        };
        let waited = self.positioned.wait_timeout_while(self.lock(), limit, missing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let positions = partitions
            .iter()
            .map(|partition| {
                let position = state.owned.get_mut(partition).and_then(|owned| {
                    owned.must_seek = owned.position.is_none();
                    owned.position
                });
                (*partition, position)
            })
            .collect();
        self.changed(state);
        positions
    }

    /// The group took these partitions away.
    pub fn revoke(&self, partitions: &[i32]) {
        let mut state = self.lock();
        for partition in partitions {
            state.owned.remove(partition);
            state.refused.retain(|(refused, _), _| refused != partition);
        }
        self.changed(state);
        self.positioned.notify_all();
    }

    /// The partitions that wait for a position, with their epochs.
    pub fn without_position(&self) -> Vec<(i32, u64)> {
        let state = self.lock();
        let waiting = state.owned.iter().filter(|(_, owned)| owned.position.is_none() && !owned.halted);
        waiting.map(|(partition, owned)| (*partition, owned.epoch)).collect()
    }

    /// The database says where a partition goes on.
    pub fn set_position(&self, partition: i32, epoch: u64, position: i64) {
        self.change(partition, epoch, |owned, _| owned.position = Some(position));
        self.positioned.notify_all();
    }

    /// The database has a commit of this worker: the position moved.
    pub fn advance(&self, partition: i32, epoch: u64, position: i64) {
        let mut state = self.lock();
        if let Some(owned) = state.owned.get_mut(&partition).filter(|owned| owned.epoch == epoch) {
            owned.position = Some(position);
        }
        // The source need not hear of it, so its version stays.
        state.refused.retain(|(refused, offset), _| *refused != partition || *offset >= position);
    }

    /// The partition goes on elsewhere than this worker thought. What was read of it is void.
    pub fn rewind(&self, partition: i32, epoch: u64, position: i64) {
        self.change(partition, epoch, |owned, new_epoch| {
            *owned = Owned { epoch: new_epoch, position: Some(position), must_seek: true, ..*owned };
        });
    }

    /// The partition lost its position in the database. What was read of it is void.
    pub fn forget_position(&self, partition: i32, epoch: u64) {
        self.change(partition, epoch, |owned, new_epoch| {
            *owned = Owned { epoch: new_epoch, position: None, must_seek: true, ..*owned };
        });
        self.wanted.notify_one();
    }

    /// A person must decide before the partition goes on.
    pub fn halt(&self, partition: i32, epoch: u64) {
        self.change(partition, epoch, |owned, new_epoch| {
            *owned = Owned { epoch: new_epoch, halted: true, must_seek: true, ..*owned };
        });
        self.positioned.notify_all();
    }

    /// Kafka does not have what some partition wants next, and reads no further in it until it is told where. What was read
    /// of all of them is void, until their positions are read and compared with Kafka again.
    pub fn forget_positions(&self) {
        for (partition, owned) in self.owned() {
            if owned.position.is_some() && !owned.halted {
                self.forget_position(partition, owned.epoch);
            }
        }
    }

    /// The source is where `position` says.
    pub fn sought(&self, partition: i32, epoch: u64) {
        self.change(partition, epoch, |owned, _| owned.must_seek = false);
    }

    /// The source could not go there yet and is to look again.
    pub fn seek_failed(&self) {
        self.changed(self.lock());
    }

    /// The database refused this record.
    pub fn refuse(&self, partition: i32, offset: i64, rejection: Rejection) {
        let mut state = self.lock();
        if state.owned.contains_key(&partition) {
            state.refused.insert((partition, offset), rejection);
        }
        self.changed(state);
    }

    /// The records that the database refused.
    pub fn refused(&self) -> BTreeMap<(i32, i64), Rejection> {
        self.lock().refused.clone()
    }

    /// All owned partitions.
    pub fn owned(&self) -> BTreeMap<i32, Owned> {
        self.lock().owned.clone()
    }

    /// The positions that are known.
    pub fn positions(&self) -> BTreeMap<i32, i64> {
        let state = self.lock();
        state.owned.iter().filter_map(|(partition, owned)| Some((*partition, owned.position?))).collect()
    }

    /// One partition, if it is owned.
    pub fn get(&self, partition: i32) -> Option<Owned> {
        self.lock().owned.get(&partition).copied()
    }

    /// Changes whenever the source has something to look at.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Returns once the sink has something to do: positions to give or to check.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    fn change(&self, partition: i32, epoch: u64, change: impl FnOnce(&mut Owned, u64)) {
        let mut state = self.lock();
        let new_epoch = state.new_epoch();
        if let Some(owned) = state.owned.get_mut(&partition).filter(|owned| owned.epoch == epoch) {
            change(owned, new_epoch);
        }
        self.changed(state);
    }

    fn changed(&self, state: MutexGuard<'_, State>) {
        self.version.fetch_add(1, Ordering::Release);
        drop(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new_epoch(&mut self) -> u64 {
        self.next_epoch += 1;
        self.next_epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::{Reason, Stage};

    fn flowing(assignment: &Assignment, partition: i32) -> bool {
        assignment.get(partition).is_some_and(|owned| owned.is_flowing())
    }

    #[test]
    fn a_partition_flows_once_it_has_a_position() {
        let assignment = Assignment::default();
        assignment.assign(&[3]);
        let [(3, epoch)] = assignment.without_position()[..] else { panic!() };
        assert!(!flowing(&assignment, 3));
        assignment.set_position(3, epoch, 40);
        assert_eq!(assignment.wait_for_positions(&[3], Duration::ZERO), [(3, Some(40))]);
        assert!(flowing(&assignment, 3) && assignment.without_position().is_empty());
    }

    #[test]
    fn a_position_that_comes_late_is_sought() {
        let assignment = Assignment::default();
        assignment.assign(&[3]);
        assert_eq!(assignment.wait_for_positions(&[3], Duration::from_millis(1)), [(3, None)]);
        let (_, epoch) = assignment.without_position()[0];
        assignment.set_position(3, epoch, 40);
        assert!(!flowing(&assignment, 3));
        assignment.sought(3, epoch);
        assert!(flowing(&assignment, 3));
    }

    #[test]
    fn partitions_of_which_kafka_lacks_something_wait_for_their_positions_and_are_sought() {
        let assignment = Assignment::default();
        assignment.assign(&[3, 4]);
        let [(3, three), (4, four)] = assignment.without_position()[..] else { panic!() };
        assignment.halt(4, four);
        assignment.set_position(3, three, 40);
        assignment.forget_positions();
        let [(3, epoch)] = assignment.without_position()[..] else { panic!("not one that is halted") };
        assignment.forget_positions();
        assignment.set_position(3, epoch, 40);
        assert!(epoch > three && !flowing(&assignment, 3));
        assignment.sought(3, epoch);
        assert!(flowing(&assignment, 3));
    }

    #[test]
    fn what_is_stale_changes_nothing() {
        let assignment = Assignment::default();
        assignment.assign(&[3]);
        let (_, old) = assignment.without_position()[0];
        assignment.assign(&[3]);
        assignment.set_position(3, old, 40);
        assert_eq!(assignment.get(3).unwrap().position, None);
        let (_, new) = assignment.without_position()[0];
        assignment.set_position(3, new, 50);
        assignment.rewind(3, new, 45);
        assignment.advance(3, new, 60);
        let owned = assignment.get(3).unwrap();
        assert_eq!((owned.position, owned.must_seek), (Some(45), true));
        assert!(owned.epoch > new);
    }

    #[test]
    fn a_refused_record_is_remembered_until_it_is_behind() {
        let assignment = Assignment::default();
        assignment.assign(&[3]);
        let (_, epoch) = assignment.without_position()[0];
        assignment.refuse(3, 41, Rejection::new(Reason::Constraint, Stage::Store, "x"));
        assignment.advance(3, epoch, 41);
        assert_eq!(assignment.refused().len(), 1);
        assignment.advance(3, epoch, 42);
        assert!(assignment.refused().is_empty());
    }

    #[test]
    fn a_halted_partition_waits_for_a_person() {
        let assignment = Assignment::default();
        assignment.assign(&[3]);
        let (_, epoch) = assignment.without_position()[0];
        assignment.halt(3, epoch);
        assert!(assignment.without_position().is_empty() && !flowing(&assignment, 3));
        assert_eq!(assignment.wait_for_positions(&[3], Duration::from_secs(5)), [(3, None)]);
    }
}
