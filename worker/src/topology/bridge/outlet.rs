//! Where a session's messages go: into Kafka, or into the spool while Kafka is away.

use std::{sync::Arc, time::Duration};

use crds::worker::{BridgeConfig, KafkaConfig, SpoolConfig, SpoolStatus};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::{task, time};

use super::{
    Bridge,
    drain::{Drain, Progress},
    retirement,
    session::{End, Leaving},
};
use crate::{
    health::problem,
    secrets::Secrets,
    sink::{
        self,
        kafka::{Deliveries, Producer, Record},
        spool::SpoolWriter,
    },
    source::mqtt::{Failure, SECRET_INVALID},
    spool::Spool,
    telemetry::chain,
};

/// How long what is in the spool has to go to Kafka before the next session begins with the spool.
const HEAD_START: Duration = Duration::from_secs(2);

/// How often to look whether the spool is empty.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The spool's volume does not do its work.
pub const SPOOL_FAILED: &str = "SpoolFailed";

/// Kafka does not take a record, or a batch of them, because of its size.
pub const RECORD_TOO_LARGE: &str = "RecordTooLarge";

/// What a session hands its messages to. It reports under each one's number once the message is safe.
pub enum Outlet {
    /// The backbone.
    Kafka(Arc<Producer>),
    /// The disk, for as long as Kafka is away or the disk holds anything.
    Spool(Spooling),
}

/// The spool in use.
pub struct Spooling {
    /// Writes at its tail.
    pub writer: SpoolWriter,
    /// The spool.
    pub spool: Arc<Spool>,
    /// How its head goes to Kafka.
    pub progress: Arc<Progress>,
}

impl Outlet {
    /// Queues a record; its delivery is reported under `sequence`.
    ///
    /// # Errors
    /// Where it was not even queued.
    pub fn send(&self, sequence: usize, record: Record<'_>) -> Result<(), KafkaError> {
        match self {
            Self::Kafka(producer) => producer.send(sequence, record),
            Self::Spool(spooling) => {
                spooling.writer.send(sequence, record);
                Ok(())
            }
        }
    }

    /// Where deliveries are reported.
    pub fn deliveries(&self) -> &Arc<Deliveries> {
        match self {
            Self::Kafka(producer) => producer.deliveries(),
            Self::Spool(spooling) => spooling.writer.deliveries(),
        }
    }

    /// The producer, where messages go to Kafka.
    pub fn producer(&self) -> Option<&Arc<Producer>> {
        match self {
            Self::Kafka(producer) => Some(producer),
            Self::Spool(_) => None,
        }
    }

    /// The spool, where messages go there.
    pub fn spooling(&self) -> Option<&Spooling> {
        match self {
            Self::Kafka(_) => None,
            Self::Spool(spooling) => Some(spooling),
        }
    }
}

impl Spooling {
    /// For the status: why there are messages on the disk, and how many.
    pub fn failure(&self) -> Failure {
        let reason = if self.writer.is_full() { "SpoolFull" } else { "Spooling" };
        let trouble = self.progress.trouble();
        let why = trouble.as_ref().map_or("Kafka was away.", |trouble| trouble.message.as_str());
        let SpoolStatus { messages, bytes, .. } = self.spool.level();
        let capacity = self.spool.capacity_bytes();
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (taken, all) = (mebibytes(bytes), mebibytes(capacity));
        let rest = if self.writer.is_full() {
            "it is full, so messages wait at the MQTT broker. Bring Kafka back, or enlarge spec.mqtt.spool.size"
        } else {
            "new ones go there too until it is empty"
        };
        Failure {
            reason,
            message: format!(
                "{why} {messages} messages are in the spool ({taken:.1} of {all:.1} MiB); {rest}."
            ),
        }
    }
}

impl Bridge {
    /// Where the next session's messages go. What is in the spool comes before them.
    pub(super) async fn choose_outlet(&mut self) -> Result<Outlet, Failure> {
        let Some(config) = self.config.spool else {
            return Ok(Outlet::Kafka(self.fresh_producer().await?));
        };
        let spool = self.open_spool(config).await?;
        if config.closing {
            self.empty(&spool).await?;
            return Ok(Outlet::Kafka(self.fresh_producer().await?));
        }
        if !self.kafka_is_away && self.is_emptied(&spool, HEAD_START).await? {
            match self.fresh_producer().await {
                Ok(producer) => return Ok(Outlet::Kafka(producer)),
                Err(failure) => self.drain(&spool)?.say(Some(failure)),
            }
        }
        self.kafka_is_away = true;
        let progress = self.drain(&spool)?;
        let writer = SpoolWriter::start(Arc::clone(&spool))
            .map_err(|error| spool_failed(&format!("it has no thread: {error}")))?;
        Ok(Outlet::Spool(Spooling { writer, spool, progress }))
    }

    /// Lets go of what a session used.
    pub(super) async fn put_away(&mut self, outlet: Outlet, used: bool, end: &End) {
        match outlet {
            // Dropped elsewhere, because both take their time to let go. The next writer must come after this one.
            Outlet::Spool(spooling) => {
                let _ = task::spawn_blocking(move || drop(spooling.writer)).await;
                self.kafka_is_away = !matches!(end, End::Left(Leaving::Renew));
            }
            Outlet::Kafka(producer) => {
                if used {
                    task::spawn_blocking(move || drop(producer));
                } else {
                    self.producer = Some(producer);
                }
                self.kafka_is_away |= matches!(end, End::Failed(failure) if failure.is_kafkas());
            }
        }
    }

    async fn open_spool(&mut self, config: SpoolConfig) -> Result<Arc<Spool>, Failure> {
        if let Some(spool) = &self.spool {
            return Ok(Arc::clone(spool));
        }
        let directory = self.context.spool.clone();
        let opened = task::spawn_blocking(move || Spool::open(&directory, config)).await;
        let spool = match opened {
            Ok(opened) => Arc::new(opened.map_err(|error| spool_failed(&chain(&error)))?),
            Err(error) => return Err(spool_failed(&error.to_string())),
        };
        self.context.health.set_spool(spool.level());
        self.spool = Some(Arc::clone(&spool));
        Ok(spool)
    }

    /// Lets go of a spool that has failed: what is on the disk is read anew, once that works again.
    pub(super) fn close_spool(&mut self) {
        self.drain = None;
        self.spool = None;
    }

    /// Empties a spool that left the spec. New messages wait at the broker meanwhile.
    async fn empty(&mut self, spool: &Arc<Spool>) -> Result<(), Failure> {
        while !self.is_emptied(spool, HEAD_START).await? {
            let SpoolStatus { messages, .. } = spool.level();
            let trouble = self.drain(spool)?.trouble();
            let why = trouble.map_or(String::new(), |trouble| format!("{} ", trouble.message));
            let message = format!(
                "{why}The spool left the spec, and its last {messages} messages go to Kafka; new ones wait at the MQTT \
                 broker."
            );
            retirement::say(&self.config, &self.context.health, &self.metrics, messages);
            self.context.health.set_not_ready(problem("Spooling", message));
            self.context.health.set_spool(spool.level());
            self.context.health.turned();
        }
        self.context.health.set_spool(spool.level());
        Ok(())
    }

    /// Whether the spool is empty, after `patience` at the latest.
    async fn is_emptied(&mut self, spool: &Arc<Spool>, patience: Duration) -> Result<bool, Failure> {
        let begun = time::Instant::now();
        while spool.level().messages > 0 {
            if begun.elapsed() > patience {
                return Ok(false);
            }
            self.drain(spool)?;
            time::sleep(LOOK_AGAIN).await;
        }
        Ok(true)
    }

    /// Sees to it that the spool is being emptied.
    fn drain(&mut self, spool: &Arc<Spool>) -> Result<Arc<Progress>, Failure> {
        match &self.drain {
            Some(drain) if !drain.is_finished() => Ok(drain.progress()),
            _ => {
                let drain = Drain::start(self, Arc::clone(spool))
                    .map_err(|error| spool_failed(&format!("it has no thread: {error}")))?;
                let progress = drain.progress();
                self.drain = Some(drain);
                Ok(progress)
            }
        }
    }

    /// A producer without a past, for a topic that is there.
    async fn fresh_producer(&mut self) -> Result<Arc<Producer>, Failure> {
        let unused = self.producer.take();
        let producer =
            reach_kafka(&self.kafka, &self.config, &self.context.secrets, self.batch_bytes, unused).await;
        producer.map_err(|(failure, unused)| {
            self.producer = unused;
            failure
        })
    }
}

/// A producer that has found its topic: `unused`, if its access is still the right one, or a new one. Where there is
/// none to be had, the unused one comes back.
pub async fn reach_kafka(
    kafka: &KafkaConfig,
    config: &BridgeConfig,
    secrets: &Secrets,
    batch_bytes: usize,
    unused: Option<Arc<Producer>>,
) -> Result<Arc<Producer>, (Failure, Option<Arc<Producer>>)> {
    let failure = |error: sink::kafka::Error| Failure {
        reason: error.reason(),
        message: format!("{}.", chain(&error)),
    };
    let access = secrets.kafka(kafka).map_err(|error| {
        (Failure { reason: SECRET_INVALID, message: format!("{} (spec.kafka).", chain(&error)) }, None)
    })?;
    let producer = match unused {
        Some(producer) if *producer.access() == access => producer,
        _ => Producer::new(access, &kafka.topic, config, batch_bytes)
            .map(Arc::new)
            .map_err(|error| (failure(error), None))?,
    };
    let asked = Arc::clone(&producer);
    match task::spawn_blocking(move || asked.check_topic()).await {
        Ok(Ok(())) => Ok(producer),
        Ok(Err(error)) => Err((failure(error), Some(producer))),
        Err(error) => {
            Err((Failure { reason: "KafkaUnreachable", message: format!("{error}.") }, Some(producer)))
        }
    }
}

/// Kafka takes nothing, and why, as far as the producer has heard.
pub fn kafka_away(kafka: &KafkaConfig, deliveries: &Deliveries) -> Failure {
    let servers = &kafka.bootstrap_servers;
    let Some(cause) = deliveries.cause() else {
        let message = format!("Kafka at {servers} does not take messages.");
        return Failure { reason: "KafkaUnreachable", message };
    };
    Failure { reason: cause.reason().into(), message: format!("Kafka at {servers} {cause}.") }
}

/// Kafka refused a record with `code`.
pub fn refused(topic: &str, code: RDKafkaErrorCode) -> Failure {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge => Failure {
            reason: RECORD_TOO_LARGE,
            message: format!(
                "Kafka refused records as too large: max.message.bytes of the topic {topic} is smaller than what the \
                 bridge sends at once. It sends less from now on; raise max.message.bytes."
            ),
        },
        code => {
            Failure { reason: "KafkaRefused", message: format!("{}.", sink::kafka::refusal(topic, code)) }
        }
    }
}

/// The spool cannot be used.
pub fn spool_failed(what: &str) -> Failure {
    Failure {
        reason: SPOOL_FAILED,
        message: format!(
            "The bridge's spool does not work: {what}. Messages wait at the MQTT broker. Look at its PersistentVolumeClaim."
        ),
    }
}
