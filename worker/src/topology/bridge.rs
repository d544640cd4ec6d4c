//! The bridge: MQTT → Kafka, nothing lost. Here: one session after another; `session` is one of them.
//!
//! A session is one MQTT connection, one producer and one window, and ends whole. What it has not acknowledged
//! by then the broker sends again to the next one.

mod metrics;
mod session;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::BackoffBuilder;
use crds::{
    names::SecretPurpose,
    worker::{BridgeConfig, KafkaConfig},
};

use self::{
    metrics::BridgeMetrics,
    session::{End, Session},
};
use crate::{
    health::problem,
    run::Context,
    secrets::Secrets,
    sink::kafka::Producer,
    source::mqtt::{self, Credentials, Failure, SESSION_TAKEN_OVER, subscriptions::Subscriptions},
    telemetry,
};

/// The shortest and the longest wait between two attempts. The longest is well below the liveness limit.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));

/// A session that lasted so long starts the waits anew.
const SETTLED: Duration = Duration::from_secs(30);

/// Two bridges with one client id take the session from each other: this slows them down.
const TAKEN_OVER_WAIT: Duration = Duration::from_secs(10);

/// Bridges until `context.shutdown` is requested.
pub async fn run(kafka: KafkaConfig, config: BridgeConfig, context: Context) {
    let metrics = context.metrics.register(BridgeMetrics::register);
    let mut subscriptions = Subscriptions::new(config.subscriptions.clone());
    context.health.set_subscriptions(subscriptions.status());
    let mut bridge = Bridge { kafka, config, context, metrics, producer: None };
    let mut waits = waits();
    while !bridge.context.shutdown.is_requested() {
        let started = Instant::now();
        let failure = match bridge.run_session(&mut subscriptions).await {
            Ok(()) => break,
            Err(failure) => failure,
        };
        if started.elapsed() > SETTLED {
            waits = self::waits();
        }
        let mut wait = waits.next().unwrap_or(BACKOFF.1);
        if failure.reason == SESSION_TAKEN_OVER {
            wait = wait.max(TAKEN_OVER_WAIT);
        }
        bridge.context.health.set_not_ready(problem(failure.reason, failure.message));
        bridge.context.health.turned();
        bridge.metrics.reconnects.inc();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = bridge.context.shutdown.requested() => {}
        }
    }
}

/// Exponential with jitter, without an end.
fn waits() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(BACKOFF.0)
        .with_max_delay(BACKOFF.1)
        .with_jitter()
        .without_max_times()
        .build()
}

struct Bridge {
    kafka: KafkaConfig,
    config: BridgeConfig,
    context: Context,
    metrics: BridgeMetrics,
    /// A producer that has not sent anything yet.
    producer: Option<Arc<Producer>>,
}

impl Bridge {
    /// One session, from connecting to its end. `Ok` when the worker was asked to stop.
    async fn run_session(&mut self, subscriptions: &mut Subscriptions) -> Result<(), Failure> {
        let mut shutdown = self.context.shutdown.clone();
        let producer = tokio::select! {
            producer = self.fresh_producer() => producer?,
            () = shutdown.requested() => return Ok(()),
        };
        let credentials = read_credentials(&self.config, &self.context.secrets)?;
        let (client, mut events) = mqtt::connect(&self.config, credentials)?;
        let session =
            Session::new(&self.config, &self.context, &self.metrics, client, &producer, subscriptions);
        let (end, used) = session.run(&mut events).await;
        if used {
            // Dropped elsewhere, because a producer takes its time to let go.
            tokio::task::spawn_blocking(move || drop(producer));
        } else {
            self.producer = Some(producer);
        }
        match end {
            End::Stopped => Ok(()),
            End::Failed(failure) => Err(failure),
        }
    }

    /// A producer without a past, for a topic that is there.
    async fn fresh_producer(&mut self) -> Result<Arc<Producer>, Failure> {
        let failure = |error: crate::sink::kafka::Error| Failure {
            reason: error.reason(),
            message: format!("{}.", telemetry::chain(&error)),
        };
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => {
                let access = self.context.secrets.kafka(&self.kafka).map_err(|error| Failure {
                    reason: "SecretInvalid",
                    message: format!("{} (spec.kafka).", telemetry::chain(&error)),
                })?;
                Arc::new(Producer::new(&access, &self.kafka.topic, &self.config).map_err(failure)?)
            }
        };
        let asked = Arc::clone(&producer);
        let answer = tokio::task::spawn_blocking(move || asked.check_topic()).await;
        self.producer = Some(Arc::clone(&producer));
        match answer {
            Ok(answer) => answer.map_err(failure)?,
            Err(error) => {
                return Err(Failure { reason: "KafkaUnreachable", message: format!("{error}.") });
            }
        }
        self.producer = None;
        Ok(producer)
    }
}

/// Read again for every connection, so that a rotated Secret needs no restart.
fn read_credentials(config: &BridgeConfig, secrets: &Secrets) -> Result<Option<Credentials>, Failure> {
    if !config.has_credentials {
        return Ok(None);
    }
    let read = |key| {
        secrets.read(SecretPurpose::Mqtt, key).map_err(|error| Failure {
            reason: "SecretInvalid",
            message: format!("{} (spec.mqtt.credentialsSecretRef).", telemetry::chain(&error)),
        })
    };
    Ok(Some(Credentials { username: read("username")?, password: read("password")? }))
}
