//! What the operator tells a bridge.

use serde::{Deserialize, Serialize};

use super::TlsConfig;
use crate::names;

/// MQTT to Kafka.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgeConfig {
    /// Host name or address of the MQTT broker.
    pub host: String,
    /// TCP port of the MQTT broker.
    pub port: u16,
    /// What MQTT is spoken over.
    pub transport: MqttTransport,
    /// Certificates, for the two encrypted transports.
    pub tls: TlsConfig,
    /// Protocols to offer by ALPN.
    pub alpn: Vec<String>,
    /// MQTT 5 or 3.1.1.
    pub protocol_version: crate::pipeline::ProtocolVersion,
    /// The client id, which names the session at the broker.
    pub client_id: String,
    /// What to subscribe to.
    pub subscriptions: Vec<Subscription>,
    /// Filters that earlier configurations subscribed to and this one does not: to be unsubscribed, because the
    /// broker's session still holds them.
    pub unsubscribe: Vec<String>,
    /// Whether the bridge goes for good: unsubscribe from everything, pass on what the session still holds, end it.
    pub retire: bool,
    /// How long the broker keeps the session of an absent bridge, seconds (MQTT 5 only).
    pub session_expiry_seconds: u32,
    /// The largest MQTT packet to accept, bytes.
    pub max_packet_size_bytes: u32,
    /// The largest number of messages that are not yet acknowledged.
    pub max_in_flight: u16,
    /// The largest sum of the payloads of messages that are not yet acknowledged, bytes.
    pub max_in_flight_bytes: u64,
    /// Whether `username` and `password` are mounted.
    pub has_credentials: bool,
    /// What becomes the key of the Kafka record.
    pub key: KeyConfig,
    /// The largest Kafka record the producer may send, bytes; the topic's `max.message.bytes` is as large.
    pub max_record_bytes: u32,
    /// The durable queue for times without Kafka, mounted at [`crate::names::SPOOL_DIR`].
    pub spool: Option<SpoolConfig>,
    /// Where several bridges share the subscriptions: what each makes of its ordinal. The filters name their group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedConfig>,
}

/// What bridges that share their subscriptions make of their ordinals.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharedConfig {
    /// Bridges with this ordinal or a higher one leave: each retires, while the others go on.
    pub retire_from: Option<u32>,
}

impl BridgeConfig {
    /// Shares the subscriptions with other bridges; `retire_from` is the ordinal of the first one that leaves.
    pub fn share(&mut self, retire_from: Option<u32>) {
        if self.shared.replace(SharedConfig { retire_from }).is_none() {
            for subscription in &mut self.subscriptions {
                subscription.filter = names::shared_filter(&self.client_id, &subscription.filter);
            }
        }
    }

    /// What the bridge with this ordinal is told.
    pub fn of_ordinal(mut self, ordinal: u32) -> Self {
        if let Some(SharedConfig { retire_from }) = self.shared {
            self.client_id = names::bridge_client_id(&self.client_id, ordinal);
            self.retire |= retire_from.is_some_and(|from| ordinal >= from);
        }
        self
    }
}

/// The bridge's durable queue.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpoolConfig {
    /// The size of its volume, bytes.
    pub volume_bytes: u64,
    /// Whether it left the spec: it is emptied and takes nothing more.
    pub closing: bool,
}

/// What MQTT is spoken over.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MqttTransport {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket, with the path of its URL.
    WebSocket(String),
    /// WebSocket over TLS, with the path of its URL.
    SecureWebSocket(String),
}

/// One MQTT subscription.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subscription {
    /// The topic filter, which may hold `+` and `#`.
    pub filter: String,
    /// The highest QoS at which the broker shall deliver: 0, 1 or 2.
    pub qos: u8,
}

/// What becomes the key of the Kafka record, which decides partition and order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyConfig {
    /// The MQTT topic.
    Topic,
    /// One level of the MQTT topic, counted from 0; the whole topic where it has fewer.
    TopicLevel(u32),
    /// A field of the JSON payload, by its path (`["device", "id"]`); the MQTT topic where there is none.
    Field(Vec<String>),
}
