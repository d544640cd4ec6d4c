//! Messages to Kafka, and the acknowledgements that follow from its delivery reports.

use crds::names::RECORD_FIXED_BYTES;
use jiff::Timestamp;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{Parts, Phase, Session, State};
use crate::{
    headers::{self, Origin},
    key::record_key,
    sink::kafka::{Delivery, Record},
    source::mqtt::{Failure, Message},
    topology::bridge::metrics::FailureKind,
};

/// Delivery reports are looked at after so many messages even when more messages are there.
const SETTLE_EVERY: usize = 256;

impl Session<'_> {
    /// Sends a message to Kafka.
    pub(super) fn take(&self, message: Message) -> Result<(), Failure> {
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
            stub: None,
        };
        let key = record_key(&self.parts.config.key, &topic, &payload);
        let content_type_bytes = origin.content_type.as_ref().map_or(0, |content_type| content_type.len());
        let taken = payload.len() + key.len() + topic.len() + content_type_bytes + RECORD_FIXED_BYTES;
        let properties_room = (self.parts.config.max_record_bytes as usize).saturating_sub(taken);
        let record = Record {
            key: &key,
            payload: &payload,
            headers: headers::encode(&origin, properties_room),
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
                Err(Failure {
                    reason: "KafkaUnreachable",
                    message: "The Kafka producer's queue is full.".to_owned(),
                })
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
    pub(super) async fn settle_deliveries(&self) -> Failure {
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
