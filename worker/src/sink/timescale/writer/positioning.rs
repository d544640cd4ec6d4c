//! Gives partitions their positions, and compares those that they have with what database and Kafka say.

use std::time::Instant;

use crds::pipeline::OnOffsetLost;

use super::{Work, Writer};
use crate::{
    clock,
    sink::timescale::{
        batch::Batch,
        failure::{Failure, classify_kafka, classify_positions, classify_transaction},
        positions::{self, Gap},
        transaction::{self, Scope},
    },
};

impl Work {
    /// Reads the positions of all owned partitions and voids what was read of those that stand elsewhere.
    pub(super) async fn compare_positions(&mut self) -> Result<(), Failure> {
        let (Some(connection), Some(scope)) = (&mut self.connection, &self.scope) else { return Ok(()) };
        let stored = positions::read(connection, &self.writer.statements, scope)
            .await
            .map_err(|error| classify_positions(&error))?;
        for (partition, owned) in self.writer.assignment.owned() {
            match (owned.position, stored.get(&partition).map(|position| position.next_offset)) {
                (Some(seen), Some(stored)) if seen != stored => {
                    tracing::warn!(
                        partition,
                        seen,
                        stored,
                        "The stored position is another one; going there"
                    );
                    self.writer.assignment.rewind(partition, owned.epoch, stored);
                }
                (Some(_), None) => self.writer.assignment.forget_position(partition, owned.epoch),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives a position to every partition that waits for one.
    pub(super) async fn give_positions(&mut self) -> Result<(), Failure> {
        let waiting = self.writer.assignment.without_position();
        if waiting.is_empty() {
            return Ok(());
        }
        if self.scope.is_none() {
            let cluster_id = self.writer.topic.cluster_id().map_err(|error| classify_kafka(&error))?;
            let (table, topic) = (self.writer.table.clone(), self.writer.topic_name.clone());
            self.scope = Some(Scope { table, cluster_id, topic });
        }
        let (Some(connection), Some(scope)) = (&mut self.connection, &self.scope) else { return Ok(()) };
        let partitions: Vec<i32> = waiting.iter().map(|(partition, _)| *partition).collect();
        let Writer { statements, topic, start_from, .. } = &self.writer;
        let mut stored =
            positions::read_or_begin(connection, statements, scope, topic.as_ref(), &partitions, start_from)
                .await
                .map_err(|error| classify_positions(&error))?;
        stored.retain(|partition, _| partitions.contains(partition));
        let gaps = positions::check(topic.as_ref(), &stored).map_err(|error| classify_positions(&error))?;
        for (partition, epoch) in waiting {
            let position = match gaps.get(&partition) {
                Some(gap) => self.face(gap, epoch).await?,
                None => stored.get(&partition).map(|position| position.next_offset),
            };
            if let Some(position) = position {
                self.writer.assignment.set_position(partition, epoch, position);
            }
        }
        Ok(())
    }

    /// Does what the pipeline says of records that are lost. Answers where the partition goes on, if it does.
    async fn face(&mut self, gap: &Gap, epoch: u64) -> Result<Option<i64>, Failure> {
        let (partition, problem) = (gap.partition, gap.problem());
        if self.writer.on_offset_lost == OnOffsetLost::Fail {
            tracing::error!(
                partition,
                reason = problem.reason,
                "The partition stands still: {}",
                problem.message
            );
            self.writer.assignment.halt(partition, epoch);
            self.writer.readiness.halt(partition, problem);
            return Ok(None);
        }
        let (Some(connection), Some(scope)) = (&mut self.connection, &self.scope) else { return Ok(None) };
        let mut batch = Batch::default();
        batch.add_gap(partition, epoch, (gap.next_offset, gap.oldest), gap.rejection());
        let begun = Instant::now();
        let Writer { statements, repeats, .. } = &self.writer;
        let repeated = transaction::write(connection, statements, repeats, scope, &batch, &[gap.next_offset])
            .await
            .map_err(|error| classify_transaction(&error))?;
        self.writer.metrics.committed(&batch, repeated, begun.elapsed(), clock::now_micros());
        tracing::error!(
            partition,
            reason = problem.reason,
            oldest = gap.oldest,
            "Went on at the oldest record"
        );
        Ok(Some(gap.oldest))
    }
}
