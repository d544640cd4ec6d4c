//! `spec.mqtt`: the broker and what to take from it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secrets::{CaSecretRef, SecretRef};
use crate::units::{ByteSizeText, DurationText};

/// The MQTT broker and what to take from it.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.tls) || self.url.startsWith('mqtts://') || self.url.startsWith('wss://')")
        .message("tls needs a url that begins with mqtts:// or wss://")
        .field_path(".tls"),
    validation = Rule::new("self.session != 'Shared' || self.protocolVersion == 'V5'")
        .message("session Shared needs protocolVersion V5; an MQTT 3.1.1 broker that has no shared subscriptions cannot say so, and would send nothing")
        .field_path(".session"),
    validation = Rule::new("self.session != 'Shared' || !has(self.spool)")
        .message("session Shared and spool exclude each other: a bridge that leaves would leave a volume; use a Single session, or let messages wait at the broker")
        .field_path(".spool"),
)]
pub struct MqttSpec {
    /// `mqtt://host:port` (port 1883 by default), `mqtts://` (8883), `ws://host:port/path` (80) or `wss://` (443).
    /// A host without a dot is a Service in this namespace.
    #[schemars(
        length(max = 300),
        regex(
            pattern = r"^(mqtts?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?|wss?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?)$"
        )
    )]
    pub url: String,
    /// The version of MQTT: V5 (default) or V3_1_1.
    #[serde(default)]
    pub protocol_version: ProtocolVersion,
    /// The client id, under which the broker keeps the session; default `<clusterName>-<namespace>-<name>`. No other
    /// client may have it: each would end the other's session. With a Shared session it is the first bridge's and the name
    /// of the group, and the others add `_1`, `_2` and so on to it. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_.:-]+$"))]
    pub client_id: Option<String>,
    /// The topic filters to subscribe to. One that leaves the list is unsubscribed.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.filter == a.filter))")
        .message("each filter may be listed once"))]
    pub subscriptions: Vec<SubscriptionSpec>,
    /// How bridges have the subscriptions. Single (default): one bridge, which keeps the order of messages. Shared: each message
    /// goes to one of `bridge.replicas`, and messages of one device may overtake each other. Needs V5 and a broker with shared
    /// subscriptions, and allows no `spool`.
    #[serde(default)]
    pub session: Session,
    /// How long the broker keeps the session, with its queued messages, while the bridge is away; default 24h.
    /// MQTT 3.1.1 cannot say it: there the broker's own setting counts.
    #[serde(default = "default_session_expiry")]
    pub session_expiry: DurationText,
    /// The largest MQTT packet to accept; default 1Mi. The topic's `max.message.bytes` follows it.
    #[serde(default = "default_max_packet_size")]
    pub max_packet_size: ByteSizeText,
    /// The largest number of messages that are not yet acknowledged; default 1000.
    #[serde(default = "default_max_in_flight")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_in_flight: i32,
    /// The largest sum of their bytes; default 16Mi. Together the bound on the bridge's memory.
    #[serde(default = "default_max_in_flight_bytes")]
    pub max_in_flight_bytes: ByteSizeText,
    /// A Secret of this namespace with the keys `username` and `password`; without it the bridge gives no user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Certificates, for `mqtts://` and `wss://`. The server's certificate is always verified and must name the host;
    /// without this block the authorities that the system trusts decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<MqttTlsSpec>,
    /// A volume on which the bridge keeps messages while Kafka is away; without it they wait at the broker. May grow,
    /// never shrink. One that leaves the spec is emptied before it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolSpec>,
}

/// The volume of the bridge's spool.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpoolSpec {
    /// Its size, at least 16Mi and 32 times `maxPacketSize`; messages may take a quarter of it.
    pub size: ByteSizeText,
    /// Its storage class; default the cluster's. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// Certificates of the connection to the MQTT broker.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MqttTlsSpec {
    /// The certificate authorities that the server's certificate may come from; default those that the system
    /// trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// The client certificate: a Secret with `tls.crt` and `tls.key` (cert-manager), or `user.crt` and `user.key`
    /// (Strimzi).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretRef>,
    /// Protocols to offer by ALPN, such as `mqtt` or AWS IoT Core's `x-amzn-mqtt-ca`; default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 64), regex(pattern = r"^[!-~]+$")))]
    pub alpn: Vec<String>,
}

/// One topic filter.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubscriptionSpec {
    /// The topic filter, such as `plants/+/lines/+/telemetry`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('$share/')")
        .message("a shared subscription is not written into the filter"))]
    #[x_kube(validation = Rule::new("self.matches('^([^+#]*|[+])(/([^+#]*|[+]))*(/#)?$') || self == '#'")
        .message("+ and # must stand alone in a topic level, and # must be the last one"))]
    pub filter: String,
    /// The highest QoS at which the broker shall deliver: 0, 1 (default) or 2. QoS 0 is best effort: what is on its way
    /// when a connection ends is gone.
    #[serde(default = "default_qos")]
    #[schemars(range(min = 0, max = 2))]
    pub qos: i32,
}

/// The version of MQTT to speak.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ProtocolVersion {
    /// MQTT 5.
    #[default]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "V3_1_1")]
    V311,
}

/// How bridges share the subscriptions.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Session {
    /// One bridge with one session: messages stay in order.
    #[default]
    Single,
    /// Any number of bridges with a session each, on one shared subscription (`$share`): the broker gives each message to one of
    /// them, so order is kept within a bridge only.
    Shared,
}

fn default_session_expiry() -> DurationText {
    "24h".into()
}

fn default_max_packet_size() -> ByteSizeText {
    "1Mi".into()
}

fn default_max_in_flight() -> i32 {
    1000
}

fn default_max_in_flight_bytes() -> ByteSizeText {
    "16Mi".into()
}

fn default_qos() -> i32 {
    1
}
