//! One session: one MQTT connection, one producer, one window.
//!
//! Everything runs on one task. `drive` polls the connection and sends what arrives to Kafka; `settle_deliveries`
//! takes the delivery reports and queues the acknowledgements that are due; `watch` keeps health and gauges;
//! `stop` ends it all in order. Only `drive` ever waits for the broker, and it is never dropped half-way while the
//! session lasts: a poll that was cut off could have written half of what it took.

mod transfer;
mod watch;

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::worker::BridgeConfig;
use tokio::{sync::Notify, time};

use super::metrics::BridgeMetrics;
use crate::{
    health::{Health, problem},
    run::Context,
    shutdown::Shutdown,
    sink::kafka::{Delivery, Producer},
    source::mqtt::{
        Ack, BROKER_UNREACHABLE, Client, Event, Events, Failure, KEEP_ALIVE_SECONDS,
        subscriptions::Subscriptions, window::Window,
    },
};

/// A full window may stop the reading, and so the keep-alive, for so long.
const FULL_WINDOW_PATIENCE: Duration = Duration::from_secs(KEEP_ALIVE_SECONDS as u64 / 2);

/// How long a stop waits for Kafka.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// How long a stop waits for the broker to take the last acknowledgements and DISCONNECT.
const DISCONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// How a session ended.
pub enum End {
    /// As the worker was asked to.
    Stopped,
    /// Because of this.
    Failed(Failure),
}

/// What the parts of a session share. Borrowed for moments only, never across an `await`.
pub struct Session<'a> {
    parts: Parts<'a>,
    state: RefCell<State<'a>>,
    /// The window has room, or the session stops: told to `drive`, which may wait for it.
    room: Notify,
}

struct Parts<'a> {
    config: &'a BridgeConfig,
    health: &'a Health,
    shutdown: &'a Shutdown,
    metrics: &'a BridgeMetrics,
    client: Client,
    producer: &'a Arc<Producer>,
}

struct State<'a> {
    window: Window<Ack>,
    subscriptions: &'a mut Subscriptions,
    phase: Phase,
    unsettled: usize,
    batch: Vec<Delivery>,
    used: bool,
    lost: bool,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Phase {
    Connecting,
    /// Connected; SUBSCRIBE, if any, was sent then.
    Connected {
        subscribed_at: Instant,
    },
    Stopping,
}

impl<'a> Session<'a> {
    /// A session that has not connected yet.
    pub fn new(
        config: &'a BridgeConfig,
        context: &'a Context,
        metrics: &'a BridgeMetrics,
        client: Client,
        producer: &'a Arc<Producer>,
        subscriptions: &'a mut Subscriptions,
    ) -> Self {
        let state = State {
            window: Window::new(usize::from(config.max_in_flight), config.max_in_flight_bytes),
            subscriptions,
            phase: Phase::Connecting,
            unsettled: 0,
            batch: Vec::new(),
            used: false,
            lost: false,
        };
        let Context { health, shutdown, metrics: _, secrets: _ } = context;
        let parts = Parts { config, health, shutdown, metrics, client, producer };
        Self { parts, state: RefCell::new(state), room: Notify::new() }
    }

    /// Runs to the end of the session; answers also whether its producer was given any record.
    pub async fn run(self, events: &mut Events) -> (End, bool) {
        let end = tokio::select! {
            biased;
            end = self.drive(events) => end,
            failure = self.settle_deliveries() => End::Failed(failure),
            failure = self.watch() => End::Failed(failure),
            () = self.stop() => End::Stopped,
        };
        self.parts.metrics.in_flight.set(0);
        self.parts.metrics.in_flight_bytes.set(0);
        (end, self.state.borrow().used)
    }

    async fn drive(&self, events: &mut Events) -> End {
        loop {
            let handled = match events.poll().await {
                Ok(Event::Disconnected) if self.phase() == Phase::Stopping => return End::Stopped,
                Ok(event) => self.handle(event),
                Err(_) if self.phase() == Phase::Stopping => return End::Stopped,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = handled {
                return End::Failed(failure);
            }
            while self.must_wait() {
                // Not polling is what pushes back, up to the broker, through TCP.
                if time::timeout(FULL_WINDOW_PATIENCE, self.room.notified()).await.is_err() {
                    return End::Failed(kafka_slow(FULL_WINDOW_PATIENCE));
                }
            }
        }
    }

    fn handle(&self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Message(message) => self.take(message),
            Event::Connected { session_present } => {
                tracing::info!(session_present, "Connected to the MQTT broker");
                self.subscribe(session_present)
            }
            Event::Subscribed(answers) => {
                let mut state = self.state.borrow_mut();
                state.subscriptions.answered(answers);
                self.parts.health.set_subscriptions(state.subscriptions.status());
                drop(state);
                self.assess();
                Ok(())
            }
            Event::Disconnected => {
                Err(Failure { reason: BROKER_UNREACHABLE, message: "The MQTT connection ended.".to_owned() })
            }
            Event::Other => Ok(()),
        }
    }

    fn subscribe(&self, session_present: bool) -> Result<(), Failure> {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Stopping {
            state.phase = Phase::Connected { subscribed_at: Instant::now() };
        }
        if let Some(subscriptions) = state.subscriptions.to_make(session_present) {
            self.parts.client.subscribe(subscriptions)?;
        }
        drop(state);
        self.assess();
        Ok(())
    }

    /// Waits for the request to stop; then takes nothing more, waits for Kafka, and has the acknowledgements
    /// that are due and DISCONNECT written by `drive`.
    async fn stop(&self) {
        self.parts.shutdown.clone().requested().await;
        self.parts.health.set_not_ready(problem("Stopping", "The worker was asked to stop."));
        let connected = matches!(self.phase(), Phase::Connected { .. });
        self.state.borrow_mut().phase = Phase::Stopping;
        self.room.notify_one();
        if !connected {
            return;
        }
        let deadline = Instant::now() + FLUSH_PATIENCE;
        while !self.state.borrow().window.is_empty() && Instant::now() < deadline {
            time::sleep(Duration::from_millis(5)).await;
        }
        let unacknowledged = self.state.borrow().window.len();
        if unacknowledged > 0 {
            tracing::warn!(unacknowledged, "Kafka did not take all messages: the MQTT broker keeps them");
        }
        if self.parts.client.disconnect(DISCONNECT_PATIENCE).is_ok() {
            // `drive` ends the session once DISCONNECT is written.
            time::sleep(DISCONNECT_PATIENCE).await;
        }
    }

    fn phase(&self) -> Phase {
        self.state.borrow().phase
    }

    fn must_wait(&self) -> bool {
        let state = self.state.borrow();
        state.window.is_full() && state.phase != Phase::Stopping
    }
}

fn kafka_slow(patience: Duration) -> Failure {
    let message = format!("Kafka has not taken messages for {patience:?}; they wait at the MQTT broker.");
    Failure { reason: "KafkaUnreachable", message }
}
