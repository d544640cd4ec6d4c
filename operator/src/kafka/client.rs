//! The real Kafka: one connection for each way of access (a rotated Secret is another), and every blocking call on a thread where
//! it may block. I/O.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use access::kafka::KafkaAccess;
use futures::future::BoxFuture;
use snafu::ResultExt;

use super::{
    Error, ObservedTopic, TopicAdmin, TopicStep, Watermarks, connection::Connection, error::AbandonedSnafu,
};
use crate::pipeline::TopicName;

/// How long a connection is kept. librdkafka gathers its log lines in a queue that an admin client never reads,
/// and pipelines come and go with their brokers: a bounded life bounds both.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// Talks to brokers; keeps one connection for each way of access.
#[derive(Default)]
pub struct KafkaClient {
    connections: Mutex<HashMap<KafkaAccess, Arc<Connection>>>,
}

impl TopicAdmin for KafkaClient {
    fn observe<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<ObservedTopic, Error>> {
        let (action, topic) = (format!("read topic {topic}"), topic.clone());
        Box::pin(self.run(access, action, move |connection| connection.observe(&topic)))
    }

    fn apply<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
        step: &'a TopicStep,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (action, topic, step) = (format!("change topic {topic}"), topic.clone(), step.action.clone());
        Box::pin(self.run(access, action, move |connection| connection.apply(&topic, &step)))
    }

    fn delete<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (action, topic) = (format!("delete topic {topic}"), topic.clone());
        Box::pin(self.run(access, action, move |connection| connection.delete(&topic)))
    }

    fn watermarks<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<BTreeMap<i32, Watermarks>, Error>> {
        let (action, topic) = (format!("read the offsets of topic {topic}"), topic.clone());
        Box::pin(self.run(access, action, move |connection| connection.watermarks(&topic)))
    }
}

impl KafkaClient {
    /// Runs a blocking request on a thread where it may block. A connection that failed is not used again.
    async fn run<T: Send + 'static>(
        &self,
        access: &KafkaAccess,
        action: String,
        request: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let connection = self.connection(access)?;
        let used = Arc::clone(&connection);
        let result =
            tokio::task::spawn_blocking(move || request(&used)).await.context(AbandonedSnafu { action })?;
        if matches!(result, Err(Error::Unreachable { .. })) {
            self.forget(access, connection);
        }
        result
    }

    fn connection(&self, access: &KafkaAccess) -> Result<Arc<Connection>, Error> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let old = connections.extract_if(|_, connection| now - connection.since > CONNECTION_LIFE);
        drop_elsewhere(old.map(|(_, connection)| connection).collect());
        if let Some(connection) = connections.get(access) {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(Connection::new(access)?);
        connections.insert(access.clone(), Arc::clone(&connection));
        Ok(connection)
    }

    fn forget(&self, access: &KafkaAccess, failed: Arc<Connection>) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.get(access).is_some_and(|current| Arc::ptr_eq(current, &failed)) {
            connections.remove(access);
        }
        drop_elsewhere(vec![failed]);
    }
}

/// Drops connections where it may take its time: librdkafka joins its threads.
fn drop_elsewhere(connections: Vec<Arc<Connection>>) {
    if !connections.is_empty() {
        tokio::task::spawn_blocking(move || drop(connections));
    }
}
