//! Where each partition goes on: read from the database, and put there for partitions that have no position yet.

use std::collections::BTreeMap;

use crds::worker::{StartFrom, WorkerProblem};
use snafu::{ResultExt, Snafu};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    statements::Statements,
    transaction::{self, Scope},
};
use crate::{
    health::problem,
    rejection::{Reason, Rejection, Stage},
    source::kafka::offsets::{self, RecordTraits, TopicOffsets},
};

/// Why positions are not known.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The database did not take or give them.
    #[snafu(transparent)]
    Database {
        /// Why not.
        source: transaction::Error,
    },
    /// Kafka did not answer.
    #[snafu(display("failed to learn about the topic"))]
    Kafka {
        /// Why not.
        source: offsets::Error,
    },
}

/// A position and what is known of the record before it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Position {
    /// The offset that comes next.
    pub next_offset: i64,
    /// The offset of the last record, if there was one.
    pub last_offset: Option<i64>,
    /// What tells that record from others.
    pub last_record: RecordTraits,
}

/// A partition whose next record Kafka no longer has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gap {
    /// The partition.
    pub partition: i32,
    /// The offset of the record that should have come next.
    pub next_offset: i64,
    /// The oldest offset that Kafka has.
    pub oldest: i64,
    /// Why it is not there.
    pub loss: Loss,
}

/// Why Kafka no longer has a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// It became older than the topic keeps records.
    Retention,
    /// The topic was deleted and created again.
    Recreated,
}

impl Gap {
    /// For the status: what is lost and what to do.
    pub fn problem(&self) -> WorkerProblem {
        let what = self.what();
        match self.loss {
            Loss::Retention => {
                let message = format!(
                    "{what} To go on without them, set spec.kafka.onOffsetLost to Earliest, or set next_offset to {} in \
                     the table of positions and restart the processor.",
                    self.oldest
                );
                problem("OffsetLost", message)
            }
            Loss::Recreated => {
                let message = format!(
                    "{what} To begin it anew, set spec.kafka.onOffsetLost to Earliest, or delete its rows in the table of \
                     positions and restart the processor."
                );
                problem("TopicRecreated", message)
            }
        }
    }

    /// For the dead letter that stands for what is skipped.
    pub fn rejection(&self) -> Rejection {
        let reason = match self.loss {
            Loss::Retention => Reason::OffsetLost,
            Loss::Recreated => Reason::TopicRecreated,
        };
        Rejection::new(reason, Stage::Read, self.what())
    }

    fn what(&self) -> String {
        let Self { partition, next_offset, oldest, loss } = self;
        match loss {
            Loss::Retention => format!(
                "Partition {partition}: the next record has offset {next_offset}, and the oldest that Kafka still has is \
                 {oldest}. {} records are lost to retention.",
                oldest - next_offset
            ),
            Loss::Recreated => format!(
                "Partition {partition}: the record before the stored position {next_offset} is not the one that became \
                 rows, so the topic was deleted and created again."
            ),
        }
    }
}

/// Reads all positions of a table, cluster and topic.
///
/// # Errors
/// Where the database does not answer.
pub async fn read(
    connection: &mut PgConnection,
    statements: &Statements,
    scope: &Scope,
) -> Result<BTreeMap<i32, Position>, Error> {
    type Row = (i32, i64, Option<i64>, Option<i64>, Option<Vec<u8>>);
    let query = sqlx::query_as::<_, Row>(AssertSqlSafe(statements.read_positions.clone()))
        .persistent(false)
        .bind(&scope.table)
        .bind(&scope.cluster_id)
        .bind(&scope.topic);
    let rows = transaction::within(connection, "read the positions", async |connection| {
        query.fetch_all(connection).await
    })
    .await?;
    let position = |(partition, next_offset, last_offset, timestamp, hash): Row| {
        let last_record = RecordTraits { timestamp, hash: hash.unwrap_or_default() };
        (partition, Position { next_offset, last_offset, last_record })
    };
    Ok(rows.into_iter().map(position).collect())
}

/// Reads the positions and first inserts one for each of `owned` that has none. Another worker may do the same at
/// the same time: whoever is first decides.
///
/// # Errors
/// Where the database or Kafka does not answer.
pub async fn read_or_begin(
    connection: &mut PgConnection,
    statements: &Statements,
    scope: &Scope,
    topic: &dyn TopicOffsets,
    owned: &[i32],
    start_from: &StartFrom,
) -> Result<BTreeMap<i32, Position>, Error> {
    let stored = read(connection, statements, scope).await?;
    let missing: Vec<i32> =
        owned.iter().copied().filter(|partition| !stored.contains_key(partition)).collect();
    if missing.is_empty() {
        return Ok(stored);
    }
    let starts = if stored.is_empty() {
        // The first worker decides for all partitions at once, so that Latest is one moment for all of them.
        let all: Vec<i32> = (0..topic.partition_count().context(KafkaSnafu)?).collect();
        starts(topic, &all, start_from)?
    } else {
        // The topic has grown: nothing of the new partitions may be skipped.
        starts(topic, &missing, &StartFrom::Earliest)?
    };
    tracing::info!(?starts, ?start_from, "Partitions without a position begin");
    insert(connection, statements, scope, &starts).await?;
    read(connection, statements, scope).await
}

fn starts(
    topic: &dyn TopicOffsets,
    partitions: &[i32],
    start_from: &StartFrom,
) -> Result<Vec<(i32, i64)>, Error> {
    let watermarks = |partition: &i32| Ok((*partition, topic.watermarks(*partition).context(KafkaSnafu)?));
    match start_from {
        StartFrom::Earliest => {
            partitions.iter().map(|partition| watermarks(partition).map(|(p, (low, _))| (p, low))).collect()
        }
        StartFrom::Latest => {
            partitions.iter().map(|partition| watermarks(partition).map(|(p, (_, high))| (p, high))).collect()
        }
        StartFrom::Timestamp(time) => topic.offsets_at(partitions, *time).context(KafkaSnafu),
    }
}

async fn insert(
    connection: &mut PgConnection,
    statements: &Statements,
    scope: &Scope,
    starts: &[(i32, i64)],
) -> Result<(), Error> {
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = starts.iter().copied().unzip();
    let query = sqlx::query(AssertSqlSafe(statements.insert_positions.clone()))
        .persistent(false)
        .bind(&scope.table)
        .bind(&scope.cluster_id)
        .bind(&scope.topic)
        .bind(partitions)
        .bind(offsets);
    transaction::within(connection, "insert the positions", async |connection| {
        query.execute(connection).await
    })
    .await?;
    Ok(())
}

/// Whether Kafka still has what comes next, and is the topic that the position was written for.
///
/// # Errors
/// Where Kafka does not answer.
pub fn check(
    topic: &dyn TopicOffsets,
    positions: &BTreeMap<i32, Position>,
) -> Result<BTreeMap<i32, Gap>, Error> {
    let mut gaps = BTreeMap::new();
    // The record before the position tells: its offset, what it was, and the gap that there is if it is another one.
    let mut comparable = BTreeMap::new();
    for (partition, position) in positions {
        let (low, high) = topic.watermarks(*partition).context(KafkaSnafu)?;
        let gap = |loss| Gap { partition: *partition, next_offset: position.next_offset, oldest: low, loss };
        if position.next_offset > high {
            gaps.insert(*partition, gap(Loss::Recreated));
        } else if position.next_offset < low {
            gaps.insert(*partition, gap(Loss::Retention));
        } else if let Some(last) = position.last_offset.filter(|last| *last >= low) {
            comparable.insert(*partition, (last, &position.last_record, gap(Loss::Recreated)));
        }
    }
    if comparable.is_empty() {
        return Ok(gaps);
    }
    let wanted: Vec<_> = comparable.iter().map(|(partition, (last, ..))| (*partition, *last)).collect();
    for (partition, found) in topic.records(&wanted).context(KafkaSnafu)? {
        let Some((_, expected, gap)) = comparable.remove(&partition) else { continue };
        match found {
            Some(found) if found != *expected => drop(gaps.insert(partition, gap)),
            Some(_) => {}
            None => tracing::warn!(partition, "Cannot read the last record again, so it is not compared"),
        }
    }
    Ok(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A topic whose partition n has the offsets 10 n to 100, and at each offset a record that hashes to it.
    struct FakeTopic;

    impl TopicOffsets for FakeTopic {
        fn cluster_id(&self) -> Result<String, offsets::Error> {
            Ok("cluster".into())
        }
        fn partition_count(&self) -> Result<i32, offsets::Error> {
            Ok(3)
        }
        fn watermarks(&self, partition: i32) -> Result<(i64, i64), offsets::Error> {
            Ok((i64::from(partition) * 10, 100))
        }
        fn offsets_at(&self, partitions: &[i32], time: i64) -> Result<Vec<(i32, i64)>, offsets::Error> {
            Ok(partitions.iter().map(|partition| (*partition, time)).collect())
        }
        fn records(&self, wanted: &[(i32, i64)]) -> Result<Vec<(i32, Option<RecordTraits>)>, offsets::Error> {
            Ok(wanted.iter().map(|(partition, offset)| (*partition, Some(traits(*offset)))).collect())
        }
    }

    fn traits(offset: i64) -> RecordTraits {
        RecordTraits { timestamp: Some(offset), hash: vec![u8::try_from(offset).unwrap()] }
    }

    #[test]
    fn partitions_begin_where_the_pipeline_says() {
        assert_eq!(starts(&FakeTopic, &[0, 2], &StartFrom::Earliest).unwrap(), [(0, 0), (2, 20)]);
        assert_eq!(starts(&FakeTopic, &[0, 2], &StartFrom::Latest).unwrap(), [(0, 100), (2, 100)]);
        assert_eq!(starts(&FakeTopic, &[1], &StartFrom::Timestamp(55)).unwrap(), [(1, 55)]);
    }

    #[test]
    fn a_position_is_compared_with_the_topic() {
        let at = |next_offset: i64, last_record: RecordTraits| Position {
            next_offset,
            last_offset: Some(next_offset - 1),
            last_record,
        };
        let reason = |partition: i32, position: Position| {
            let gaps = check(&FakeTopic, &BTreeMap::from([(partition, position)])).unwrap();
            gaps.get(&partition).map(|gap| gap.problem().reason)
        };
        assert_eq!(reason(0, at(50, traits(49))), None);
        assert_eq!(reason(0, at(100, traits(99))), None);
        assert_eq!(reason(0, at(101, traits(100))).as_deref(), Some("TopicRecreated"));
        assert_eq!(reason(0, at(50, traits(48))).as_deref(), Some("TopicRecreated"));
        assert_eq!(reason(2, at(19, traits(18))).as_deref(), Some("OffsetLost"));
        // Retention took the record before the position: nothing is lost, and nothing can be compared.
        assert_eq!(reason(2, at(20, traits(3))), None);
        let fresh = Position { next_offset: 30, last_offset: None, last_record: traits(0) };
        assert_eq!(reason(2, fresh), None);
    }
}
