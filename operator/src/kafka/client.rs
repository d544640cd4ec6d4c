//! The real Kafka: one connection for each way of access (a rotated Secret is another), and every blocking call on a thread where
//! it may block. I/O.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use access::kafka::KafkaAccess;
use futures::future::BoxFuture;
use snafu::ResultExt;

use super::{
    Error, ObservedTopic, TopicAdmin, TopicStep, Watermarks, connection::Connection, error::AbandonedSnafu,
    greeting::greet,
};
use crate::{change::Change, pipeline::TopicName};

/// How long a connection is kept. librdkafka gathers its log lines in a queue that an admin client never reads,
/// pipelines come and go with their brokers, and a rotated Secret leaves a connection behind that nobody asks for
/// again: a bounded life bounds all of them.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);

/// Talks to brokers; keeps one connection for each way of access.
#[derive(Clone, Default)]
pub struct KafkaClient {
    connections: Arc<Mutex<HashMap<KafkaAccess, Arc<Connection>>>>,
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

    fn delete_group<'a>(
        &'a self,
        access: &'a KafkaAccess,
        group: &'a str,
    ) -> BoxFuture<'a, Result<Option<Change>, Error>> {
        let (action, group) = (format!("delete consumer group {group}"), group.to_owned());
        Box::pin(self.run(access, action, move |connection| connection.delete_group(&group)))
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
    /// Runs a blocking request on a thread where it may block.
    async fn run<T: Send + 'static>(
        &self,
        access: &KafkaAccess,
        action: String,
        request: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (client, access, wanted) = (self.clone(), access.clone(), action.clone());
        tokio::task::spawn_blocking(move || client.run_blocking(&access, &wanted, request))
            .await
            .context(AbandonedSnafu { action })?
    }

    /// A connection that failed is not used again. Why it failed, a new one tells.
    fn run_blocking<T>(
        &self,
        access: &KafkaAccess,
        action: &str,
        request: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let connection = self.connection(access, action)?;
        let result = request(&connection);
        if matches!(result, Err(Error::Unreachable { .. })) {
            self.forget(access, &connection);
            greet(access, action)?;
        }
        result
    }

    fn connection(&self, access: &KafkaAccess, action: &str) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.lock().get(access) {
            return Ok(Arc::clone(connection));
        }
        greet(access, action)?;
        let connection = Arc::new(Connection::new(access)?);
        self.lock().insert(access.clone(), Arc::clone(&connection));
        let (client, access, known) = (self.clone(), access.clone(), Arc::downgrade(&connection));
        tokio::spawn(async move {
            tokio::time::sleep(CONNECTION_LIFE).await;
            if let Some(connection) = known.upgrade() {
                // Where it may take its time: librdkafka joins its threads.
                tokio::task::spawn_blocking(move || client.forget(&access, &connection));
            }
        });
        Ok(connection)
    }

    fn forget(&self, access: &KafkaAccess, old: &Arc<Connection>) {
        let mut connections = self.lock();
        if connections.get(access).is_some_and(|current| Arc::ptr_eq(current, old)) {
            connections.remove(access);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KafkaAccess, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
