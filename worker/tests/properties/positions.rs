//! Each record becomes rows exactly once, and the rows are those below the position: with workers that crash, that are
//! given partitions which others still hold, that come back from the dead, and with a database that is restored.
//!
//! Real is what source and sink agree on ([`Assignment`]); the two beside it are as short as they can be.

use std::collections::BTreeMap;

use proptest::prelude::*;
use worker::source::kafka::assignment::Assignment;

const PARTITIONS: i32 = 2;
const WORKERS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// The group gives a partition, whoever else believes to have it.
    Assign(usize, i32),
    Revoke(usize, i32),
    /// The sink gives positions to the partitions that wait for one.
    GivePositions(usize),
    /// The source goes where it is to go.
    Seek(usize),
    /// The source reads so many records and puts them into the batch.
    Read(usize, i32, i64),
    /// The sink writes the batch.
    Write(usize),
    /// The answer to COMMIT is lost: the batch may be written or not.
    WriteUnanswered(usize, bool),
    /// The worker is killed and starts anew.
    Crash(usize),
    /// The sink connects anew and compares the positions.
    Reconnect(usize),
    /// The database goes back: the last so many records of each partition are no rows any more.
    Restore(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (worker, partition) = (0..WORKERS, 0..PARTITIONS);
    let step = prop_oneof![
        3 => (worker.clone(), partition.clone()).prop_map(|(worker, partition)| Step::Assign(worker, partition)),
        1 => (worker.clone(), partition.clone()).prop_map(|(worker, partition)| Step::Revoke(worker, partition)),
        6 => worker.clone().prop_map(Step::GivePositions),
        4 => worker.clone().prop_map(Step::Seek),
        9 => (worker.clone(), partition, 1..5_i64)
            .prop_map(|(worker, partition, count)| Step::Read(worker, partition, count)),
        6 => worker.clone().prop_map(Step::Write),
        1 => (worker.clone(), any::<bool>())
            .prop_map(|(worker, is_written)| Step::WriteUnanswered(worker, is_written)),
        1 => worker.clone().prop_map(Step::Crash),
        2 => worker.prop_map(Step::Reconnect),
        1 => (0..6_i64).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 0..120)
}

/// The database: the positions, and the offsets that are rows.
#[derive(Default)]
struct Database {
    next: BTreeMap<i32, i64>,
    rows: BTreeMap<i32, Vec<i64>>,
}

/// The records of one partition in a batch.
#[derive(Clone)]
struct Part {
    partition: i32,
    epoch: u64,
    offsets: Vec<i64>,
}

#[derive(Default)]
struct Worker {
    assignment: Assignment,
    /// What the source reads next, with the epoch for which it knows that.
    reading: BTreeMap<i32, (u64, i64)>,
    batch: Vec<Part>,
}

impl Worker {
    fn give_positions(&self, database: &Database) {
        for (partition, epoch) in self.assignment.without_position() {
            self.assignment.set_position(partition, epoch, database.next[&partition]);
        }
    }

    fn seek(&self) {
        for (partition, owned) in self.assignment.owned() {
            if owned.must_seek && !owned.halted && owned.position.is_some() {
                self.assignment.sought(partition, owned.epoch);
            }
        }
    }

    fn read(&mut self, partition: i32, count: i64) {
        let Some(owned) = self.assignment.get(partition).filter(|owned| owned.is_flowing()) else { return };
        let Some(position) = owned.position else { return };
        let reading = self.reading.entry(partition).or_insert((owned.epoch, position));
        if reading.0 != owned.epoch {
            *reading = (owned.epoch, position);
        }
        let offsets = (reading.1..reading.1 + count).collect();
        reading.1 += count;
        self.batch.push(Part { partition, epoch: owned.epoch, offsets });
    }

    /// Writes the batch; where a position is another one, what is left of it once the positions are compared.
    fn write(&mut self, database: &mut Database) {
        while !self.try_write(database) {
            self.compare_positions(database);
        }
        self.batch.clear();
    }

    /// Writes what is still this worker's, all or nothing; `false` where some position is another one.
    fn try_write(&self, database: &mut Database) -> bool {
        let mut parts = BTreeMap::<i32, Part>::new();
        for part in self.batch.clone() {
            let is_current =
                self.assignment.get(part.partition).is_some_and(|owned| owned.epoch == part.epoch);
            match parts.get_mut(&part.partition) {
                _ if !is_current => {}
                Some(known) => known.offsets.extend(part.offsets),
                None => drop(parts.insert(part.partition, part)),
            }
        }
        let position = |partition: &i32| self.assignment.get(*partition).and_then(|owned| owned.position);
        if parts.keys().any(|partition| position(partition) != Some(database.next[partition])) {
            return false;
        }
        for (partition, part) in parts {
            let next = part.offsets.last().unwrap() + 1;
            database.rows.entry(partition).or_default().extend(part.offsets);
            database.next.insert(partition, next);
            self.assignment.advance(partition, part.epoch, next);
        }
        true
    }

    /// What a sink does that was fenced, or has a new connection.
    fn compare_positions(&self, database: &Database) {
        for (partition, owned) in self.assignment.owned() {
            let stored = database.next[&partition];
            if owned.position.is_some_and(|seen| seen != stored) {
                self.assignment.rewind(partition, owned.epoch, stored);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn rows_are_what_is_below_the_position(steps in steps()) {
        let mut database = Database::default();
        database.next.extend((0..PARTITIONS).map(|partition| (partition, 0)));
        let mut workers: Vec<Worker> = (0..WORKERS).map(|_| Worker::default()).collect();
        for step in steps {
            match step {
                Step::Assign(worker, partition) => workers[worker].assignment.assign(&[partition]),
                Step::Revoke(worker, partition) => workers[worker].assignment.revoke(&[partition]),
                Step::GivePositions(worker) => workers[worker].give_positions(&database),
                Step::Seek(worker) => workers[worker].seek(),
                Step::Read(worker, partition, count) => workers[worker].read(partition, count),
                Step::Write(worker) => workers[worker].write(&mut database),
                Step::WriteUnanswered(worker, is_written) => {
                    let worker = &workers[worker];
                    // As the worker sees it nothing has moved; it keeps the batch and connects anew.
                    let before = worker.assignment.owned();
                    if is_written && worker.try_write(&mut database) {
                        for (partition, owned) in before {
                            worker.assignment.advance(partition, owned.epoch, owned.position.unwrap_or(0));
                        }
                    }
                    worker.compare_positions(&database);
                }
                Step::Crash(worker) => workers[worker] = Worker::default(),
                Step::Reconnect(worker) => workers[worker].compare_positions(&database),
                Step::Restore(lost) => {
                    for (partition, next) in &mut database.next {
                        *next = (*next - lost).max(0);
                        let rows = database.rows.entry(*partition).or_default();
                        rows.retain(|offset| offset < next);
                    }
                }
            }
            for (partition, next) in &database.next {
                let rows = database.rows.get(partition).cloned().unwrap_or_default();
                prop_assert_eq!(rows, (0..*next).collect::<Vec<_>>());
            }
        }
    }
}
