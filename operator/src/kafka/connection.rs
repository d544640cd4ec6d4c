//! One connection to one Kafka cluster, with blocking calls that all have a deadline. I/O.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::{
    Cause, Error, ExistingTopic, ObservedTopic, TopicAction, TopicSetting, Watermarks,
    error::{NotAsAskedSnafu, Right, SetupSnafu, UnreachableSnafu},
    settings_unknown,
};
use crate::{change::Change, pipeline::TopicName};
use access::kafka::KafkaAccess;
use crds::status::ChangeClass;
use futures::executor::block_on;
use rdkafka::{
    ClientConfig,
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier,
        TopicReplication, TopicResult,
    },
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult},
    topic_partition_list::{Offset, TopicPartitionList},
    types::RDKafkaErrorCode,
};

/// How long one request may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait between two looks at a change that spreads through the cluster.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// One connection to one Kafka cluster.
pub(super) struct Connection {
    bootstrap_servers: String,
    admin: AdminClient<DefaultClientContext>,
    /// Only a consumer may ask for the offsets of many partitions at once, and an admin client cannot be made of one.
    /// It joins no group.
    consumer: BaseConsumer,
}

impl Connection {
    pub fn new(access: &KafkaAccess) -> Result<Self, Error> {
        let bootstrap_servers = access.bootstrap_servers.as_str();
        let mut config = client_config(access);
        config.set("log.connection.close", "false").set_log_level(RDKafkaLogLevel::Emerg);
        // What librdkafka says of its settings may repeat their values.
        let setup = |_| SetupSnafu { bootstrap_servers, encrypted: access.tls.is_some() }.build();
        let admin = config.create().map_err(setup)?;
        // The end is where those that write transactions have come to: what processors can read.
        let consumer = config.create().map_err(setup)?;
        Ok(Self { bootstrap_servers: bootstrap_servers.to_owned(), admin, consumer })
    }

    pub fn observe(&self, topic: &TopicName) -> Result<ObservedTopic, Error> {
        let action = format!("read topic {topic}");
        let cluster_id = self.admin.inner().fetch_cluster_id(DEADLINE).ok_or_else(|| {
            let bootstrap_servers = &self.bootstrap_servers;
            UnreachableSnafu { action: &action, bootstrap_servers, cause: Cause::Silence }.build()
        })?;
        let Some((partitions, replication_factor)) = self.partitions(topic, &action)? else {
            return Ok(ObservedTopic { cluster_id, topic: None, is_empty: false });
        };
        let config = self.config(topic, &action)?;
        Ok(ObservedTopic {
            is_empty: false,
            cluster_id,
            topic: Some(ExistingTopic { partitions, replication_factor, config }),
        })
    }

    pub fn apply(&self, topic: &TopicName, action: &TopicAction) -> Result<(), Error> {
        match action {
            TopicAction::Create { partitions, replication_factor, config } => {
                self.create(topic, *partitions, *replication_factor, config)
            }
            TopicAction::AlterConfig { config } => self.alter_config(topic, config),
            TopicAction::AddPartitions { total } => self.add_partitions(topic, *total),
        }
    }

    pub fn delete(&self, topic: &TopicName) -> Result<(), Error> {
        let action = format!("delete topic {topic}");
        let answer = block_on(self.admin.delete_topics(&[topic.as_str()], &options()));
        match self.topic_result(answer, Right::Delete, &action) {
            Err(Error::Refused { code: RDKafkaErrorCode::UnknownTopicOrPartition, .. }) => return Ok(()),
            result => result?,
        }
        settle(|| match self.partitions(topic, &action)? {
            None => Ok(()),
            Some(_) => Err(not_as_asked(&action, "Kafka agreed, but the topic is still there")),
        })
    }

    pub fn delete_group(&self, group: &str) -> Result<Option<Change>, Error> {
        let action = format!("delete consumer group {group}");
        let answers = block_on(self.admin.delete_groups(&[group], &options()))
            .map_err(|error| self.error(&error, Right::Delete, &action))?;
        match answers.into_iter().find_map(Result::err) {
            Some((_, RDKafkaErrorCode::GroupIdNotFound)) => Ok(None),
            Some((_, code)) => Err(self.error_of_code(code, Right::Delete, &action)),
            None => {
                let deletion = Change::new(format!("consumer group {group}"), "", group, "");
                Ok(Some(deletion.classed(ChangeClass::Destructive)))
            }
        }
    }

    pub fn watermarks(&self, topic: &TopicName) -> Result<BTreeMap<i32, Watermarks>, Error> {
        let action = format!("read the offsets of topic {topic}");
        settle(|| {
            // By this the consumer hears of partitions that are new, and of leaders that are others.
            let Some((partitions, _)) = self.partitions(topic, &action)? else {
                return Ok(BTreeMap::new());
            };
            let lows = self.offsets(topic, partitions, Offset::Beginning, &action)?;
            let highs = self.offsets(topic, partitions, Offset::End, &action)?;
            let pair = |((partition, low), (_, high))| (partition, Watermarks { low, high });
            Ok(lows.into_iter().zip(highs).map(pair).collect())
        })
    }

    /// The offset of each partition at one of its ends, by one request to each broker: Kafka takes the ends for times.
    fn offsets(
        &self,
        topic: &TopicName,
        partitions: i32,
        end: Offset,
        action: &str,
    ) -> Result<BTreeMap<i32, i64>, Error> {
        let failed = |error| self.error(&error, Right::Describe, action);
        let mut ends = TopicPartitionList::new();
        for partition in 0..partitions {
            ends.add_partition_offset(topic.as_str(), partition, end).map_err(failed)?;
        }
        let found = self.consumer.offsets_for_times(ends, DEADLINE).map_err(failed)?;
        let offset = |partition| {
            let found = found.find_partition(topic.as_str(), partition);
            let found = found.ok_or_else(|| not_as_asked(action, "Kafka left out a partition"))?;
            found.error().map_err(failed)?;
            match found.offset() {
                Offset::Offset(offset) => Ok((partition, offset)),
                _ => Err(not_as_asked(action, format!("Kafka told no offset of partition {partition}"))),
            }
        };
        (0..partitions).map(offset).collect()
    }

    /// Creates the topic and looks whether it came out as asked: a broker that creates topics by itself may have
    /// been first, or a broker policy may have changed the request.
    fn create(
        &self,
        topic: &TopicName,
        partitions: i32,
        replication_factor: i32,
        config: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let action = format!("create topic {topic}");
        let new = config.iter().fold(
            NewTopic::new(topic.as_str(), partitions, TopicReplication::Fixed(replication_factor)),
            |new, (name, value)| new.set(name, value),
        );
        let answer = block_on(self.admin.create_topics([&new], &options()));
        match self.topic_result(answer, Right::Create, &action) {
            // What is there is ours: its marker was written before. The next plan repairs the rest.
            Err(Error::Refused { code: RDKafkaErrorCode::TopicAlreadyExists, .. }) => {
                return Err(not_as_asked(
                    &action,
                    "the topic appeared meanwhile, perhaps because a client asked for it and the broker has \
                     auto.create.topics.enable=true; its settings are repaired next",
                ));
            }
            result => result?,
        }
        settle(|| match self.partitions(topic, &action)? {
            None => Err(not_as_asked(&action, "Kafka agreed, but the topic does not appear")),
            Some((found, _)) if found != partitions => {
                let found = format!("Kafka agreed, but the topic has {found} partitions, not {partitions}");
                Err(not_as_asked(&action, found))
            }
            Some(_) => Ok(()),
        })?;
        self.check_config(topic, config, &action, ", although Kafka agreed")
    }

    /// Sets the named settings and keeps all others.
    ///
    /// librdkafka can replace the whole set of a topic's settings only: so this reads what is set on the topic,
    /// merges, writes, and reads back. Whoever changes another setting of this topic between the read and the
    /// write, a few milliseconds, loses that change; nothing in this protocol can notice.
    fn alter_config(&self, topic: &TopicName, config: &BTreeMap<String, String>) -> Result<(), Error> {
        let action = format!("change settings of topic {topic}");
        let mut merged: BTreeMap<_, _> = self
            .known_config(topic, &action)?
            .into_iter()
            .filter(|(_, setting)| setting.set_on_topic)
            .map(|(name, setting)| (name, setting.value))
            .collect();
        merged.extend(config.iter().map(|(name, value)| (name.clone(), value.clone())));

        let request = merged
            .iter()
            .fold(AlterConfig::new(ResourceSpecifier::Topic(topic.as_str())), |request, (name, value)| {
                request.set(name, value)
            });
        let answers = block_on(self.admin.alter_configs([&request], &options()))
            .map_err(|error| self.error(&error, Right::AlterConfigs, &action))?;
        if let Some((_, code)) = answers.into_iter().find_map(Result::err) {
            return Err(self.error_of_code(code, Right::AlterConfigs, &action));
        }
        // The client library swallows the error of a single resource here too.
        let advice = format!(
            "; grant the operator's Kafka user {} on the topic (docs/security.md lists all rights), or mend \
             kafka.topic.config if this Kafka does not take the value",
            Right::AlterConfigs
        );
        self.check_config(topic, &merged, &action, &advice)
    }

    fn add_partitions(&self, topic: &TopicName, total: i32) -> Result<(), Error> {
        let action = format!("add partitions to topic {topic}");
        let new = NewPartitions::new(topic.as_str(), usize::try_from(total).unwrap_or(0));
        let answer = block_on(self.admin.create_partitions([&new], &options()));
        self.topic_result(answer, Right::Alter, &action)?;
        settle(|| match self.partitions(topic, &action)? {
            Some((found, _)) if found >= total => Ok(()),
            _ => Err(not_as_asked(
                &action,
                format!("Kafka agreed, but the topic does not have {total} partitions"),
            )),
        })
    }

    /// Partitions and replication factor; `None` where the topic does not exist. Asked by the consumer alone, because each client
    /// remembers the topics that it was asked about.
    fn partitions(&self, topic: &TopicName, action: &str) -> Result<Option<(i32, i32)>, Error> {
        let metadata = self
            .consumer
            .client()
            .fetch_metadata(Some(topic.as_str()), DEADLINE)
            .map_err(|error| self.error(&error, Right::Describe, action))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic.as_str()) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(None);
            }
            Some(code) => return Err(self.error_of_code(code, Right::Describe, action)),
            None => {}
        }
        let replicas =
            found.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        Ok(Some((count(found.partitions().len()), count(replicas))))
    }

    /// Every setting of the topic; `None` where this user may not read them.
    fn config(
        &self,
        topic: &TopicName,
        action: &str,
    ) -> Result<Option<BTreeMap<String, TopicSetting>>, Error> {
        let resource = ResourceSpecifier::Topic(topic.as_str());
        let resources = block_on(self.admin.describe_configs([&resource], &options()))
            .map_err(|error| self.error(&error, Right::DescribeConfigs, action))?;
        let entries = match resources.into_iter().next() {
            Some(Ok(resource)) => resource.entries,
            Some(Err(code)) => return Err(self.error_of_code(code, Right::DescribeConfigs, action)),
            None => Vec::new(),
        };
        // The client library swallows the error of a single resource and leaves it without entries.
        if entries.is_empty() {
            return Ok(None);
        }
        let settings = entries.into_iter().map(|entry| {
            let set_on_topic = entry.source == ConfigSource::DynamicTopic;
            (entry.name, TopicSetting { value: entry.value.unwrap_or_default(), set_on_topic })
        });
        Ok(Some(settings.collect()))
    }

    /// Every setting of the topic, where there is no way without them.
    fn known_config(&self, topic: &TopicName, action: &str) -> Result<BTreeMap<String, TopicSetting>, Error> {
        self.config(topic, action)?.ok_or_else(|| not_as_asked(action, settings_unknown(topic)))
    }

    /// Reads back what was written.
    fn check_config(
        &self,
        topic: &TopicName,
        wanted: &BTreeMap<String, String>,
        action: &str,
        advice: &str,
    ) -> Result<(), Error> {
        settle(|| {
            let config = self.known_config(topic, action)?;
            let holds = |name: &String, value: &String| {
                config.get(name).is_some_and(|setting| setting.value == *value)
            };
            match wanted.iter().find(|(name, value)| !holds(name, value)) {
                None => Ok(()),
                Some((name, value)) => {
                    let found = format!("{name} is not {value}{advice}");
                    Err(not_as_asked(action, found))
                }
            }
        })
    }

    fn topic_result(
        &self,
        answer: KafkaResult<Vec<TopicResult>>,
        right: Right,
        action: &str,
    ) -> Result<(), Error> {
        let results = answer.map_err(|error| self.error(&error, right, action))?;
        match results.into_iter().find_map(Result::err) {
            Some((_, code)) => Err(self.error_of_code(code, right, action)),
            None => Ok(()),
        }
    }

    fn error(&self, error: &KafkaError, right: Right, action: &str) -> Error {
        let code = match error {
            KafkaError::AdminOp(code) => Some(*code),
            error => error.rdkafka_error_code(),
        };
        self.error_of_code(code.unwrap_or(RDKafkaErrorCode::Fail), right, action)
    }

    fn error_of_code(&self, code: RDKafkaErrorCode, right: Right, action: &str) -> Error {
        Error::from_code(code, right, action, &self.bootstrap_servers)
    }
}

/// The settings of the operator's clients.
pub(super) fn client_config(access: &KafkaAccess) -> ClientConfig {
    let mut config = access.client_config();
    // Looking at a topic that does not exist must not create it.
    config.set("client.id", "iotpipeline-operator").set("allow.auto.create.topics", "false");
    config
}

/// Looks while a change spreads through the cluster, until it is there or the deadline passes.
fn settle<T>(look: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match look() {
            Err(error) if error.may_pass() && Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
            result => return result,
        }
    }
}

fn not_as_asked(action: &str, found: impl Into<String>) -> Error {
    NotAsAskedSnafu { action, found }.build()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(DEADLINE)).operation_timeout(Some(DEADLINE))
}
