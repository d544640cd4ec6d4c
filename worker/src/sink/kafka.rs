//! Kafka as a sink: an idempotent producer that reports deliveries in batches.
//!
//! A record is delivered when Kafka says so (`acks=all`); until then the producer tries for ever. What it gives
//! up on is never taken for delivered. One producer serves one MQTT connection: dropping it drops its records.

mod stub;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use access::kafka::{KafkaAccess, cause::Cause};
use crds::worker::BridgeConfig;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use snafu::{OptionExt, Snafu};
use tokio::sync::Notify;

pub use self::stub::{stub_of, stub_of_refused};

/// How long to wait for Kafka's answer to a question about the topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a record waits for company. Each batch is a request, which costs bridge and broker alike, and every message
/// that is not one of many this much latency.
const LINGER: Duration = Duration::from_millis(20);

/// A batch with this share of the window does not wait any longer: under load it is the window that many wait for.
const BATCHES_IN_WINDOW: u16 = 16;

/// Why Kafka cannot take records.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The producer's settings were refused. What librdkafka says of them may hold their values, so it is not told.
    #[snafu(display(
        "failed to create the producer: check the certificates of spec.kafka.tls and the user of spec.kafka.sasl"
    ))]
    Create,
    /// No broker answered, or none as it should.
    #[snafu(display("Kafka at {bootstrap_servers} {cause}"))]
    Unreachable {
        /// Where Kafka should be.
        bootstrap_servers: String,
        /// Why it is not.
        cause: Cause,
    },
    /// The topic is not there.
    #[snafu(display("failed to find the Kafka topic {topic}: {}", code.map_or("not in the answer".to_owned(), |code| code.to_string())))]
    Topic {
        /// The topic.
        topic: String,
        /// What Kafka says of it.
        code: Option<RDKafkaErrorCode>,
    },
    /// The user may not use the topic.
    #[snafu(display("{}", refusal(topic, *code)))]
    Refused {
        /// The topic.
        topic: String,
        /// What Kafka says of it.
        code: RDKafkaErrorCode,
    },
}

impl Error {
    /// The reason of the worker's problem.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Create => "KafkaConfigInvalid",
            Self::Unreachable { cause, .. } => cause.reason().into(),
            Self::Topic { .. } => "TopicMissing",
            Self::Refused { .. } => "KafkaRefused",
        }
    }
}

/// That Kafka does not take the records of a topic, and what to do.
pub fn refusal(topic: &str, code: RDKafkaErrorCode) -> String {
    let advice = match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            ": grant the bridge's Kafka user DESCRIBE and WRITE on the topic (docs/security.md lists all rights)"
        }
        RDKafkaErrorCode::ClusterAuthorizationFailed => {
            ": grant the bridge's Kafka user WRITE on the topic, and before Kafka 3.0 IDEMPOTENT_WRITE on the cluster \
             (docs/security.md lists all rights)"
        }
        // Kafka calls a record invalid for its time too. It always has a key.
        RDKafkaErrorCode::InvalidTimestamp | RDKafkaErrorCode::InvalidRecord => {
            ": the clock of the bridge's node and that of Kafka differ by more than message.timestamp.after.max.ms or \
             message.timestamp.before.max.ms of the topic allows, or the brokers validate the content of records; set the \
             clock right, and what waits is sent again"
        }
        _ => "",
    };
    format!("Kafka refuses records of the topic {topic} with {code:?}{advice}")
}

/// What became of one record.
#[derive(Debug)]
pub struct Delivery {
    /// The number under which it was sent.
    pub sequence: usize,
    /// Why Kafka did not take it; `None` when it did.
    pub error: Option<RDKafkaErrorCode>,
    /// What to send in its place, where no record of the topic can hold it.
    pub stub: Option<Box<OwnedRecord>>,
}

/// The delivery reports that nobody has looked at yet.
#[derive(Debug, Default)]
pub struct Deliveries {
    queue: Mutex<Vec<Delivery>>,
    arrived: Notify,
    all_brokers_down: AtomicBool,
    /// Why the producer has no connection, as far as it said since it had one.
    cause: Mutex<Option<Cause>>,
}

/// A producer for one topic.
pub struct Producer {
    inner: ThreadedProducer<Reporter>,
    deliveries: Arc<Deliveries>,
    topic: String,
    access: KafkaAccess,
}

/// One record.
pub struct Record<'a> {
    /// Decides the partition.
    pub key: &'a [u8],
    /// The value.
    pub payload: &'a [u8],
    /// The headers.
    pub headers: OwnedHeaders,
    /// The record's time, milliseconds since 1970.
    pub timestamp_millis: i64,
}

/// One record that owns what it holds.
#[derive(Clone, Debug)]
pub struct OwnedRecord {
    /// Decides the partition.
    pub key: Vec<u8>,
    /// The value.
    pub payload: Vec<u8>,
    /// The headers.
    pub headers: OwnedHeaders,
    /// The record's time, milliseconds since 1970.
    pub timestamp_millis: i64,
}

impl Record<'_> {
    /// The record, copied.
    pub fn into_owned(self) -> OwnedRecord {
        let Self { key, payload, headers, timestamp_millis } = self;
        OwnedRecord { key: key.to_owned(), payload: payload.to_owned(), headers, timestamp_millis }
    }
}

impl OwnedRecord {
    /// The record to send.
    pub fn record(&self) -> Record<'_> {
        let Self { key, payload, headers, timestamp_millis } = self;
        Record { key, payload, headers: headers.clone(), timestamp_millis: *timestamp_millis }
    }
}

impl Producer {
    /// A new producer. Does not wait for Kafka: see [`Producer::check_topic`].
    ///
    /// `batch_bytes` bounds what is sent at once; a record that is larger is sent alone.
    pub fn new(
        access: KafkaAccess,
        topic: &str,
        bridge: &BridgeConfig,
        batch_bytes: usize,
    ) -> Result<Self, Error> {
        let deliveries = Arc::new(Deliveries::default());
        // Twice what the window lets in, so that it is the window that pushes back, not this queue.
        let queue_messages = 2 * u32::from(bridge.max_in_flight) + 1024;
        let queue_kilobytes = (2 * (bridge.max_in_flight_bytes + u64::from(bridge.max_record_bytes)) / 1024)
            .clamp(65_536, 1 << 30);
        let inner = access
            .client_config()
            .set("client.id", &bridge.client_id)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // Keys meet the partitions that Java clients choose.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", LINGER.as_millis().to_string())
            .set("batch.num.messages", (bridge.max_in_flight / BATCHES_IN_WINDOW).max(1).to_string())
            // Never given up: the message stays with the MQTT broker as well until Kafka has it.
            .set("message.timeout.ms", "0")
            .set("batch.size", batch_bytes.to_string())
            .set("message.max.bytes", bridge.max_record_bytes.to_string())
            .set("queue.buffering.max.messages", queue_messages.to_string())
            .set("queue.buffering.max.kbytes", queue_kilobytes.to_string())
            .set("allow.auto.create.topics", "false")
            .set("reconnect.backoff.max.ms", "5000")
            .create_with_context(Reporter { deliveries: Arc::clone(&deliveries), batch_bytes })
            .ok()
            .context(CreateSnafu)?;
        Ok(Self { inner, deliveries, topic: topic.to_owned(), access })
    }

    /// How it reaches Kafka. It keeps that for as long as it lives.
    pub fn access(&self) -> &KafkaAccess {
        &self.access
    }

    /// The code for which it refuses everything from now on, where it does.
    pub fn fatal_error(&self) -> Option<RDKafkaErrorCode> {
        self.inner.client().fatal_error().map(|(code, _)| code)
    }

    /// Asks Kafka for the topic; blocks the calling thread, for some seconds at most.
    pub fn check_topic(&self) -> Result<(), Error> {
        let metadata = match self.inner.client().fetch_metadata(Some(&self.topic), METADATA_TIMEOUT) {
            Ok(metadata) => metadata,
            Err(error) => {
                let code = error.rdkafka_error_code();
                let cause = self.deliveries.cause().unwrap_or_else(|| Cause::of(code, ""));
                return UnreachableSnafu { bootstrap_servers: &self.access.bootstrap_servers, cause }.fail();
            }
        };
        let topic = (metadata.topics().iter().find(|topic| topic.name() == self.topic))
            .context(TopicSnafu { topic: &self.topic, code: None })?;
        self.deliveries.reached();
        match topic.error().map(RDKafkaErrorCode::from) {
            None => Ok(()),
            Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => {
                RefusedSnafu { topic: &self.topic, code }.fail()
            }
            code => TopicSnafu { topic: &self.topic, code }.fail(),
        }
    }

    /// Queues a record; its delivery is reported under `sequence`. Nothing is reported of a record that is refused here.
    pub fn send(&self, sequence: usize, record: Record<'_>) -> Result<(), KafkaError> {
        let Record { key, payload, headers, timestamp_millis } = record;
        let record = BaseRecord::with_opaque_to(&self.topic, sequence)
            .key(key)
            .payload(payload)
            .headers(headers)
            .timestamp(timestamp_millis);
        self.inner.send(record).map_err(|(error, _)| error)
    }

    /// Where deliveries are reported.
    pub fn deliveries(&self) -> &Arc<Deliveries> {
        &self.deliveries
    }
}

impl Deliveries {
    /// Waits until something was reported; a report that nobody waited for counts.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Moves all reports into `batch`, in the order in which they came.
    pub fn take(&self, batch: &mut Vec<Delivery>) {
        batch.clear();
        std::mem::swap(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner), batch);
    }

    /// Whether the producer lost its connections to all brokers and has not seen one since.
    pub fn all_brokers_down(&self) -> bool {
        self.all_brokers_down.load(Ordering::Relaxed)
    }

    /// Why the producer has no connection, where it said so.
    pub fn cause(&self) -> Option<Cause> {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, cause: Cause) {
        let mut known = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        *known = (*known).max(Some(cause));
    }

    fn reached(&self) {
        self.all_brokers_down.store(false, Ordering::Relaxed);
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reports what became of a record.
    pub fn report(&self, delivery: Delivery) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(delivery);
        // The first one wakes the reader, who takes them all.
        if queue.len() == 1 {
            drop(queue);
            self.arrived.notify_one();
        }
    }
}

/// Hears what librdkafka has to say, on its thread.
struct Reporter {
    deliveries: Arc<Deliveries>,
    batch_bytes: usize,
}

impl ClientContext for Reporter {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Whatever matters comes back as a failed delivery or question and is told once, as the worker's problem.
        tracing::debug!(?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client error");
        let code = error.rdkafka_error_code();
        self.deliveries.failed(Cause::of(code, reason));
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.deliveries.all_brokers_down.store(true, Ordering::Relaxed);
        }
    }
}

impl ProducerContext for Reporter {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, sequence: usize) {
        let Self { deliveries, batch_bytes } = self;
        let (error, message) = match result {
            Ok(_) => {
                if deliveries.all_brokers_down.load(Ordering::Relaxed) {
                    deliveries.reached();
                }
                return deliveries.report(Delivery { sequence, error: None, stub: None });
            }
            Err((error, message)) => {
                (error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown), message)
            }
        };
        // Refused is the batch. Only of a record that was sent alone is it known that it is the one.
        let was_alone = message.payload_len() + message.key_len() >= *batch_bytes;
        let stub = (error == RDKafkaErrorCode::MessageSizeTooLarge && was_alone)
            .then(|| stub_of_refused(message).map(Box::new))
            .flatten();
        deliveries.report(Delivery { sequence, error: Some(error), stub });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reports_come_in_batches_and_none_is_missed() {
        let deliveries = Deliveries::default();
        let report = |sequence| deliveries.report(Delivery { sequence, error: None, stub: None });
        let mut batch = Vec::new();
        (0..3).for_each(report);
        deliveries.arrived().await;
        deliveries.take(&mut batch);
        assert_eq!(batch.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>(), [0, 1, 2]);
        report(3);
        deliveries.arrived().await;
        deliveries.take(&mut batch);
        assert_eq!(batch.len(), 1);
    }
}
