//! One session: one MQTT connection, one producer, one window.
//!
//! Everything runs on one task. `drive` polls the connection and sends what arrives to Kafka; `settle_deliveries`
//! takes the delivery reports and queues the acknowledgements that are due; `watch` keeps health and gauges;
//! `stop` ends it all in order. Only `drive` ever waits for the broker, and it is never dropped half-way while the
//! session lasts: a poll that was cut off could have written half of what it took.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::worker::BridgeConfig;
use jiff::Timestamp;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::{sync::Notify, time};

use super::metrics::{BridgeMetrics, FailureKind};
use crate::{
    headers::{self, Origin},
    health::{Health, problem},
    key::record_key,
    run::Context,
    shutdown::Shutdown,
    sink::kafka::{Delivery, Producer, Record},
    source::mqtt::{
        Ack, BROKER_UNREACHABLE, Client, Event, Events, Failure, KEEP_ALIVE_SECONDS, Message,
        subscriptions::Subscriptions, window::Window,
    },
};

/// Kafka is taken for gone when a message has waited so long for it.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(10);

/// A full window may stop the reading, and so the keep-alive, for so long.
const FULL_WINDOW_PATIENCE: Duration = Duration::from_secs(KEEP_ALIVE_SECONDS as u64 / 2);

/// How long the broker may take to answer SUBSCRIBE.
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before asking again for what the broker refused.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// How long a stop waits for Kafka.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// How long a stop waits for the broker to take the last acknowledgements and DISCONNECT.
const DISCONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Delivery reports are looked at after so many messages even when more messages are there.
const SETTLE_EVERY: usize = 256;

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

    /// Sends a message to Kafka.
    fn take(&self, message: Message) -> Result<(), Failure> {
        let Message { topic, payload, qos, retained, duplicate, content_type, user_properties, ack } =
            message;
        let mut state = self.state.borrow_mut();
        if state.phase == Phase::Stopping {
            // Not acknowledged: the broker sends it again to the next bridge.
            return Ok(());
        }
        let ingested_at = Timestamp::now();
        let payload_bytes = payload.len() as u64;
        self.parts.metrics.received(qos, payload_bytes, duplicate);
        let sequence = state.window.push(payload_bytes, ingested_at.as_microsecond(), ack);
        let origin = Origin {
            topic: String::from_utf8_lossy(&topic),
            qos,
            retained,
            duplicate,
            ingested_at,
            content_type: content_type.map(Into::into),
            properties: (user_properties.into_iter())
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        };
        let record = Record {
            key: &record_key(&self.parts.config.key, &topic, &payload),
            payload: &payload,
            headers: headers::encode(&origin),
            timestamp_millis: ingested_at.as_millisecond(),
        };
        state.used = true;
        if let Err(error) = self.parts.producer.send(sequence, record) {
            self.give_up(&mut state, sequence, payload_bytes, error)?;
        }
        state.unsettled += 1;
        if state.unsettled >= SETTLE_EVERY {
            self.settle(&mut state)?;
        }
        Ok(())
    }

    /// The producer did not even queue the record.
    fn give_up(
        &self,
        state: &mut State<'_>,
        sequence: usize,
        bytes: u64,
        error: KafkaError,
    ) -> Result<(), Failure> {
        match error.rdkafka_error_code() {
            // No topic that the operator made takes it, now or later. Kept, it would stand in the way for ever.
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                let limit = self.parts.config.max_record_bytes;
                tracing::error!(
                    payload_bytes = bytes,
                    limit,
                    "A message is larger than any record may be: dropped"
                );
                self.parts.metrics.failed(FailureKind::RecordTooLarge);
                state.lost = true;
                state.window.deliver(sequence);
                self.settle(state)
            }
            Some(RDKafkaErrorCode::QueueFull) => {
                self.parts.metrics.failed(FailureKind::QueueFull);
                Err(kafka_slow(Duration::ZERO))
            }
            _ => {
                self.parts.metrics.failed(FailureKind::Refused);
                Err(Failure {
                    reason: "KafkaRefused",
                    message: format!("The Kafka producer does not take records any more: {error}."),
                })
            }
        }
    }

    /// Takes delivery reports as they come.
    async fn settle_deliveries(&self) -> Failure {
        loop {
            self.parts.producer.deliveries().arrived().await;
            if let Err(failure) = self.settle(&mut self.state.borrow_mut()) {
                return failure;
            }
        }
    }

    /// Looks at all delivery reports and queues the acknowledgements that are due.
    fn settle(&self, state: &mut State<'_>) -> Result<(), Failure> {
        let Parts { metrics, client, producer, .. } = &self.parts;
        let State { window, batch, unsettled, .. } = state;
        *unsettled = 0;
        producer.deliveries().take(batch);
        let now = if batch.is_empty() { 0 } else { Timestamp::now().as_microsecond() };
        let mut refused = None;
        for Delivery { sequence, error } in batch.drain(..) {
            match error {
                None => {
                    let Some(received) = window.deliver(sequence) else { continue };
                    metrics.delivered.inc();
                    metrics.delivery_latency.observe((now - received) as f64 / 1e6);
                }
                Some(code) => {
                    metrics.failed(FailureKind::Refused);
                    refused = refused.or(Some(code));
                }
            }
        }
        while let Some(ack) = window.pop_due() {
            if let Some(ack) = ack {
                client.acknowledge(ack)?;
                metrics.acknowledged.inc();
            }
        }
        if !window.is_full() {
            self.room.notify_one();
        }
        // The refused one stays unacknowledged: a new session gets it again, in its order.
        refused.map_or(Ok(()), |code| Err(kafka_refused(code)))
    }

    /// Says once a second how things stand, and ends the session where the broker owes an answer.
    async fn watch(&self) -> Failure {
        let mut ticks = time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.parts.health.turned();
            self.assess();
            if let Err(failure) = self.check_subscriptions() {
                return failure;
            }
            if self.parts.producer.deliveries().all_brokers_down() {
                let producer = Arc::clone(self.parts.producer);
                // A failed question leaves the mark as it is; a successful one removes it.
                let _ = tokio::task::spawn_blocking(move || producer.check_topic()).await;
            }
        }
    }

    fn check_subscriptions(&self) -> Result<(), Failure> {
        let state = self.state.borrow();
        let Phase::Connected { subscribed_at } = state.phase else { return Ok(()) };
        if !state.subscriptions.are_answered() && subscribed_at.elapsed() > SUBSCRIBE_PATIENCE {
            let message = format!("The MQTT broker did not answer SUBSCRIBE within {SUBSCRIBE_PATIENCE:?}.");
            return Err(Failure { reason: BROKER_UNREACHABLE, message });
        }
        let ask_again = state.subscriptions.are_answered()
            && !state.subscriptions.are_granted()
            && subscribed_at.elapsed() > REFUSED_WAIT;
        drop(state);
        if ask_again { self.subscribe(true) } else { Ok(()) }
    }

    /// Works out readiness and the gauges.
    fn assess(&self) {
        let Parts { health, metrics, producer, .. } = &self.parts;
        let state = self.state.borrow();
        metrics.in_flight.set(i64::try_from(state.window.len()).unwrap_or(i64::MAX));
        metrics.in_flight_bytes.set(i64::try_from(state.window.bytes()).unwrap_or(i64::MAX));
        if !matches!(state.phase, Phase::Connected { .. }) || !state.subscriptions.are_answered() {
            return;
        }
        let patience = i64::try_from(DELIVERY_PATIENCE.as_micros()).unwrap_or(i64::MAX);
        let oldest = state.window.oldest_micros();
        let late = oldest.is_some_and(|oldest| Timestamp::now().as_microsecond() - oldest > patience);
        let trouble = state.subscriptions.problem();
        if !state.subscriptions.are_granted() {
            health.set_not_ready(trouble.unwrap_or_else(|| problem("Starting", "Subscribing.")));
        } else if producer.deliveries().all_brokers_down() || late {
            let Failure { reason, message } = kafka_slow(DELIVERY_PATIENCE);
            health.set_not_ready(problem(reason, message));
        } else if state.lost {
            health.set_ready_with_problem(problem(
                "RecordTooLarge",
                "A message was larger than any record may be, and was dropped: see the log.",
            ));
        } else if let Some(trouble) = trouble {
            health.set_ready_with_problem(trouble);
        } else {
            health.set_ready();
        }
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

fn kafka_refused(code: RDKafkaErrorCode) -> Failure {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge => Failure {
            reason: "RecordTooLarge",
            message:
                "Kafka refused a record as too large: the topic's max.message.bytes is smaller than the \
                      operator set it."
                    .to_owned(),
        },
        code => Failure { reason: "KafkaRefused", message: format!("Kafka refused a record: {code}.") },
    }
}
