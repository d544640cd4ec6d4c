//! Kafka topics: what is there, what is to change, and the one trait through which the operator reads and
//! changes them. This file holds the vocabulary and does no I/O; `client` does, `plan` does not.

use std::collections::BTreeMap;

use access::kafka::KafkaAccess;
use crds::worker::StartFrom;
use futures::future::BoxFuture;

use crate::{
    change::{Change, Refusal},
    pipeline::{Topic, TopicName},
};

mod client;
mod connection;
mod error;
mod external;
mod greeting;
mod plan;

pub use access::kafka::cause::Cause;
pub use client::KafkaClient;
pub use error::{Error, Right};
pub use plan::{deletes_records, managed_by_another, plan, plan_deletion};

/// The outside system. One implementation talks to brokers ([`KafkaClient`]); tests write their own.
///
/// Every call ends within 10 seconds or a small multiple of it.
pub trait TopicAdmin: Send + Sync {
    /// Reads the cluster's id and the topic as it is.
    fn observe<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<ObservedTopic, Error>>;

    /// Makes one step of a [`TopicPlan`] and reads back that it holds.
    fn apply<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
        step: &'a TopicStep,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Deletes the topic. A topic that does not exist is deleted already. The caller has checked the marker.
    fn delete<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Deletes a consumer group, with what is committed in it; nothing where there is none. Fails while it has members.
    fn delete_group<'a>(
        &'a self,
        access: &'a KafkaAccess,
        group: &'a str,
    ) -> BoxFuture<'a, Result<Option<Change>, Error>>;

    /// The first and the next offset of each partition; empty where the topic does not exist.
    fn watermarks<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<BTreeMap<i32, Watermarks>, Error>>;
}

/// A topic of one Kafka cluster: what markers and positions in the database belong to.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TopicKey {
    /// The id that the Kafka cluster gave itself.
    pub cluster_id: String,
    /// The topic's name.
    pub topic: TopicName,
}

/// What Kafka says of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedTopic {
    /// The id that the Kafka cluster gave itself.
    pub cluster_id: String,
    /// The topic, if it exists.
    pub topic: Option<ExistingTopic>,
    /// Whether it is known to hold no record; looked at only where a setting would delete some.
    pub is_empty: bool,
}

/// A topic that exists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExistingTopic {
    /// How many partitions it has.
    pub partitions: i32,
    /// How many brokers keep each partition: the least of all partitions.
    pub replication_factor: i32,
    /// Every setting by its Kafka name, with the value in force; `None` where this user may not read them.
    pub config: Option<BTreeMap<String, TopicSetting>>,
}

/// A topic setting in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TopicSetting {
    /// The value; empty where Kafka has none.
    pub value: String,
    /// Whether it was set on this topic, rather than being a default of broker or cluster.
    pub set_on_topic: bool,
}

/// The span of offsets that a partition holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Watermarks {
    /// The first offset that is still there.
    pub low: i64,
    /// The offset of the next record to come.
    pub high: i64,
}

impl Watermarks {
    /// The offset of the next record to read, `position` being what was noted; a partition that was never read begins at
    /// `start`.
    pub fn next_offset(self, position: Option<i64>, start: &StartFrom) -> i64 {
        match (position, start) {
            (Some(position), _) => position.max(self.low),
            (None, StartFrom::Latest) => self.high,
            (None, StartFrom::Earliest | StartFrom::Timestamp(_)) => self.low,
        }
    }
}

/// Where a partition begins that was never read, as the processors have it: where the spec says, if none was. Otherwise the
/// topic has grown, and nothing of the new ones is skipped.
pub fn start_of_unread(start_from: &StartFrom, has_positions: bool) -> &StartFrom {
    if has_positions { &StartFrom::Earliest } else { start_from }
}

/// What to do so that the topic is as the spec says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TopicPlan {
    /// Whether to write the topic's marker (`Session::claim_topic`) before the first step: the topic is about
    /// to be created, and Kafka has no place for a mark of its own.
    pub claim: bool,
    /// The change where the topic that is claimed is there: it is taken over.
    pub adoption: Option<Change>,
    /// The steps, in the order in which to make them.
    pub steps: Vec<TopicStep>,
    /// What waits for a better moment, or would delete data and waits for a person; each has a refusal too.
    pub held: Vec<Change>,
    /// What the spec asks for and is not done.
    pub refusals: Vec<Refusal>,
}

/// One step of a [`TopicPlan`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TopicStep {
    /// What it changes, for logs, Events and messages.
    pub changes: Vec<Change>,
    /// The request to Kafka.
    pub action: TopicAction,
}

/// A request to Kafka.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TopicAction {
    /// Create the topic.
    Create {
        /// How many partitions.
        partitions: i32,
        /// How many brokers keep each of them.
        replication_factor: i32,
        /// Its settings.
        config: BTreeMap<String, String>,
    },
    /// Set these settings and leave all others as they are.
    AlterConfig {
        /// Name and new value.
        config: BTreeMap<String, String>,
    },
    /// Grow to this many partitions.
    AddPartitions {
        /// How many there shall be in all.
        total: i32,
    },
}

/// The value in force of a setting; empty where there is none, or where it may not be read.
fn found<'a>(existing: &'a ExistingTopic, name: &str) -> &'a str {
    let setting = existing.config.as_ref().and_then(|config| config.get(name));
    setting.map_or("", |setting| setting.value.as_str())
}

/// What to do where the settings of a topic are needed and may not be read.
fn settings_unknown(topic: &TopicName) -> String {
    format!(
        "Kafka tells no settings of topic {topic}; grant the operator's Kafka user {} on the topic (docs/security.md \
         lists all rights)",
        Right::DescribeConfigs
    )
}

impl ObservedTopic {
    /// How many partitions it has and how many it shall have, where it is to grow.
    pub fn growth(&self, wanted: &Topic) -> Option<(i32, i32)> {
        let (existing, wanted) = (self.topic.as_ref()?.partitions, wanted.wanted.as_ref()?.partitions);
        (existing < wanted).then_some((existing, wanted))
    }

    /// What the markers and positions of this topic belong to.
    pub fn key(&self, topic: &TopicName) -> TopicKey {
        TopicKey { cluster_id: self.cluster_id.clone(), topic: topic.clone() }
    }
}
