//! The metrics of the bridge: `iotpipeline_bridge_*`.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// From 1 ms to 30 s.
const LATENCY_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Why a message did not get to Kafka at the first attempt.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub enum FailureKind {
    /// The record is larger than the topic takes: a stub stands for the message.
    RecordTooLarge,
    /// Kafka refused the record; the broker sends the message again.
    Refused,
    /// The producer's queue had no room; the broker sends the message again.
    QueueFull,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct QosLabel {
    qos: u8,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct KindLabel {
    kind: FailureKind,
}

/// All of them.
pub struct BridgeMetrics {
    received: [Counter; 3],
    /// Payload bytes received.
    pub received_bytes: Counter,
    /// Messages that the broker marked as sent before.
    pub redelivered: Counter,
    /// Messages that Kafka has.
    pub delivered: Counter,
    /// Messages put into the spool.
    pub spooled: Counter,
    /// Messages in the spool.
    pub spool_messages: Gauge,
    /// What they take, bytes.
    pub spool_bytes: Gauge,
    /// Messages acknowledged to the broker.
    pub acknowledged: Counter,
    /// Messages not yet acknowledged.
    pub in_flight: Gauge,
    /// Their payloads, bytes.
    pub in_flight_bytes: Gauge,
    /// Sessions that failed or could not be made.
    pub reconnects: Counter,
    /// From the arrival of a message to Kafka's delivery report, seconds.
    pub delivery_latency: Histogram,
    failures: Family<KindLabel, Counter>,
}

impl BridgeMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("bridge");
        let received = Family::<QosLabel, Counter>::default();
        let metrics = Self {
            // Looked up once, not for each message.
            received: [0, 1, 2].map(|qos| received.get_or_create_owned(&QosLabel { qos })),
            received_bytes: Counter::default(),
            redelivered: Counter::default(),
            delivered: Counter::default(),
            spooled: Counter::default(),
            spool_messages: Gauge::default(),
            spool_bytes: Gauge::default(),
            acknowledged: Counter::default(),
            in_flight: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            reconnects: Counter::default(),
            delivery_latency: Histogram::new(LATENCY_SECONDS),
            failures: Family::default(),
        };
        registry.register("messages_received", "MQTT messages received, by QoS", received);
        let bytes = metrics.received_bytes.clone();
        registry.register_with_unit("received", "Payloads received", Unit::Bytes, bytes);
        let redelivered = metrics.redelivered.clone();
        registry.register("messages_redelivered", "MQTT messages marked as delivered before", redelivered);
        registry.register("messages_delivered", "Messages that Kafka has", metrics.delivered.clone());
        registry.register("messages_spooled", "Messages put into the spool", metrics.spooled.clone());
        let spool_messages = metrics.spool_messages.clone();
        registry.register("spool_messages", "Messages in the spool", spool_messages);
        let spool_bytes = metrics.spool_bytes.clone();
        registry.register_with_unit("spool", "What they take", Unit::Bytes, spool_bytes);
        let acknowledged = metrics.acknowledged.clone();
        registry.register("messages_acknowledged", "Messages acknowledged to the MQTT broker", acknowledged);
        registry.register("in_flight", "Messages not yet acknowledged", metrics.in_flight.clone());
        let in_flight_bytes = metrics.in_flight_bytes.clone();
        registry.register_with_unit(
            "in_flight",
            "Payloads not yet acknowledged",
            Unit::Bytes,
            in_flight_bytes,
        );
        registry.register(
            "reconnects",
            "Sessions that failed or could not be made",
            metrics.reconnects.clone(),
        );
        let latency = metrics.delivery_latency.clone();
        registry.register_with_unit(
            "delivery",
            "From arrival to Kafka's delivery report",
            Unit::Seconds,
            latency,
        );
        let failures = metrics.failures.clone();
        registry.register("produce_failures", "Messages that Kafka did not take, by kind", failures);
        metrics
    }

    /// What counts the messages that arrive.
    pub fn received_counters(&self) -> Vec<Counter> {
        self.received.to_vec()
    }

    /// A message arrived.
    pub fn received(&self, qos: u8, payload_bytes: u64, duplicate: bool) {
        if let Some(counter) = self.received.get(usize::from(qos)) {
            counter.inc();
        }
        self.received_bytes.inc_by(payload_bytes);
        if duplicate {
            self.redelivered.inc();
        }
    }

    /// Kafka did not take a message.
    pub fn failed(&self, kind: FailureKind) {
        self.failures.get_or_create(&KindLabel { kind }).inc();
    }
}

#[cfg(test)]
mod tests {
    use crds::worker::Component;

    use super::*;
    use crate::{
        health::Health,
        telemetry::{Metrics, document},
    };

    #[test]
    fn the_status_tells_how_many_messages_came_whatever_their_qos() {
        let health = Health::new(Component::Bridge);
        assert_eq!(health.status().received, None);
        let metrics = Metrics::default().register(BridgeMetrics::register);
        health.set_received(metrics.received_counters());
        assert_eq!(health.status().received, Some(0));
        for qos in [0, 1, 1, 2] {
            metrics.received(qos, 10, false);
        }
        assert_eq!(health.status().received, Some(4));
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_one_exists() {
        let registry = Metrics::default();
        // Without a value a metric with labels is not encoded.
        registry.register(BridgeMetrics::register).failed(FailureKind::Refused);
        assert_eq!(document::encoded(&registry.encode().unwrap()), document::documented("Bridge"));
    }
}
