//! Reads the topic as a member of the consumer group, on one plain thread, and hands every record to the sink.
//!
//! Kafka's own offsets are a mirror for lag tools: where a partition goes on, the database says (see
//! [`assignment`]). Polling never stops for long, whatever the sink does, because rebalances and heartbeats
//! depend on it.

pub mod assignment;
pub mod context;
pub mod offsets;
pub mod trouble;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use access::kafka::KafkaAccess;
use assignment::{Assignment, Owned};
use context::SourceContext;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
};

use crate::{health::Health, rejection::Rejection};

/// How long one poll waits for a record.
const POLL: Duration = Duration::from_millis(20);

/// How many records are taken between two looks at the clock and at requests to stop.
const BURST: usize = 64;

/// How long a seek may take; one that fails is tried again.
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the sink may be full before the partitions are paused and polling goes on without records.
const PATIENCE: Duration = Duration::from_secs(1);

/// What takes the records.
pub trait RecordSink {
    /// Takes a record that belongs to `epoch` of its partition. `refused` says that the database does not want it.
    fn take(&mut self, message: &BorrowedMessage<'_>, epoch: u64, refused: Option<&Rejection>);
    /// Hands over what should not wait any longer.
    fn turn(&mut self);
    /// Whether it can take records; waits for that at most `limit`.
    fn has_room(&mut self, limit: Duration) -> bool;
    /// Hands over what it has, because what comes next belongs to other epochs.
    fn cut(&mut self);
}

/// Creates the consumer. It connects later, by itself.
///
/// # Errors
/// Where the Kafka client refuses its settings.
pub fn create_consumer(
    access: &KafkaAccess,
    group: &str,
    context: SourceContext,
) -> Result<BaseConsumer<SourceContext>, KafkaError> {
    access
        .client_config()
        .set("client.id", "iotpipeline-processor")
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "2000")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        // A partition that the topic gained is found within this time, and a topic that it may not see is named.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("statistics.interval.ms", "2000")
        .set("queued.min.messages", "5000")
        .set("queued.max.messages.kbytes", "4096")
        // What one answer of a broker may hold stays in memory until its last record is taken.
        .set("fetch.max.bytes", "2097152")
        .set("fetch.wait.max.ms", "50")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.error.backoff.ms", "200")
        .set("reconnect.backoff.max.ms", "5000")
        .set("socket.keepalive.enable", "true")
        .create_with_context(context)
}

/// The thread that polls.
pub struct Source {
    /// The consumer.
    pub consumer: Arc<BaseConsumer<SourceContext>>,
    /// Where a turn of the loop is reported.
    pub health: Health,
    /// When to stop: the worker stops, or another consumer is to take this one's place.
    pub is_over: Box<dyn Fn() -> bool>,
}

/// The assignment as the loop last saw it; `position` is the offset that comes next.
#[derive(Default)]
struct View {
    version: u64,
    owned: BTreeMap<i32, Owned>,
    refused: BTreeMap<(i32, i64), Rejection>,
}

impl View {
    fn epoch(&self, partition: i32) -> Option<u64> {
        self.owned.get(&partition).map(|owned| owned.epoch)
    }

    /// Takes over a newer state. Within an epoch the next offset is known better here, because the shared one
    /// follows the commits.
    fn replace(
        &mut self,
        version: u64,
        mut owned: BTreeMap<i32, Owned>,
        refused: BTreeMap<(i32, i64), Rejection>,
    ) {
        for (partition, new) in &mut owned {
            if let Some(old) = self.owned.get(partition).filter(|old| old.epoch == new.epoch) {
                new.position = new.position.max(old.position);
            }
        }
        *self = Self { version, owned, refused };
    }
}

impl Source {
    /// Hands records to `sink` until it is over.
    ///
    /// # Errors
    /// Where the subscription is refused, which only wrong settings cause.
    pub fn run(&self, sink: &mut impl RecordSink) -> Result<(), KafkaError> {
        self.consumer.subscribe(&[&self.context().topic])?;
        let mut view = View::default();
        while !(self.is_over)() {
            self.health.turned();
            if sink.has_room(PATIENCE) || self.wait_for_room(&view, sink) {
                self.follow(&mut view, sink);
                self.take_burst(&mut view, sink);
                sink.turn();
            }
        }
        Ok(())
    }

    /// Takes records while there are any, at most [`BURST`].
    fn take_burst(&self, view: &mut View, sink: &mut impl RecordSink) {
        for index in 0..BURST {
            // Only the first waits: what was taken must not wait for what may never come.
            let wait = if index == 0 { POLL } else { Duration::ZERO };
            match self.consumer.poll(wait) {
                Some(Ok(message)) => self.pass(&message, view, sink),
                // The context has heard of it too, and more.
                Some(Err(_)) => {}
                None => break,
            }
            if !sink.has_room(Duration::ZERO) {
                break;
            }
        }
    }

    fn pass(&self, message: &BorrowedMessage<'_>, view: &mut View, sink: &mut impl RecordSink) {
        let partition = message.partition();
        let epoch = view.epoch(partition);
        // The poll may have run a rebalance before it returned this record, or the sink may have rewound.
        self.follow(view, sink);
        if view.epoch(partition) != epoch || !sink.has_room(PATIENCE) {
            return self.put_back(partition, view);
        }
        // What librdkafka had in its hands when the partition went, or before a seek, is not ours.
        let Some(owned) = view.owned.get_mut(&partition).filter(|owned| owned.is_flowing()) else { return };
        let offset = message.offset();
        if owned.position.is_some_and(|next| offset < next) {
            return;
        }
        owned.position = Some(offset + 1);
        let refused = if view.refused.is_empty() { None } else { view.refused.get(&(partition, offset)) };
        sink.take(message, owned.epoch, refused);
    }

    /// Catches up with changes of the assignment.
    fn follow(&self, view: &mut View, sink: &mut impl RecordSink) {
        let assignment = self.assignment();
        let version = assignment.version();
        if version == view.version {
            return;
        }
        sink.cut();
        for (partition, owned) in assignment.owned() {
            if let (true, false, Some(position)) = (owned.must_seek, owned.halted, owned.position) {
                self.seek(partition, owned.epoch, position);
            }
        }
        view.replace(version, assignment.owned(), assignment.refused());
    }

    /// Goes to a position. Resuming comes first, because it would go back to the last record that was read.
    fn seek(&self, partition: i32, epoch: u64, position: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.topic(), partition);
        let result = self.consumer.resume(&list).and_then(|()| {
            self.consumer.seek(self.topic(), partition, Offset::Offset(position), SEEK_TIMEOUT)
        });
        match result {
            Ok(()) => {
                tracing::info!(partition, position, "Went to the stored position");
                self.assignment().sought(partition, epoch);
            }
            // Right after an assignment the partition may not be ready yet: again at the next turn.
            Err(error) => {
                tracing::debug!(partition, position, %error, "Cannot seek yet");
                self.assignment().seek_failed();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Polls without taking records until the sink has room; `false` where it is over.
    fn wait_for_room(&self, view: &View, sink: &mut impl RecordSink) -> bool {
        let paused = self.flowing();
        self.log_failure("pause", self.consumer.pause(&paused));
        tracing::debug!("Paused, because the database does not keep up");
        while !(self.is_over)() {
            self.health.turned();
            // Runs rebalances. A record that comes all the same is left for later.
            if let Some(Ok(message)) = self.consumer.poll(Duration::ZERO) {
                self.put_back(message.partition(), view);
            }
            if sink.has_room(Duration::from_millis(100)) {
                self.log_failure("resume", self.consumer.resume(&self.flowing()));
                return true;
            }
        }
        false
    }

    /// Makes the partition go on with the record that comes next, which a poll has handed out too early.
    fn put_back(&self, partition: i32, view: &View) {
        let Some(owned) = self.assignment().get(partition).filter(Owned::is_flowing) else { return };
        let seen = view.owned.get(&partition).filter(|seen| seen.epoch == owned.epoch);
        let Some(next) = seen.unwrap_or(&owned).position else { return };
        let result = self.consumer.seek(self.topic(), partition, Offset::Offset(next), SEEK_TIMEOUT);
        if let Err(error) = result {
            tracing::warn!(partition, %error, "Failed to seek; the partition begins again at its stored position");
            self.assignment().rewind(partition, owned.epoch, owned.position.unwrap_or(next));
        }
    }

    fn flowing(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, owned) in self.assignment().owned() {
            if owned.is_flowing() {
                list.add_partition(self.topic(), partition);
            }
        }
        list
    }

    fn log_failure(&self, what: &str, result: Result<(), KafkaError>) {
        if let Err(error) = result {
            tracing::debug!(%error, "Failed to {what}");
        }
    }

    fn assignment(&self) -> &Assignment {
        &self.context().assignment
    }

    fn topic(&self) -> &str {
        &self.context().topic
    }

    fn context(&self) -> &SourceContext {
        self.consumer.context()
    }
}
