//! What librdkafka calls back: rebalances, statistics, errors. All of it happens inside the source's poll.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaRespErr,
};

use super::assignment::Assignment;
use crate::{
    health::problem,
    sink::timescale::{metrics::ProcessorMetrics, readiness::Readiness},
};

/// How long a rebalance waits for positions. Beyond that the partitions are assigned paused and go on when the
/// database has answered; the group must not wait for a slow database.
const POSITION_WAIT: Duration = Duration::from_secs(2);

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
        let is_up = statistics.brokers.values().any(|broker| broker.state == "UP");
        let unreachable = (!is_up).then(|| {
            let addresses: Vec<&str> =
                statistics.brokers.values().map(|broker| broker.name.as_str()).collect();
            problem("KafkaUnreachable", format!("No Kafka broker answers: {}.", addresses.join(", ")))
        });
        self.readiness.set_kafka(unreachable);
    }

    fn watch_topic(&self, statistics: &Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        if topic.partitions.keys().any(|partition| *partition >= 0) {
            self.readiness.topic_exists();
        }
        for (partition, owned) in self.assignment.owned() {
            let end = topic.partitions.get(&partition).map_or(-1, |known| known.hi_offset);
            if let (Some(position), 0..) = (owned.position, end) {
                self.metrics.set_lag(partition, (end - position).max(0));
            }
        }
    }
}
