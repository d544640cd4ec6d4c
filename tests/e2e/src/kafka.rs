//! What Kafka holds, asked directly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    types::RDKafkaErrorCode,
};
use snafu::{OptionExt, ResultExt};
use tokio::task::spawn_blocking;

use crate::{Result, wait::eventually};

/// Where Kafka is, from within the cluster's network.
pub const BOOTSTRAP_SERVERS: &str = "kafka.kafka:9092";

const TIMEOUT: Duration = Duration::from_secs(15);

/// A connection to Kafka.
#[derive(Clone)]
pub struct Kafka {
    admin: Arc<AdminClient<DefaultClientContext>>,
    consumer: Arc<BaseConsumer>,
}

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Vec<u8>,
}

impl Kafka {
    /// Prepares a connection.
    ///
    /// # Errors
    /// Fails where the client library does.
    pub fn connect() -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", BOOTSTRAP_SERVERS)
            .set("group.id", "e2e-unused")
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false");
        let admin = config.create().whatever_context("failed to make a Kafka admin client")?;
        let consumer = config.create().whatever_context("failed to make a Kafka consumer")?;
        Ok(Self { admin: Arc::new(admin), consumer: Arc::new(consumer) })
    }

    /// How many partitions a topic has; `None` where there is no such topic.
    ///
    /// # Errors
    /// Fails where Kafka does not answer.
    pub async fn partitions(&self, topic: &str) -> Result<Option<i32>> {
        let (consumer, name) = (self.consumer.clone(), topic.to_owned());
        let metadata = spawn_blocking(move || consumer.fetch_metadata(Some(&name), TIMEOUT)).await;
        let metadata = metadata
            .whatever_context("failed to wait for Kafka")?
            .with_whatever_context(|_| format!("failed to describe the topic {topic}"))?;
        let found = metadata.topics().first().filter(|found| found.error().is_none());
        Ok(found.map(|found| i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)))
    }

    /// For each partition, the offset of the next record to be written.
    ///
    /// # Errors
    /// Fails where there is no such topic.
    pub async fn ends(&self, topic: &str) -> Result<BTreeMap<i32, i64>> {
        let partitions =
            self.partitions(topic).await?.with_whatever_context(|| format!("there is no topic {topic}"))?;
        let (consumer, name) = (self.consumer.clone(), topic.to_owned());
        let ends = spawn_blocking(move || {
            let end = |partition| Ok((partition, consumer.fetch_watermarks(&name, partition, TIMEOUT)?.1));
            (0..partitions).map(end).collect::<Result<_, rdkafka::error::KafkaError>>()
        });
        ends.await
            .whatever_context("failed to wait for Kafka")?
            .with_whatever_context(|_| format!("failed to read the ends of the topic {topic}"))
    }

    /// How many records of a topic come after the offsets of a consumer group, as scalers by lag see it: all of a partition
    /// where it has none.
    ///
    /// # Errors
    /// Fails where there is no such topic.
    pub async fn lag_of_group(&self, topic: &str, group: &str) -> Result<u64> {
        let ends = self.ends(topic).await?;
        let (name, group) = (topic.to_owned(), group.to_owned());
        let committed = spawn_blocking(move || {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", BOOTSTRAP_SERVERS)
                .set("group.id", &group)
                .create()?;
            let mut partitions = TopicPartitionList::new();
            for partition in ends.keys() {
                partitions.add_partition(&name, *partition);
            }
            let committed = consumer.committed_offsets(partitions, TIMEOUT)?;
            let behind = committed.elements().into_iter().map(|partition| {
                let end = ends.get(&partition.partition()).copied().unwrap_or(0);
                let Offset::Offset(offset) = partition.offset() else { return end };
                (end - offset).max(0)
            });
            Ok::<i64, rdkafka::error::KafkaError>(behind.sum())
        });
        let lag = committed.await.whatever_context("failed to wait for Kafka")?;
        let lag =
            lag.with_whatever_context(|_| format!("failed to read the offsets of a group of {topic}"))?;
        Ok(lag.unsigned_abs())
    }

    /// How many records a topic holds that was never trimmed.
    ///
    /// # Errors
    /// Fails where there is no such topic.
    pub async fn count(&self, topic: &str) -> Result<u64> {
        Ok(self.ends(topic).await?.values().sum::<i64>().unsigned_abs())
    }

    /// All records of a topic, in order within each partition.
    ///
    /// # Errors
    /// Fails where there is no such topic or reading takes longer than a minute.
    pub async fn records(&self, topic: &str) -> Result<Vec<Record>> {
        let ends = self.ends(topic).await?;
        let (consumer, name) = (self.consumer.clone(), topic.to_owned());
        let records = spawn_blocking(move || read_until(&consumer, &name, &ends)).await;
        records
            .whatever_context("failed to wait for Kafka")?
            .with_whatever_context(|_| format!("failed to read the topic {topic}"))
    }

    /// The settings of a topic that are set on it: those that no default gives.
    ///
    /// # Errors
    /// Fails where there is no such topic.
    pub async fn settings(&self, topic: &str) -> Result<BTreeMap<String, String>> {
        let resource = ResourceSpecifier::Topic(topic);
        let described = self.admin.describe_configs([&resource], &options()).await;
        let mut described =
            described.with_whatever_context(|_| format!("failed to describe the settings of {topic}"))?;
        let found = described.pop().whatever_context("Kafka answered without an answer")?;
        let found = found.with_whatever_context(|code| format!("failed to describe {topic}: {code}"))?;
        let set = found.entries.into_iter().filter(|entry| !entry.is_default);
        Ok(set.filter_map(|entry| Some((entry.name, entry.value?))).collect())
    }

    /// The names of all consumer groups.
    ///
    /// # Errors
    /// Fails where Kafka does not answer.
    pub async fn groups(&self) -> Result<BTreeSet<String>> {
        let consumer = self.consumer.clone();
        let groups = spawn_blocking(move || {
            let groups = consumer.fetch_group_list(None, TIMEOUT)?;
            Ok::<_, rdkafka::error::KafkaError>(
                groups.groups().iter().map(|group| group.name().to_owned()).collect(),
            )
        });
        groups
            .await
            .whatever_context("failed to wait for Kafka")?
            .whatever_context("failed to list the consumer groups")
    }

    /// Sets some settings as an administrator would by hand; the others of the topic stay. All at once, because the broker may
    /// not have heard of one when it is asked for all of them to set the next.
    ///
    /// # Errors
    /// Fails where Kafka refuses.
    pub async fn set(&self, topic: &str, changed: &[(&str, &str)]) -> Result<()> {
        let mut settings = self.settings(topic).await?;
        settings.extend(changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let resource = ResourceSpecifier::Topic(topic);
        let change =
            settings.iter().fold(AlterConfig::new(resource), |change, (name, value)| change.set(name, value));
        let answers = self.admin.alter_configs([&change], &options()).await;
        for answer in answers.with_whatever_context(|_| format!("failed to alter {topic}"))? {
            answer
                .map_err(|(_, code)| code)
                .with_whatever_context(|_| format!("failed to set {changed:?} of {topic}"))?;
        }
        Ok(())
    }

    /// Creates a topic that no pipeline created, with one partition.
    ///
    /// # Errors
    /// Fails where Kafka refuses.
    pub async fn create(&self, topic: &str) -> Result<()> {
        self.create_with(topic, 1).await
    }

    /// The same with so many partitions.
    ///
    /// # Errors
    /// Fails where Kafka refuses.
    pub async fn create_with(&self, topic: &str, partitions: i32) -> Result<()> {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let answers = self.admin.create_topics([&new], &options()).await;
        for answer in answers.with_whatever_context(|_| format!("failed to create {topic}"))? {
            answer
                .map_err(|(_, code)| code)
                .with_whatever_context(|_| format!("failed to create {topic}"))?;
        }
        // Kafka itself gives a topic min.insync.replicas (KIP-966), and shows it a moment after the topic.
        eventually(TIMEOUT, &format!("{topic} has the settings that Kafka gives it"), async || {
            let settings = self.settings(topic).await?;
            Ok((!settings.is_empty()).then_some(()).ok_or("it has none".to_owned()))
        })
        .await
    }

    /// Deletes a topic, if there is one.
    ///
    /// # Errors
    /// Fails where Kafka refuses.
    pub async fn delete(&self, topic: &str) -> Result<()> {
        let answers = self.admin.delete_topics(&[topic], &options()).await;
        for answer in answers.with_whatever_context(|_| format!("failed to delete {topic}"))? {
            match answer {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((_, code)) => {
                    return Err(code).with_whatever_context(|_| format!("failed to delete {topic}"));
                }
            }
        }
        Ok(())
    }
}

fn read_until(
    consumer: &BaseConsumer,
    topic: &str,
    ends: &BTreeMap<i32, i64>,
) -> Result<Vec<Record>, rdkafka::error::KafkaError> {
    let mut missing: BTreeMap<i32, i64> = ends.clone().into_iter().filter(|(_, end)| *end > 0).collect();
    let mut assignment = TopicPartitionList::new();
    for partition in missing.keys() {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::new();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !missing.is_empty() && std::time::Instant::now() < end {
        // An error may be of a connection that broke long ago: whether all is there shows at the end.
        let Some(Ok(message)) = consumer.poll(Duration::from_secs(1)) else { continue };
        let (partition, offset) = (message.partition(), message.offset());
        if missing.get(&partition).is_some_and(|end| offset + 1 >= *end) {
            missing.remove(&partition);
        }
        records.push(Record {
            partition,
            offset,
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().unwrap_or_default().to_vec(),
        });
    }
    consumer.unassign()?;
    if missing.is_empty() {
        Ok(records)
    } else {
        Err(rdkafka::error::KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}
