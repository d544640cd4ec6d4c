//! Writes batches, one after the other, on a thread of its own, and gives partitions their positions.
//!
//! Outages are waited for, with the batch kept; a moved position voids what was read of its partition; a record
//! that the database refuses is named to the source, which reads it again and makes it a dead letter.

mod pauses;
mod positioning;

use std::{
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use crds::{
    pipeline::OnOffsetLost,
    worker::{StartFrom, WorkerProblem},
};
use sqlx::{Connection, PgConnection};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{sleep, timeout},
};

use self::pauses::{MISCONFIGURED_PAUSE, outage_pause};
use super::{
    batch::Batch,
    connect::Connector,
    failure::{Failure, classify, classify_connect, classify_transaction, data_error},
    limit::RowLimit,
    metrics::ProcessorMetrics,
    readiness::{Obstacle, Readiness},
    repeats::{Conflict, Repeats},
    statements::{RowStatements, Statements},
    transaction::{self, Scope},
    unmapped::UnmappedCounter,
};
use crate::{
    clock,
    health::problem,
    rejection::{Reason, Rejection, Stage},
    shutdown::Shutdown,
    source::kafka::{assignment::Assignment, offsets::TopicOffsets},
    waits::Waits,
};

/// How often an idle connection is looked at.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// Shows committed positions to lag tools.
pub trait PositionMirror: Send {
    /// Tells Kafka the next offset of partitions. Nothing depends on it.
    fn show(&self, positions: &[(i32, i64)]);
}

/// Writes batches.
pub struct Writer {
    /// How to reach the database.
    pub connector: Connector,
    /// What to say to it.
    pub statements: Statements,
    /// What tells a repeated row from another one with the same key.
    pub repeats: Repeats,
    /// The target table.
    pub table: String,
    /// The topic.
    pub topic_name: String,
    /// What Kafka knows of the topic.
    pub topic: Box<dyn TopicOffsets>,
    /// Where positions are shown.
    pub mirror: Box<dyn PositionMirror>,
    /// Where a topic without any position begins.
    pub start_from: StartFrom,
    /// What becomes of a partition whose next record Kafka no longer has.
    pub on_offset_lost: OnOffsetLost,
    /// What source and sink agree on.
    pub assignment: Arc<Assignment>,
    /// How large batches may be.
    pub limit: Arc<RowLimit>,
    /// Where problems are reported.
    pub readiness: Arc<Readiness>,
    /// What is counted.
    pub metrics: ProcessorMetrics,
    /// Where fields are counted that no column takes.
    pub unmapped: Arc<UnmappedCounter>,
    /// Where it is noted for how long it waits for the database.
    pub waits: Arc<Waits>,
    /// When to stop.
    pub shutdown: Shutdown,
}

/// A writer at work.
struct Work {
    writer: Writer,
    connection: Option<PgConnection>,
    scope: Option<Scope>,
    attempts: u32,
}

/// What became of an attempt that failed.
enum Setback {
    /// The positions were read again: look at the batch anew.
    Again,
    /// Wait so long, then try again.
    Wait(Duration),
    /// The batch is void; its records are read again.
    Void,
}

impl Writer {
    /// Writes the batches of `full` and returns them, emptied, to `empty`, until `full` is closed.
    pub async fn run(self, mut full: UnboundedReceiver<Batch>, empty: Sender<Batch>) {
        let mut work = Work { writer: self, connection: None, scope: None, attempts: 0 };
        let assignment = Arc::clone(&work.writer.assignment);
        let mut pause = work.tend().await;
        loop {
            tokio::select! {
                biased;
                () = assignment.wanted() => pause = work.tend().await,
                batch = full.recv() => match batch {
                    Some(mut batch) => {
                        work.write(&mut batch).await;
                        batch.clear();
                        // The source is gone only when the worker stops.
                        let _ = empty.send(batch);
                    }
                    None => break,
                },
                () = sleep(pause) => pause = work.tend().await,
            }
        }
        if let Some(connection) = work.connection {
            let _ = timeout(Duration::from_secs(1), connection.close()).await;
        }
    }
}

impl Work {
    /// Keeps a connection and gives positions. Returns when to look again.
    async fn tend(&mut self) -> Duration {
        if self.writer.shutdown.is_requested() {
            return IDLE_CHECK;
        }
        match self.try_tend().await {
            Ok(()) => {
                self.tell_positions();
                self.writer.readiness.clear(Obstacle::Database);
                self.attempts = 0;
                IDLE_CHECK
            }
            Err(failure) => self.step_back(failure),
        }
    }

    async fn try_tend(&mut self) -> Result<(), Failure> {
        self.connect().await?;
        self.ping().await?;
        self.give_positions().await
    }

    async fn write(&mut self, batch: &mut Batch) {
        loop {
            if self.writer.shutdown.is_requested() {
                return;
            }
            let assignment = &self.writer.assignment;
            batch
                .retain(|part| assignment.get(part.partition).is_some_and(|owned| owned.epoch == part.epoch));
            if batch.is_empty() {
                return;
            }
            let setback = match self.try_write(batch).await {
                Ok(()) => return,
                Err(setback) => setback,
            };
            match setback {
                Setback::Again => {}
                Setback::Void => return,
                Setback::Wait(pause) => {
                    self.writer.metrics.retried();
                    let mut shutdown = self.writer.shutdown.clone();
                    let _ = timeout(pause, shutdown.requested()).await;
                }
            }
        }
    }

    async fn try_write(&mut self, batch: &Batch) -> Result<(), Setback> {
        if self.connection.is_none() {
            // Connecting reads the positions, which may void parts of the batch.
            return match self.try_tend().await {
                Ok(()) => Err(Setback::Again),
                Err(failure) => Err(Setback::Wait(self.step_back(failure))),
            };
        }
        let (Some(connection), Some(scope)) = (&mut self.connection, &self.scope) else {
            return Err(Setback::Again);
        };
        let assignment = &self.writer.assignment;
        let expected: Vec<i64> = batch
            .parts()
            .iter()
            .filter_map(|part| {
                assignment.get(part.partition).filter(|owned| owned.epoch == part.epoch)?.position
            })
            .collect();
        if expected.len() != batch.parts().len() {
            return Err(Setback::Again);
        }
        let begun = Instant::now();
        let Writer { statements, repeats, waits, .. } = &self.writer;
        let waiting = waits.begin();
        let written = transaction::write(connection, statements, repeats, scope, batch, &expected).await;
        drop(waiting);
        match written {
            Ok(repeated) => {
                self.committed(batch, repeated, begun.elapsed());
                Ok(())
            }
            Err(error) => Err(self.set_back(batch, error).await),
        }
    }

    fn committed(&mut self, batch: &Batch, repeated: u64, duration: Duration) {
        let mut positions = Vec::with_capacity(batch.parts().len());
        for part in batch.parts() {
            self.writer.assignment.advance(part.partition, part.epoch, part.next_offset());
            positions.push((part.partition, part.next_offset()));
        }
        let now = clock::now_micros();
        self.writer.metrics.committed(batch, repeated, duration, now);
        self.writer.unmapped.committed(batch.unmapped(), now);
        self.writer.mirror.show(&positions);
        self.tell_positions();
        if self.attempts > 0 {
            tracing::info!(attempts = self.attempts, "The database takes batches again");
            self.attempts = 0;
        }
        self.writer.limit.passed();
        self.writer.readiness.clear(Obstacle::Database);
    }

    /// Says how far this worker is, for whoever decides how many there shall be.
    fn tell_positions(&self) {
        self.writer.readiness.set_positions(self.writer.assignment.positions());
    }

    async fn set_back(&mut self, batch: &Batch, error: transaction::Error) -> Setback {
        if let transaction::Error::Fenced { .. } = error {
            self.writer.metrics.fenced();
            tracing::warn!(%error, "Another worker or an operator moved a position; reading it again");
            return match self.roll_back_and_read().await {
                Ok(()) => Setback::Again,
                Err(failure) => Setback::Wait(self.step_back(failure)),
            };
        }
        if let transaction::Error::Conflicting { conflicts } = &error {
            return match self.name_conflicting(batch, conflicts).await {
                Ok(()) => Setback::Void,
                Err(failure) => Setback::Wait(self.step_back(failure)),
            };
        }
        match classify_transaction(&error) {
            Failure::Data(_) => match self.name_refused(batch).await {
                Ok(()) => Setback::Void,
                Err(failure) => Setback::Wait(self.step_back(failure)),
            },
            Failure::TooMany(problem) => self.make_smaller(batch, problem).await,
            failure => Setback::Wait(self.step_back(failure)),
        }
    }

    /// Has the records of a batch read again, into smaller ones.
    async fn make_smaller(&mut self, batch: &Batch, problem: WorkerProblem) -> Setback {
        if !self.writer.limit.halve(batch.row_count()) {
            return Setback::Wait(self.step_back(Failure::Misconfigured(problem)));
        }
        tracing::warn!(rows = self.writer.limit.rows(), "Batches become smaller: {}", problem.message);
        if let Some(connection) = &mut self.connection
            && let Err(error) = transaction::roll_back(connection).await
        {
            return Setback::Wait(self.step_back(classify_transaction(&error)));
        }
        self.read_again(batch);
        Setback::Void
    }

    /// Finds the records that the database refuses and names them to the source.
    async fn name_refused(&mut self, batch: &Batch) -> Result<(), Failure> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        transaction::roll_back(connection).await.map_err(|error| classify_transaction(&error))?;
        let is_data = |error: &sqlx::Error| data_error(error).is_some();
        let refused = transaction::find_refused(connection, &self.writer.statements, batch, is_data)
            .await
            .map_err(|error| classify_transaction(&error))?;
        if refused.is_empty() {
            let message = "The database refuses a batch, but none of its records alone.";
            return Err(Failure::Misconfigured(problem("BatchRefused", message)));
        }
        let rejections = refused.iter().filter_map(|(record, error)| {
            let data = data_error(error)?;
            Some((*record, Rejection::new(data.reason, Stage::Store, data.letter())))
        });
        self.name(batch, rejections.collect());
        Ok(())
    }

    /// Names the records to the source that have rows with the key of another row and other content.
    async fn name_conflicting(&mut self, batch: &Batch, conflicts: &[Conflict]) -> Result<(), Failure> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        transaction::roll_back(connection).await.map_err(|error| classify_transaction(&error))?;
        let RowStatements::Unique(unique) = &self.writer.statements.rows else { return Ok(()) };
        let letter = |conflict: &Conflict| {
            Rejection::new(Reason::KeyConflict, Stage::Store, unique.conflict_letter(&conflict.columns))
        };
        self.name(batch, conflicts.iter().map(|conflict| (conflict.record, letter(conflict))).collect());
        Ok(())
    }

    /// Names records to the source that become dead letters, and makes it read the partitions again from their
    /// positions.
    fn name(&self, batch: &Batch, rejections: Vec<(usize, Rejection)>) {
        tracing::warn!(records = rejections.len(), "The database refused records; they become dead letters");
        for (record, rejection) in rejections {
            let (partition, offset) = batch.record(record);
            self.writer.assignment.refuse(partition, offset, rejection);
        }
        self.read_again(batch);
    }

    /// Voids a batch.
    fn read_again(&self, batch: &Batch) {
        for part in batch.parts() {
            if let Some(position) =
                self.writer.assignment.get(part.partition).and_then(|owned| owned.position)
            {
                self.writer.assignment.rewind(part.partition, part.epoch, position);
            }
        }
    }

    async fn roll_back_and_read(&mut self) -> Result<(), Failure> {
        if let Some(connection) = &mut self.connection {
            transaction::roll_back(connection).await.map_err(|error| classify_transaction(&error))?;
        }
        self.compare_positions().await
    }

    /// Reports a failure, gives the connection up, and says how long to wait.
    fn step_back(&mut self, failure: Failure) -> Duration {
        self.connection = None;
        self.attempts = self.attempts.saturating_add(1);
        let (problem, pause) = match failure {
            Failure::Outage(problem) => (problem, outage_pause(self.attempts)),
            Failure::Misconfigured(problem) | Failure::TooMany(problem) => (problem, MISCONFIGURED_PAUSE),
            Failure::Data(refused) => (problem("DatabaseRefused", refused.problem()), MISCONFIGURED_PAUSE),
        };
        let WorkerProblem { reason, message } = &problem;
        tracing::warn!(reason, attempts = self.attempts, ?pause, "Cannot write to the database: {message}");
        self.writer.readiness.block(Obstacle::Database, problem);
        pause
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.connection.is_some() {
            return Ok(());
        }
        let connection = self.writer.connector.connect().await.map_err(|error| classify_connect(&error))?;
        self.connection = Some(connection);
        // After a fail-over or a restore the positions may have gone back with the rows, and the outcome of the
        // last commit may be unknown: what the database says counts.
        self.compare_positions().await
    }

    async fn ping(&mut self) -> Result<(), Failure> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match timeout(Duration::from_secs(10), connection.ping()).await {
            Ok(answer) => answer.map_err(|error| classify("answer", &error)),
            Err(_) => Err(Failure::Outage(problem("DatabaseUnreachable", "The database does not answer."))),
        }
    }
}
