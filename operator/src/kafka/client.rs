//! The real Kafka: one connection for each way of access (a rotated Secret is another), and every blocking call on a thread where
//! it may block. I/O.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use access::kafka::KafkaAccess;
use futures::future::BoxFuture;
use snafu::ResultExt;

use super::{
    Cause, Error, ObservedTopic, TopicAdmin, TopicStep, Watermarks,
    connection::Connection,
    error::{AbandonedSnafu, UnreachableSnafu},
    greeting::greet,
};
use crate::{change::Change, outage::Outages, pipeline::TopicName};

/// How long a connection is kept. librdkafka gathers its log lines in a queue that an admin client never reads: a bounded
/// life bounds that.
const LIFE: Duration = Duration::from_secs(300);

/// How long a connection is kept that nobody asks for: its pipelines are gone, or a Secret was rotated. A little longer
/// than a pipeline waits for its next look.
const IDLE: Duration = Duration::from_secs(90);

/// How many connections are kept. Each costs librdkafka a thread and one more for each broker, so what is asked for less
/// often than all others is made anew.
const CAPACITY: usize = 32;

/// Talks to brokers; keeps one connection for each way of access. Clones share them.
#[derive(Clone, Default)]
pub struct KafkaClient {
    connections: Arc<Mutex<HashMap<KafkaAccess, Kept>>>,
    outages: Arc<Outages<KafkaAccess, Cause>>,
}

struct Kept {
    connection: Arc<Connection>,
    begun: Instant,
    used: Instant,
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
        let bootstrap_servers = &access.bootstrap_servers;
        let attempt = self
            .outages
            .attempt(access)
            .or_else(|cause| UnreachableSnafu { action: &action, bootstrap_servers, cause }.fail())?;
        let (client, access, wanted) = (self.clone(), access.clone(), action.clone());
        let result = tokio::task::spawn_blocking(move || client.run_blocking(&access, &wanted, request))
            .await
            .context(AbandonedSnafu { action })?;
        match &result {
            Err(Error::Unreachable { cause, .. }) => attempt.fail(*cause),
            _ => attempt.succeed(),
        }
        result
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
            self.lock().retain(|_, kept| !Arc::ptr_eq(&kept.connection, &connection));
            drop(connection);
            greet(access, action)?;
        }
        result
    }

    fn connection(&self, access: &KafkaAccess, action: &str) -> Result<Arc<Connection>, Error> {
        if let Some(kept) = self.lock().get_mut(access) {
            kept.used = Instant::now();
            return Ok(Arc::clone(&kept.connection));
        }
        greet(access, action)?;
        let new = Arc::new(Connection::new(access)?);
        let now = Instant::now();
        let mut connections = self.lock();
        let is_first = connections.is_empty();
        // Another one may have been faster.
        let kept = connections.entry(access.clone());
        let kept = kept.or_insert_with(|| Kept { connection: Arc::clone(&new), begun: now, used: now });
        let connection = Arc::clone(&kept.connection);
        let surplus = surplus(&mut connections);
        drop(connections);
        // Where it may take its time, which this is: librdkafka joins its threads.
        drop((new, surplus));
        if is_first {
            tokio::spawn(self.clone().sweep());
        }
        Ok(connection)
    }

    /// Closes what nobody asks for, until there is nothing left.
    async fn sweep(self) {
        loop {
            tokio::time::sleep(IDLE / 3).await;
            let mut connections = self.lock();
            let expired: Vec<_> = connections
                .extract_if(|_, kept| kept.used.elapsed() > IDLE || kept.begun.elapsed() > LIFE)
                .collect();
            let is_over = connections.is_empty();
            drop(connections);
            tokio::task::spawn_blocking(move || drop(expired));
            if is_over {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KafkaAccess, Kept>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out the connection that was not used for longest, where there are too many.
fn surplus(connections: &mut HashMap<KafkaAccess, Kept>) -> Option<Kept> {
    if connections.len() <= CAPACITY {
        return None;
    }
    let oldest = connections.iter().min_by_key(|(_, kept)| kept.used).map(|(access, _)| access.clone());
    oldest.and_then(|access| connections.remove(&access))
}
