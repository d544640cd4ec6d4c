//! The bridge: MQTT → Kafka, nothing lost. Here: one session after another; `session` is one of them.
//!
//! A session is one MQTT connection, one outlet (Kafka's producer, or the spool) and one window, and ends whole. What it
//! has not acknowledged by then the broker sends again to the next one. So a session changes its outlet by ending.

mod drain;
mod metrics;
mod outlet;
mod retirement;
mod session;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::BackoffBuilder;
use crds::{
    names::SecretPurpose,
    worker::{BridgeConfig, KafkaConfig, Retirement},
};

use self::{
    drain::Drain,
    metrics::BridgeMetrics,
    outlet::{RECORD_TOO_LARGE, SPOOL_FAILED},
    session::{Course, End, Leaving, Session},
};
use crate::{
    health::problem,
    run::Context,
    secrets::Secrets,
    sink::kafka::Producer,
    source::mqtt::{
        self, Credentials, Failure, Login, SECRET_INVALID, SESSION_TAKEN_OVER, SessionUse,
        subscriptions::Subscriptions,
    },
    spool::Spool,
    telemetry,
};

/// The shortest and the longest wait between two attempts. The longest is well below the liveness limit.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));

/// A session that lasted so long starts the waits anew.
const SETTLED: Duration = Duration::from_secs(30);

/// Two bridges with one client id take the session from each other: this slows them down.
const TAKEN_OVER_WAIT: Duration = Duration::from_secs(10);

/// How much the producer sends at once where the topic takes it, bytes: librdkafka's own default.
const BATCH_BYTES: usize = 1_000_000;

/// Bridges until `context.shutdown` is requested.
pub async fn run(kafka: KafkaConfig, config: BridgeConfig, context: Context) {
    let metrics = Arc::new(context.metrics.register(BridgeMetrics::register));
    let mut subscriptions = retirement::subscriptions(&config);
    context.health.set_subscriptions(subscriptions.status());
    context.health.set_received(metrics.received_counters());
    if config.retire {
        context.health.set_retirement(Retirement { ended: false, passed_on: 0, in_flight: 0 });
    }
    let mut bridge = Bridge {
        kafka,
        config,
        context,
        metrics,
        producer: None,
        batch_bytes: BATCH_BYTES,
        spool: None,
        kafka_is_away: false,
        drain: None,
        absent_since: Instant::now(),
    };
    let mut waits = waits();
    while !bridge.context.shutdown.is_requested() {
        let started = Instant::now();
        let failure = match bridge.run_session(&mut subscriptions).await {
            Ok(Leaving::Stop) => break,
            Ok(Leaving::Renew) => continue,
            Ok(Leaving::Drained) => return bridge.end_session().await,
            Err(failure) if bridge.session_has_expired(&failure) => return bridge.give_session_up().await,
            Err(failure) => failure,
        };
        if started.elapsed() > SETTLED {
            waits = self::waits();
        }
        let mut wait = waits.next().unwrap_or(BACKOFF.1);
        if failure.reason == SESSION_TAKEN_OVER {
            wait = wait.max(TAKEN_OVER_WAIT);
        }
        if failure.reason == RECORD_TOO_LARGE && bridge.batch_bytes > 1 {
            // Until each record that the topic cannot take is sent alone, and so found.
            bridge.batch_bytes /= 2;
            wait = BACKOFF.0;
        }
        if failure.reason == SPOOL_FAILED {
            bridge.close_spool();
        }
        bridge.wait_after(failure, wait).await;
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
    metrics: Arc<BridgeMetrics>,
    /// A producer that has not sent anything yet.
    producer: Option<Arc<Producer>>,
    batch_bytes: usize,
    /// Open once it is needed.
    spool: Option<Arc<Spool>>,
    /// Whether Kafka did not take messages lately: they go to the spool then, if there is one.
    kafka_is_away: bool,
    /// Empties the spool.
    drain: Option<Drain>,
    /// When it was connected to the broker last, or began.
    absent_since: Instant,
}

impl Bridge {
    /// Tells a failure and waits before the next attempt.
    async fn wait_after(&mut self, failure: Failure, wait: Duration) {
        self.context.health.set_not_ready(problem(failure.reason, failure.message));
        self.context.health.turned();
        self.metrics.reconnects.inc();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.context.shutdown.requested() => {}
        }
    }

    /// One session, from connecting to its end. `Ok` when it ended in order.
    async fn run_session(&mut self, subscriptions: &mut Subscriptions) -> Result<Leaving, Failure> {
        let mut shutdown = self.context.shutdown.clone();
        let outlet = tokio::select! {
            outlet = self.choose_outlet() => outlet?,
            () = shutdown.requested() => return Ok(Leaving::Stop),
        };
        let login = read_login(&self.config, &self.context.secrets)?;
        let (client, mut events) = mqtt::connect(&self.config, login, SessionUse::Keep)?;
        let session = Session::new(self, client, &outlet, subscriptions);
        let Course { end, used, connected } = session.run(&mut events).await;
        if connected {
            self.absent_since = Instant::now();
        }
        self.put_away(outlet, used, &end).await;
        match end {
            End::Left(leaving) => Ok(leaving),
            End::Failed(failure) => Err(failure),
        }
    }
}

/// Read again for every connection, so that a rotated Secret needs no restart.
fn read_login(config: &BridgeConfig, secrets: &Secrets) -> Result<Login, Failure> {
    let invalid = |field: &'static str| {
        move |error| Failure {
            reason: SECRET_INVALID,
            message: format!("{} ({field}).", telemetry::chain(&error)),
        }
    };
    let read =
        |key| secrets.read(SecretPurpose::Mqtt, key).map_err(invalid("spec.mqtt.credentialsSecretRef"));
    let credentials = if config.has_credentials {
        Some(Credentials { username: read("username")?, password: read("password")? })
    } else {
        None
    };
    let tls = secrets
        .tls(config.tls, SecretPurpose::MqttCa, SecretPurpose::MqttClient)
        .map_err(invalid("spec.mqtt.tls"))?;
    Ok(Login { credentials, tls })
}
