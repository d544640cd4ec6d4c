//! The real Kafka: one connection for each way of access (a rotated Secret is another), and every blocking call on a thread where
//! it may block. I/O.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
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

/// How long a connection is kept. librdkafka gathers its log lines in a queue that an admin client never reads, and this bounds it.
/// Afterwards nothing is left of a connection that nobody asks for, because its pipelines are gone or a Secret was rotated.
const LIFE: Duration = Duration::from_secs(30);

/// Of how many topics a connection is asked before another one takes its place: librdkafka remembers each of them, in 5 KiB.
const TOPICS: usize = 128;

/// For how long a connection is kept, of however many topics it is asked: where many pipelines are scaled that is each second.
const SHORTEST_LIFE: Duration = Duration::from_secs(5);

/// How many connections are kept. Each costs librdkafka two threads and two more for each broker, so what is asked for less
/// often than all others is made anew. Those that are in use are kept, however many they are.
const CAPACITY: usize = 32;

/// For how long after it was asked for a connection is in use: processors are scaled by what is read each second.
const IN_USE: Duration = Duration::from_secs(10);

/// Talks to brokers; keeps one connection for each way of access. Clones share them.
#[derive(Clone, Default)]
pub struct KafkaClient {
    connections: Arc<Mutex<Connections>>,
    outages: Arc<Outages<KafkaAccess, Cause>>,
}

#[derive(Default)]
struct Connections {
    kept: HashMap<KafkaAccess, Kept>,
    is_swept: bool,
}

struct Kept {
    connection: Arc<Connection>,
    begun: Instant,
    used: Instant,
    topics: HashSet<TopicName>,
    /// Whether another one is made that takes its place.
    is_leaving: bool,
}

impl Kept {
    fn is_full(&self) -> bool {
        self.topics.len() >= TOPICS && self.begun.elapsed() >= SHORTEST_LIFE
    }
}

impl TopicAdmin for KafkaClient {
    fn observe<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<ObservedTopic, Error>> {
        let (action, name) = (format!("read topic {topic}"), topic.clone());
        Box::pin(self.run(access, Some(topic), action, move |connection| connection.observe(&name)))
    }

    fn apply<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
        step: &'a TopicStep,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (action, name, step) = (format!("change topic {topic}"), topic.clone(), step.action.clone());
        Box::pin(self.run(access, Some(topic), action, move |connection| connection.apply(&name, &step)))
    }

    fn delete<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (action, name) = (format!("delete topic {topic}"), topic.clone());
        Box::pin(self.run(access, Some(topic), action, move |connection| connection.delete(&name)))
    }

    fn delete_group<'a>(
        &'a self,
        access: &'a KafkaAccess,
        group: &'a str,
    ) -> BoxFuture<'a, Result<Option<Change>, Error>> {
        let (action, group) = (format!("delete consumer group {group}"), group.to_owned());
        Box::pin(self.run(access, None, action, move |connection| connection.delete_group(&group)))
    }

    fn watermarks<'a>(
        &'a self,
        access: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<BTreeMap<i32, Watermarks>, Error>> {
        let (action, name) = (format!("read the offsets of topic {topic}"), topic.clone());
        Box::pin(self.run(access, Some(topic), action, move |connection| connection.watermarks(&name)))
    }
}

impl KafkaClient {
    /// Runs a blocking request, about this topic or none, on a thread where it may block.
    async fn run<T: Send + 'static>(
        &self,
        access: &KafkaAccess,
        topic: Option<&TopicName>,
        action: String,
        request: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let bootstrap_servers = &access.bootstrap_servers;
        let attempt = self
            .outages
            .attempt(access)
            .or_else(|cause| UnreachableSnafu { action: &action, bootstrap_servers, cause }.fail())?;
        let (client, access, topic, wanted) = (self.clone(), access.clone(), topic.cloned(), action.clone());
        let result =
            tokio::task::spawn_blocking(move || client.run_blocking(&access, topic, &wanted, request))
                .await
                .context(AbandonedSnafu { action })?;
        match result {
            Err(Error::Unreachable { cause, .. }) => attempt.fail(cause),
            _ => attempt.succeed(),
        }
        result.flatten()
    }

    /// Fails where there is no connection, and answers what came of the request: one that finds nobody, such as the leader of
    /// a partition, says nothing of Kafka as long as a new connection is welcome. One that failed is not used again.
    fn run_blocking<T>(
        &self,
        access: &KafkaAccess,
        topic: Option<TopicName>,
        action: &str,
        request: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<Result<T, Error>, Error> {
        let connection = self.connection(access, topic, action)?;
        let result = request(&connection);
        if matches!(result, Err(Error::Unreachable { .. })) {
            self.lock().kept.retain(|_, kept| !Arc::ptr_eq(&kept.connection, &connection));
            drop(connection);
            greet(access, action)?;
        }
        Ok(result)
    }

    fn connection(
        &self,
        access: &KafkaAccess,
        topic: Option<TopicName>,
        action: &str,
    ) -> Result<Arc<Connection>, Error> {
        if let Some(kept) = self.lock().kept.get_mut(access) {
            kept.used = Instant::now();
            kept.topics.extend(topic.clone());
            // Who finds it full makes another one, and all others use it until that is there.
            if kept.is_leaving || !kept.is_full() {
                return Ok(Arc::clone(&kept.connection));
            }
            kept.is_leaving = true;
        }
        greet(access, action)?;
        let new = Arc::new(Connection::new(access)?);
        let now = Instant::now();
        let mut connections = self.lock();
        let (connection, spare) = match connections.kept.get(access) {
            // Another one was faster.
            Some(kept) if !kept.is_leaving => (Arc::clone(&kept.connection), Some(new)),
            _ => {
                let topics = topic.into_iter().collect();
                let connection = Arc::clone(&new);
                let kept = Kept { connection, begun: now, used: now, topics, is_leaving: false };
                let full = connections.kept.insert(access.clone(), kept);
                (new, full.map(|kept| kept.connection))
            }
        };
        let surplus = surplus(&connections.kept, now).cloned();
        let surplus = surplus.and_then(|access| connections.kept.remove(&access));
        let is_swept = mem::replace(&mut connections.is_swept, true);
        drop(connections);
        // Where it may take its time, which this is: librdkafka joins its threads.
        drop((spare, surplus));
        if !is_swept {
            tokio::spawn(self.clone().sweep());
        }
        Ok(connection)
    }

    /// Closes what has lived for long enough, until there is nothing left.
    async fn sweep(self) {
        loop {
            tokio::time::sleep(LIFE / 3).await;
            let mut connections = self.lock();
            let expired: Vec<_> =
                connections.kept.extract_if(|_, kept| kept.begun.elapsed() > LIFE).collect();
            let is_over = connections.kept.is_empty();
            connections.is_swept = !is_over;
            drop(connections);
            tokio::task::spawn_blocking(move || drop(expired));
            if is_over {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose connection was not used for longest, where there are too many and it is not in use.
fn surplus(kept: &HashMap<KafkaAccess, Kept>, now: Instant) -> Option<&KafkaAccess> {
    let (access, oldest) = kept.iter().min_by_key(|(_, kept)| kept.used)?;
    (kept.len() > CAPACITY && now.duration_since(oldest.used) > IN_USE).then_some(access)
}

#[cfg(test)]
mod tests {
    use access::kafka::KafkaAccess;
    use rdkafka::{
        mocking::MockCluster,
        producer::{BaseProducer, BaseRecord, Producer},
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;

    fn access(bootstrap_servers: &str) -> KafkaAccess {
        KafkaAccess { bootstrap_servers: bootstrap_servers.to_owned(), tls: None, sasl: None }
    }

    #[tokio::test]
    async fn one_topic_without_a_leader_is_no_outage() {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["sick", "well"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        cluster.topic_error("sick", RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE).unwrap();
        let (client, access) = (KafkaClient::default(), access(&cluster.bootstrap_servers()));
        let [sick, well] = ["sick", "well"].map(|name| TopicName::parse(name).unwrap());
        let error = client.watermarks(&access, &sick).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        let (error, others) = futures::join!(client.watermarks(&access, &sick), async {
            client.watermarks(&access, &well).await.map(|watermarks| watermarks.len())
        });
        assert!(error.is_err());
        assert_eq!(others.unwrap(), 1, "those of other topics do not hear of it");
    }

    #[tokio::test]
    async fn all_partitions_of_several_brokers_are_asked_at_once() {
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("several", 4, 1).unwrap();
        let access = access(&cluster.bootstrap_servers());
        let producer: BaseProducer = access.client_config().create().unwrap();
        for partition in [1, 3, 3] {
            producer.send(BaseRecord::<(), str>::to("several").partition(partition).payload("x")).unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
        let name = TopicName::parse("several").unwrap();
        let watermarks = KafkaClient::default().watermarks(&access, &name).await.unwrap();
        let expected = [0, 1, 0, 2].map(|high| Watermarks { low: 0, high });
        assert_eq!(watermarks, (0..).zip(expected).collect());
    }

    #[tokio::test]
    async fn a_leader_that_does_not_know_it_yet_is_asked_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("new", 1, 1).unwrap();
        let early = [
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        ];
        cluster.request_errors(RDKafkaApiKey::ListOffsets, &early);
        let access = access(&cluster.bootstrap_servers());
        let name = TopicName::parse("new").unwrap();
        let watermarks = KafkaClient::default().watermarks(&access, &name).await.unwrap();
        assert_eq!(watermarks, BTreeMap::from([(0, Watermarks { low: 0, high: 0 })]));
    }

    #[tokio::test]
    async fn a_connection_that_knows_many_topics_makes_room_for_another() {
        let cluster = MockCluster::new(1).unwrap();
        let (client, access) = (KafkaClient::default(), access(&cluster.bootstrap_servers()));
        let connection = |number: usize| {
            let topic = TopicName::parse(&format!("line-{number}")).unwrap();
            client.connection(&access, Some(topic), "read a topic").unwrap()
        };
        let first = connection(0);
        for number in (1..TOPICS - 1).chain([0, 1, 2]) {
            assert!(Arc::ptr_eq(&first, &connection(number)), "{number}");
        }
        assert!(Arc::ptr_eq(&first, &connection(TOPICS - 1)), "it has just begun");
        let earlier = Instant::now().checked_sub(SHORTEST_LIFE).unwrap();
        client.lock().kept.get_mut(&access).unwrap().begun = earlier;
        let second = connection(0);
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &connection(1)));
        assert_eq!(Arc::strong_count(&first), 1, "nobody keeps it");
    }

    #[test]
    fn what_is_in_use_is_kept_however_much_it_is() {
        let connection = Arc::new(Connection::new(&access("kafka:9092")).unwrap());
        let begun = Instant::now();
        let kept = |number: usize| {
            let used = begun + Duration::from_secs(number as u64 % 2);
            let topics = HashSet::new();
            let connection = Arc::clone(&connection);
            let kept = Kept { connection, begun, used, topics, is_leaving: false };
            (access(&format!("kafka-{number}:9092")), kept)
        };
        let kept: HashMap<_, _> = (0..=CAPACITY).map(kept).collect();
        assert!(surplus(&kept, begun + IN_USE).is_none());
        let later = begun + IN_USE + Duration::from_millis(1);
        assert!(surplus(&kept, later).is_some_and(|access| kept[access].used == begun));
        let fewer = kept.into_iter().skip(1).collect();
        assert!(surplus(&fewer, later).is_none());
    }
}
