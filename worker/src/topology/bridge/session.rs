//! One session: one MQTT connection, one outlet, one window.
//!
//! Everything runs on one task. `drive` polls the connection and sends what arrives to the outlet; `settle_deliveries`
//! takes the delivery reports and queues the acknowledgements that are due; `watch` keeps health and gauges;
//! `leave` ends it all in order. Only `drive` ever waits for the broker, and it is never dropped half-way while the
//! session lasts: a poll that was cut off could have written half of what it took.

mod leave;
mod transfer;
mod watch;

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::worker::{BridgeConfig, KafkaConfig, SpoolStatus};
use tokio::{sync::Notify, time};

use super::{
    Bridge,
    metrics::BridgeMetrics,
    outlet::{Outlet, kafka_away},
};
use crate::{
    health::Health,
    run::Context,
    secrets::Secrets,
    shutdown::Shutdown,
    sink::kafka::Delivery,
    source::mqtt::{
        Ack, BROKER_UNREACHABLE, Client, Event, Events, Failure, KEEP_ALIVE_SECONDS,
        subscriptions::Subscriptions, window::Window,
    },
    spool::Spool,
};

/// A full window may stop the reading, and so the keep-alive, for so long.
const FULL_WINDOW_PATIENCE: Duration = Duration::from_secs(KEEP_ALIVE_SECONDS as u64 / 2);

/// What became of a session.
pub struct Course {
    /// How it ended.
    pub end: End,
    /// Whether its producer was given any record.
    pub used: bool,
    /// Whether the broker took the connection.
    pub connected: bool,
}

/// How a session ended.
pub enum End {
    /// In order.
    Left(Leaving),
    /// Because of this.
    Failed(Failure),
}

/// Why a session ends in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leaving {
    /// The worker was asked to stop.
    Stop,
    /// Kafka is to be reached in another way from now on; or the session is not as empty as it seemed.
    Renew,
    /// The pipeline goes, and the broker's session holds nothing more.
    Drained,
}

/// What the parts of a session share. Borrowed for moments only, never across an `await`.
pub struct Session<'a> {
    parts: Parts<'a>,
    state: RefCell<State<'a>>,
    /// The window has room, or the session ends: told to `drive`, which may wait for it.
    room: Notify,
}

struct Parts<'a> {
    kafka: &'a KafkaConfig,
    config: &'a BridgeConfig,
    health: &'a Health,
    shutdown: &'a Shutdown,
    secrets: &'a Secrets,
    metrics: &'a BridgeMetrics,
    client: Client,
    outlet: &'a Outlet,
    /// Where messages may go while Kafka is away.
    spool: Option<&'a Arc<Spool>>,
}

impl Parts<'_> {
    /// Says how full the spool is.
    fn say_level(&self, level: SpoolStatus) {
        self.metrics.spool_messages.set(i64::try_from(level.messages).unwrap_or(i64::MAX));
        self.metrics.spool_bytes.set(i64::try_from(level.bytes).unwrap_or(i64::MAX));
        self.health.set_spool(level);
    }
}

struct State<'a> {
    window: Window<Ack>,
    subscriptions: &'a mut Subscriptions,
    phase: Phase,
    unsettled: usize,
    batch: Vec<Delivery>,
    used: bool,
    connected: bool,
    /// Whether a stub stands for a message in Kafka.
    stubbed: bool,
    /// Whether a message came too late to be passed on.
    turned_away: bool,
    /// When a message, or an answer of the broker, came last.
    last_arrival: Instant,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Phase {
    Connecting,
    /// Connected; SUBSCRIBE, if any, was sent then.
    Connected {
        subscribed_at: Instant,
    },
    Leaving(Leaving),
}

impl<'a> Session<'a> {
    /// A session that has not connected yet.
    pub fn new(
        bridge: &'a Bridge,
        client: Client,
        outlet: &'a Outlet,
        subscriptions: &'a mut Subscriptions,
    ) -> Self {
        let Bridge { kafka, config, context, metrics, spool, .. } = bridge;
        let state = State {
            window: Window::new(usize::from(config.max_in_flight), config.max_in_flight_bytes),
            subscriptions,
            phase: Phase::Connecting,
            unsettled: 0,
            batch: Vec::new(),
            used: false,
            connected: false,
            stubbed: false,
            turned_away: false,
            last_arrival: Instant::now(),
        };
        let Context { health, shutdown, secrets, .. } = context;
        let parts = Parts {
            kafka,
            config,
            health,
            shutdown,
            secrets,
            metrics,
            client,
            outlet,
            spool: spool.as_ref(),
        };
        Self { parts, state: RefCell::new(state), room: Notify::new() }
    }

    /// Runs to the end of the session.
    pub async fn run(self, events: &mut Events) -> Course {
        let end = tokio::select! {
            biased;
            end = self.drive(events) => end,
            failure = self.settle_deliveries() => End::Failed(failure),
            failure = self.watch() => End::Failed(failure),
            leaving = self.leave() => End::Left(leaving),
        };
        self.parts.metrics.in_flight.set(0);
        self.parts.metrics.in_flight_bytes.set(0);
        self.say_retirement(0);
        let state = self.state.borrow();
        let end = match end {
            // What came after all is still at the broker.
            End::Left(Leaving::Drained) if state.turned_away => End::Left(Leaving::Renew),
            end => end,
        };
        Course { end, used: state.used, connected: state.connected }
    }

    async fn drive(&self, events: &mut Events) -> End {
        loop {
            let handled = match (events.poll().await, self.phase()) {
                (Ok(Event::Disconnected) | Err(_), Phase::Leaving(leaving)) => return End::Left(leaving),
                (Ok(event), _) => self.handle(event),
                (Err(failure), _) => Err(failure),
            };
            if let Err(failure) = handled {
                return End::Failed(failure);
            }
            while self.must_wait() {
                // Not polling is what pushes back, up to the broker, through TCP.
                if time::timeout(FULL_WINDOW_PATIENCE, self.room.notified()).await.is_err() {
                    return End::Failed(self.slow());
                }
            }
        }
    }

    fn handle(&self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Message(message) => self.take(message),
            Event::Connected { session_present, lacks_shared } => {
                tracing::info!(session_present, "Connected to the MQTT broker");
                self.state.borrow_mut().connected = true;
                let BridgeConfig { shared, retire, .. } = self.parts.config;
                if lacks_shared && shared.is_some() && !retire {
                    return Err(Failure::shared_unsupported());
                }
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
            Event::Unsubscribed(answer) => {
                let mut state = self.state.borrow_mut();
                state.last_arrival = Instant::now();
                state.subscriptions.ended(answer);
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
        if !matches!(state.phase, Phase::Leaving(_)) {
            state.phase = Phase::Connected { subscribed_at: Instant::now() };
        }
        state.last_arrival = Instant::now();
        // In this order: what both cover may come twice for a moment, and never not at all.
        if let Some(subscriptions) = state.subscriptions.to_make(session_present) {
            self.parts.client.subscribe(subscriptions)?;
        }
        if let Some(filters) = state.subscriptions.to_end(session_present) {
            self.parts.client.unsubscribe(filters)?;
        }
        drop(state);
        self.assess();
        Ok(())
    }

    fn phase(&self) -> Phase {
        self.state.borrow().phase
    }

    fn must_wait(&self) -> bool {
        let state = self.state.borrow();
        state.window.is_full() && !matches!(state.phase, Phase::Leaving(_))
    }

    /// Nothing downstream takes messages, and why, where that is known.
    fn slow(&self) -> Failure {
        let Parts { kafka, outlet, .. } = &self.parts;
        if let Some(spooling) = outlet.spooling() {
            return spooling.failure();
        }
        let Failure { reason, message } = kafka_away(kafka, outlet.deliveries());
        Failure { reason, message: format!("{message} Messages wait at the MQTT broker.") }
    }
}
