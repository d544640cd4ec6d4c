//! Messages to Kafka, and the acknowledgements that follow from its delivery reports.

use std::time::Instant;

use crds::names::{MAX_STUB_PAYLOAD_BYTES, RECORD_FIXED_BYTES};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{Parts, Phase, Session, State};
use crate::{
    clock,
    failpoint::{self, Point},
    headers::{self, Origin},
    key::record_key,
    sink::kafka::{Delivery, OwnedRecord, Record, stub_of},
    source::mqtt::{Failure, Message},
    topology::bridge::{metrics::FailureKind, outlet},
};

/// Delivery reports are looked at after so many messages even when more messages are there.
const SETTLE_EVERY: usize = 256;

impl Session<'_> {
    /// Sends a message to Kafka.
    pub(super) fn take(&self, message: Message) -> Result<(), Failure> {
        let Message { topic, payload, qos, retained, duplicate, content_type, user_properties, ack } =
            message;
        let mut state = self.state.borrow_mut();
        if matches!(state.phase, Phase::Leaving(_)) {
            // Not acknowledged: the broker sends it again to the next session.
            state.turned_away = true;
            return Ok(());
        }
        let arrived = Instant::now();
        state.last_arrival = arrived;
        let ingested_at = clock::now();
        let payload_bytes = payload.len() as u64;
        self.parts.metrics.received(qos, payload_bytes, duplicate);
        let sequence = state.window.push(payload_bytes, arrived, ack);
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
            stub: None,
        };
        let key = record_key(&self.parts.config.key, &topic, &payload);
        let content_type_bytes = origin.content_type.as_ref().map_or(0, |content_type| content_type.len());
        let taken = key.len() + topic.len() + content_type_bytes + RECORD_FIXED_BYTES;
        let room = (self.parts.config.max_record_bytes as usize).saturating_sub(taken);
        let record = Record {
            key: &key,
            payload: &payload,
            headers: headers::encode(&origin, room.saturating_sub(payload.len().min(MAX_STUB_PAYLOAD_BYTES))),
            timestamp_millis: ingested_at.as_millisecond(),
        };
        state.used = true;
        if payload.len() > room {
            self.send_stub(&mut state, sequence, &stub_of(record, room))?;
        } else {
            self.send(sequence, record)?;
        }
        state.unsettled += 1;
        if state.unsettled >= SETTLE_EVERY {
            self.settle(&mut state)?;
        }
        Ok(())
    }

    fn send(&self, sequence: usize, record: Record<'_>) -> Result<(), Failure> {
        self.parts.outlet.send(sequence, record).map_err(|error| self.not_queued(&error))
    }

    /// Sends what stands for a message that no record can hold. The message itself would stand in the way for ever.
    fn send_stub(&self, state: &mut State<'_>, sequence: usize, stub: &OwnedRecord) -> Result<(), Failure> {
        tracing::error!("A message is larger than a record of the topic may be: a stub stands for it");
        self.parts.metrics.failed(FailureKind::RecordTooLarge);
        state.stubbed = true;
        self.send(sequence, stub.record())
    }

    /// The producer did not even queue the record.
    fn not_queued(&self, error: &KafkaError) -> Failure {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if code == RDKafkaErrorCode::QueueFull {
            self.parts.metrics.failed(FailureKind::QueueFull);
            let message = "The Kafka producer's queue is full.".to_owned();
            return Failure { reason: "KafkaUnreachable", message };
        }
        self.parts.metrics.failed(FailureKind::Refused);
        self.kafka_refused(code)
    }

    /// Takes delivery reports as they come.
    pub(super) async fn settle_deliveries(&self) -> Failure {
        loop {
            self.parts.outlet.deliveries().arrived().await;
            if let Err(failure) = self.settle(&mut self.state.borrow_mut()) {
                return failure;
            }
        }
    }

    /// Looks at all delivery reports and queues the acknowledgements that are due.
    fn settle(&self, state: &mut State<'_>) -> Result<(), Failure> {
        let Parts { metrics, client, outlet, .. } = &self.parts;
        let State { window, batch, unsettled, .. } = &mut *state;
        *unsettled = 0;
        outlet.deliveries().take(batch);
        let now = Instant::now();
        let mut refused = None;
        let mut stubs = Vec::new();
        for Delivery { sequence, error, stub } in batch.drain(..) {
            if let Some(stub) = stub {
                stubs.push((sequence, stub));
                continue;
            }
            match error {
                None => {
                    let Some(arrived) = window.deliver(sequence) else { continue };
                    if outlet.spooling().is_some() {
                        metrics.spooled.inc();
                    } else {
                        metrics.delivered.inc();
                        metrics.delivery_latency.observe((now - arrived).as_secs_f64());
                    }
                }
                Some(code) => {
                    metrics.failed(FailureKind::Refused);
                    refused = refused.or(Some(code));
                }
            }
        }
        for (sequence, stub) in stubs {
            self.send_stub(state, sequence, &stub)?;
        }
        while let Some(ack) = state.window.pop_due() {
            if let Some(ack) = ack {
                failpoint::reach(Point::BeforePuback);
                client.acknowledge(ack)?;
                metrics.acknowledged.inc();
            }
        }
        if !state.window.is_full() {
            self.room.notify_one();
        }
        // The refused one stays unacknowledged: a new session gets it again, in its order.
        refused.map_or(Ok(()), |code| Err(self.kafka_refused(code)))
    }

    fn kafka_refused(&self, code: RDKafkaErrorCode) -> Failure {
        let fatal = self.parts.outlet.producer().and_then(|producer| producer.fatal_error());
        outlet::refused(&self.parts.kafka.topic, fatal.unwrap_or(code))
    }
}
