//! Asks Kafka about the topic: which cluster, which partitions, which offsets, which record. All calls block.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use access::kafka::KafkaAccess;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use snafu::{OptionExt, ResultExt, Snafu};

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long all the records that are read again may take together.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// Why Kafka did not say.
#[derive(Debug, Snafu)]
pub enum Error {
    /// No broker answered.
    #[snafu(display("failed to ask Kafka for the cluster id"))]
    ClusterId,
    /// The topic is not there.
    #[snafu(display("the topic {topic} does not exist"))]
    TopicMissing {
        /// Its name.
        topic: String,
    },
    /// A broker refused or did not answer.
    #[snafu(display("failed to ask Kafka for {what}"))]
    Ask {
        /// What was asked for.
        what: &'static str,
        /// Why there is no answer.
        source: KafkaError,
    },
}

impl Error {
    /// What the broker or the client answered instead.
    pub fn code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            Self::Ask { source, .. } => source.rdkafka_error_code(),
            Self::ClusterId | Self::TopicMissing { .. } => None,
        }
    }
}

/// What the sink asks about the topic.
pub trait TopicOffsets: Send {
    /// The cluster's id.
    fn cluster_id(&self) -> Result<String, Error>;
    /// How many partitions the topic has.
    fn partition_count(&self) -> Result<i32, Error>;
    /// The offsets of the oldest record and behind the newest.
    fn watermarks(&self, partition: i32) -> Result<(i64, i64), Error>;
    /// For each partition, the offset of the first record not older than `time` (milliseconds since 1970), or
    /// the end.
    fn offsets_at(&self, partitions: &[i32], time: i64) -> Result<Vec<(i32, i64)>, Error>;
    /// Reads single records, each by partition and offset; `None` where the record is not there or does not come
    /// in time.
    fn records(&self, wanted: &[(i32, i64)]) -> Result<Vec<(i32, Option<RecordTraits>)>, Error>;
}

/// What tells a record from another at the same offset.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecordTraits {
    /// Its Kafka timestamp, milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// The first 16 bytes of the SHA-256 of its value.
    pub hash: Vec<u8>,
}

/// Asks through the source's own consumer.
pub struct KafkaOffsets<C: ConsumerContext> {
    /// The source's consumer.
    pub consumer: Arc<BaseConsumer<C>>,
    /// The topic.
    pub topic: String,
    /// How to reach Kafka, for reading single records.
    pub access: KafkaAccess,
}

impl<C: ConsumerContext> TopicOffsets for KafkaOffsets<C> {
    fn cluster_id(&self) -> Result<String, Error> {
        self.consumer.client().fetch_cluster_id(TIMEOUT).context(ClusterIdSnafu)
    }

    fn partition_count(&self) -> Result<i32, Error> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), TIMEOUT)
            .context(AskSnafu { what: "the topic's partitions" })?;
        let topic = metadata.topics().first();
        if let Some(error) = topic.and_then(|topic| topic.error()) {
            let code = RDKafkaErrorCode::from(error);
            if code != RDKafkaErrorCode::UnknownTopicOrPartition {
                return Err(KafkaError::MetadataFetch(code))
                    .context(AskSnafu { what: "the topic's partitions" });
            }
        }
        let count = topic.map_or(0, |topic| topic.partitions().len());
        match i32::try_from(count) {
            Ok(count @ 1..) => Ok(count),
            _ => TopicMissingSnafu { topic: &self.topic }.fail(),
        }
    }

    fn watermarks(&self, partition: i32) -> Result<(i64, i64), Error> {
        self.consumer
            .fetch_watermarks(&self.topic, partition, TIMEOUT)
            .context(AskSnafu { what: "a partition's oldest and newest offsets" })
    }

    fn offsets_at(&self, partitions: &[i32], time: i64) -> Result<Vec<(i32, i64)>, Error> {
        let what = "the offsets at a time";
        let mut times = TopicPartitionList::new();
        for partition in partitions {
            times
                .add_partition_offset(&self.topic, *partition, Offset::Offset(time))
                .context(AskSnafu { what })?;
        }
        let found = self.consumer.offsets_for_times(times, TIMEOUT).context(AskSnafu { what })?;
        let found = found.elements();
        let offset = |partition: i32| {
            let element = found.iter().find(|element| element.partition() == partition)?;
            match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            }
        };
        partitions
            .iter()
            .map(|partition| match offset(*partition) {
                Some(offset) => Ok((*partition, offset)),
                None => Ok((*partition, self.watermarks(*partition)?.1)),
            })
            .collect()
    }

    fn records(&self, wanted: &[(i32, i64)]) -> Result<Vec<(i32, Option<RecordTraits>)>, Error> {
        let what = "single records";
        let reader: BaseConsumer = self
            .access
            .client_config()
            .set("client.id", "iotpipeline-processor-verify")
            .set("group.id", "iotpipeline-verify")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.message.max.bytes", "65536")
            .create()
            .context(AskSnafu { what })?;
        let mut start = TopicPartitionList::new();
        for (partition, offset) in wanted {
            start
                .add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))
                .context(AskSnafu { what })?;
        }
        reader.assign(&start).context(AskSnafu { what })?;
        Ok(read_records(&reader, wanted))
    }
}

fn read_records(reader: &BaseConsumer, wanted: &[(i32, i64)]) -> Vec<(i32, Option<RecordTraits>)> {
    let mut found: Vec<(i32, Option<RecordTraits>)> =
        wanted.iter().map(|(partition, _)| (*partition, None)).collect();
    let mut missing = wanted.to_vec();
    let deadline = Instant::now() + RECORDS_TIMEOUT;
    while !missing.is_empty() && Instant::now() < deadline {
        let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) else { continue };
        let Some(index) = missing.iter().position(|(partition, _)| *partition == message.partition()) else {
            continue;
        };
        // The first record of a partition is the wanted one, or the wanted one is gone.
        let (partition, offset) = missing.swap_remove(index);
        if message.offset() == offset {
            let traits = RecordTraits {
                timestamp: message.timestamp().to_millis(),
                hash: crate::sink::timescale::batch::record_hash(message.payload().unwrap_or_default()),
            };
            found.iter_mut().filter(|(other, _)| *other == partition).for_each(|(_, slot)| {
                *slot = Some(traits.clone());
            });
        }
    }
    found
}
