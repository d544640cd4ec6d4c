//! What librdkafka calls back: rebalances, statistics, errors. All of it happens inside the source's poll.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use access::kafka::cause::Cause;
use crds::worker::{KafkaConfig, WorkerProblem};
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{assignment::Assignment, trouble};
use crate::{
    health::problem,
    sink::timescale::{
        metrics::ProcessorMetrics,
        readiness::{Obstacle, Readiness},
    },
};

/// How long a rebalance waits for positions. Beyond that the partitions are assigned paused and go on when the
/// database has answered; the group must not wait for a slow database.
const POSITION_WAIT: Duration = Duration::from_secs(2);

/// How long a client may be without any broker. While Kafka is away a new client each time costs little.
const CUT_OFF: Duration = Duration::from_secs(60);

/// Follows the consumer group.
#[derive(Debug)]
pub struct SourceContext {
    /// What source and sink agree on.
    pub assignment: Arc<Assignment>,
    /// Where problems are reported.
    pub readiness: Arc<Readiness>,
    /// Where the lag is shown.
    pub metrics: ProcessorMetrics,
    /// The topic.
    pub topic: String,
    /// The brokers, as the configuration names them.
    bootstrap_servers: String,
    /// Why there is no connection, as far as that was told.
    cause: Mutex<Cause>,
    /// Whether a broker has refused something for want of a right.
    refused: AtomicBool,
    /// When a broker was connected last, or this client was made.
    connected: Mutex<Instant>,
}

impl ClientContext for SourceContext {
    fn stats(&self, statistics: Statistics) {
        self.watch_brokers(&statistics);
        self.watch_topic(&statistics);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(facility, "Kafka client: {message}");
            }
            // Offsets are committed as a mirror only, and fail in the middle of every rebalance.
            _ if facility == "COMMITFAIL" => tracing::debug!(facility, "Kafka client: {message}"),
            _ => tracing::warn!(facility, "Kafka client: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "The Kafka client reports an error");
        let Some(code) = error.rdkafka_error_code() else { return };
        match code {
            // Retention or a new topic passed the position: which partition, the sink finds out.
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                tracing::error!(%error, "Kafka does not have the next record any more");
                self.assignment.forget_positions();
            }
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                let message = format!("The Kafka topic {} does not exist.", self.topic);
                self.readiness.block(Obstacle::Topic, problem("TopicMissing", message));
            }
            code => {
                if let Some(cause) = trouble::connection_cause(code, reason) {
                    // What tells more counts, because a broker that refuses also just hangs up.
                    let mut known = self.cause();
                    *known = cause.max(*known);
                }
                if let Some(refusal) = trouble::refusal(code) {
                    self.refuse(code, refusal);
                }
            }
        }
    }
}

impl ConsumerContext for SourceContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let numbers: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
        let result = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, &numbers),
            _ => self.revoke(consumer, partitions, &numbers),
        };
        if let Err(error) = result {
            tracing::error!(%error, ?numbers, "Failed to follow the consumer group");
        }
        let owned: Vec<i32> = self.assignment.owned().into_keys().collect();
        tracing::info!(?owned, "The consumer group was rebalanced");
        self.readiness.set_assigned(owned);
    }
}

impl SourceContext {
    /// For one consumer.
    pub fn new(
        assignment: Arc<Assignment>,
        readiness: Arc<Readiness>,
        metrics: ProcessorMetrics,
        kafka: &KafkaConfig,
    ) -> Self {
        Self {
            assignment,
            readiness,
            metrics,
            topic: kafka.topic.clone(),
            bootstrap_servers: kafka.bootstrap_servers.clone(),
            cause: Mutex::new(Cause::Silence),
            refused: AtomicBool::new(false),
            connected: Mutex::new(Instant::now()),
        }
    }

    /// Whether a broker has refused something. The client says so once and goes on trying, and nothing tells when it
    /// succeeds; a new client does.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether no broker has been connected for so long that another client had better try: now and then librdkafka does not
    /// go on trying once all brokers were away.
    pub fn is_cut_off(&self) -> bool {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > CUT_OFF
    }

    fn refuse(&self, code: RDKafkaErrorCode, refusal: WorkerProblem) {
        let obstacle = match code {
            RDKafkaErrorCode::GroupAuthorizationFailed => Obstacle::Group,
            _ if self.assignment.owned().is_empty() => Obstacle::Topic,
            // Whoever has partitions was shown the topic.
            _ => Obstacle::Reading,
        };
        if self.refused.swap(true, Ordering::Relaxed) {
            self.readiness.block(obstacle, refusal);
        } else {
            self.readiness.block_anew(obstacle, refusal);
        }
    }

    fn cause(&self) -> MutexGuard<'_, Cause> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, numbers: &[i32]) -> Result<(), KafkaError> {
        self.assignment.assign(numbers);
        let mut assigned = TopicPartitionList::new();
        let mut paused = TopicPartitionList::new();
        for (partition, position) in self.assignment.wait_for_positions(numbers, POSITION_WAIT) {
            match position {
                Some(position) => {
                    assigned.add_partition_offset(&self.topic, partition, Offset::Offset(position))?;
                }
                None => {
                    assigned.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
                    paused.add_partition(&self.topic, partition);
                }
            }
        }
        consumer.incremental_assign(&assigned)?;
        // Also lifts a pause from an earlier assignment, which librdkafka would keep.
        consumer.resume(&assigned)?;
        consumer.pause(&paused)
    }

    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
        numbers: &[i32],
    ) -> Result<(), KafkaError> {
        self.assignment.revoke(numbers);
        numbers.iter().for_each(|partition| self.metrics.forget_lag(*partition));
        consumer.incremental_unassign(partitions)
    }

    fn watch_brokers(&self, statistics: &Statistics) {
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            *self.cause() = Cause::Silence;
            return self.readiness.clear(Obstacle::Connection);
        }
        let problem = trouble::unconnected(&self.bootstrap_servers, *self.cause());
        self.readiness.block(Obstacle::Connection, problem);
    }

    fn watch_topic(&self, statistics: &Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        if topic.partitions.keys().any(|partition| *partition >= 0) {
            self.readiness.clear(Obstacle::Topic);
        }
        for (partition, owned) in self.assignment.owned() {
            let end = topic.partitions.get(&partition).map_or(-1, |known| known.hi_offset);
            // Where a partition ends, only a successful read has told.
            if end >= 0 && !self.is_refused() {
                self.readiness.clear(Obstacle::Reading);
            }
            if let (Some(position), 0..) = (owned.position, end) {
                self.metrics.set_lag(partition, (end - position).max(0));
            }
        }
    }
}
