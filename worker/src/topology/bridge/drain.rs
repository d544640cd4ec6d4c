//! From the spool to Kafka, in order, on a thread of its own. What Kafka has leaves the spool; what it does not take stays
//! at the head.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crds::worker::{BridgeConfig, KafkaConfig};
use rdkafka::error::KafkaError;
use tokio::{runtime, sync::Notify, time};

use super::{
    BACKOFF, Bridge,
    metrics::BridgeMetrics,
    outlet::{RECORD_TOO_LARGE, kafka_away, reach_kafka, refused, spool_failed},
    waits,
};
use crate::{
    secrets::Secrets,
    sink::kafka::{Delivery, OwnedRecord, Producer},
    source::mqtt::Failure,
    spool::Spool,
    telemetry::chain,
};

/// How much of the spool is on its way to Kafka at once, bytes.
const CHUNK_BYTES: u64 = 1024 * 1024;

/// How many messages of it are on their way at once: no more than every producer has room for.
const CHUNK_MESSAGES: usize = 1_000;

/// How often to look whether there is something to drain, and whether it is over.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How often to look, while Kafka does not answer, whether it is to be reached in another way: so many times
/// [`LOOK_AGAIN`].
const LOOK_AT_SECRETS: u32 = 100;

/// Empties the spool, once. Dropping it ends it after what is on its way, if Kafka takes that.
pub struct Drain {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

/// How far it is.
#[derive(Debug, Default)]
pub struct Progress {
    trouble: Mutex<Option<Failure>>,
    drained: Notify,
    is_over: AtomicBool,
}

impl Drain {
    /// Starts its thread.
    ///
    /// # Errors
    /// Where there is no thread or runtime to be had.
    pub fn start(bridge: &Bridge, spool: Arc<Spool>) -> io::Result<Self> {
        let progress = Arc::new(Progress::default());
        let draining = Draining {
            kafka: bridge.kafka.clone(),
            config: bridge.config.clone(),
            secrets: bridge.context.secrets.clone(),
            metrics: Arc::clone(&bridge.metrics),
            batch_bytes: bridge.batch_bytes,
            spool,
            progress: Arc::clone(&progress),
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new()
            .name("drain".to_owned())
            .spawn(move || runtime.block_on(draining.run()))?;
        Ok(Self { progress, thread: Some(thread) })
    }

    /// How far it is.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Whether it has come to its end.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.progress.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Progress {
    /// Why Kafka does not take what is at the head, as far as that is known.
    pub fn trouble(&self) -> Option<Failure> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns once Kafka has all that was in the spool.
    pub async fn drained(&self) {
        self.drained.notified().await;
    }

    /// Says why Kafka does not take what is at the head, or that it does.
    pub fn say(&self, trouble: Option<Failure>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// What the thread works with.
struct Draining {
    kafka: KafkaConfig,
    config: BridgeConfig,
    secrets: Secrets,
    metrics: Arc<BridgeMetrics>,
    batch_bytes: usize,
    spool: Arc<Spool>,
    progress: Arc<Progress>,
}

impl Draining {
    async fn run(mut self) {
        let mut waits = waits();
        while !self.progress.is_over() {
            let failure = match self.drain().await {
                Ok(()) => return self.progress.drained.notify_one(),
                Err(failure) => failure,
            };
            let mut wait = waits.next().unwrap_or(BACKOFF.1).min(LONGEST_WAIT);
            if failure.reason == RECORD_TOO_LARGE && self.batch_bytes > 1 {
                self.batch_bytes /= 2;
                wait = BACKOFF.0;
            }
            tracing::debug!(reason = failure.reason, "The spool waits: {}", failure.message);
            self.progress.say(Some(failure));
            let waited = time::Instant::now();
            while waited.elapsed() < wait && !self.progress.is_over() {
                time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Drains with one producer: an idempotent one is not used beyond an error. Returns once the spool is empty and
    /// Kafka has taken something at least, so that it is known to be back.
    async fn drain(&self) -> Result<(), Failure> {
        let Self { kafka, config, secrets, batch_bytes, .. } = self;
        let producer = reach_kafka(kafka, config, secrets, *batch_bytes, None).await;
        let producer = producer.map_err(|(failure, _)| failure)?;
        let mut has_delivered = false;
        while !self.progress.is_over() {
            let chunk =
                self.spool.head(CHUNK_MESSAGES, CHUNK_BYTES).map_err(|error| spool_failed(&chain(&error)))?;
            if chunk.is_empty() {
                if has_delivered {
                    return Ok(());
                }
                time::sleep(LOOK_AGAIN).await;
                continue;
            }
            let (delivered, outcome) = self.send(&producer, &chunk).await;
            let gone: Vec<(u64, OwnedRecord)> = (chunk.into_iter().enumerate())
                .filter_map(|(index, entry)| delivered.contains(&index).then_some(entry))
                .collect();
            self.metrics.delivered.inc_by(gone.len() as u64);
            self.spool.remove(&gone).map_err(|error| spool_failed(&chain(&error)))?;
            outcome?;
            has_delivered = true;
            self.progress.say(None);
        }
        Ok(())
    }

    /// Sends entries and waits for all reports, or for the first failure. Answers which ones Kafka has.
    async fn send(
        &self,
        producer: &Producer,
        chunk: &[(u64, OwnedRecord)],
    ) -> (HashSet<usize>, Result<(), Failure>) {
        let mut delivered = HashSet::new();
        let not_queued = |error: KafkaError| Failure {
            reason: "KafkaUnreachable",
            message: format!("The Kafka producer does not take records: {error}."),
        };
        for (index, (_, entry)) in chunk.iter().enumerate() {
            if let Err(error) = producer.send(index, entry.record()) {
                return (delivered, Err(not_queued(error)));
            }
        }
        let (mut reports, mut looks) = (Vec::new(), 0_u32);
        while delivered.len() < chunk.len() {
            if time::timeout(LOOK_AGAIN, producer.deliveries().arrived()).await.is_err() {
                looks += 1;
                let is_current = !looks.is_multiple_of(LOOK_AT_SECRETS)
                    || self.secrets.kafka(&self.kafka).is_ok_and(|access| access == *producer.access());
                let trouble = kafka_away(&self.kafka, producer.deliveries());
                if self.progress.is_over() || !is_current {
                    return (delivered, Err(trouble));
                }
                self.progress.say(Some(trouble));
            }
            producer.deliveries().take(&mut reports);
            for Delivery { sequence, error, stub } in reports.drain(..) {
                let outcome = match (error, stub) {
                    (_, Some(stub)) => producer.send(sequence, stub.record()).map_err(not_queued),
                    (None, None) => {
                        delivered.insert(sequence);
                        Ok(())
                    }
                    (Some(code), None) => {
                        Err(refused(&self.kafka.topic, producer.fatal_error().unwrap_or(code)))
                    }
                };
                if let Err(failure) = outcome {
                    return (delivered, Err(failure));
                }
            }
        }
        (delivered, Ok(()))
    }
}
