//! MQTT as a source: one connection to the broker under a persistent session, in MQTT 5 or 3.1.1.
//!
//! A connection is made, used and dropped whole: the next one has a client, an event loop and a window of its
//! own. So an acknowledgement can only reach the connection on which its message came.

mod connection;
mod corked;
pub mod subscriptions;
mod tls;
mod transport;
mod v311;
mod v5;
mod v5_session;
pub mod window;

use bytes::Bytes;

pub use connection::{Ack, Client, Credentials, Events, Login, SessionUse, connect};

/// How long the broker waits for a sign of life is one and a half times this, seconds.
pub const KEEP_ALIVE_SECONDS: u16 = 30;

/// How long a connection attempt may take, from the name look-up to CONNACK, seconds.
const CONNECT_TIMEOUT_SECONDS: u64 = 10;

/// How many packets one turn of the event loop reads and how many acknowledgements one write takes.
const BATCH: usize = 256;

/// Something that happened on a connection.
#[derive(Debug)]
pub enum Event {
    /// The broker accepted the connection.
    Connected {
        /// Whether it kept the session, with its subscriptions.
        session_present: bool,
        /// Whether it says that it has no shared subscriptions.
        lacks_shared: bool,
    },
    /// A message arrived.
    Message(Message),
    /// The broker answered SUBSCRIBE; one answer for each filter, in order: the QoS it granted, or why not.
    Subscribed(Vec<Result<u8, String>>),
    /// The broker answered UNSUBSCRIBE: why it did not for the first filter that it kept, if any.
    Unsubscribed(Result<(), String>),
    /// The client's own DISCONNECT was written.
    Disconnected,
    /// Nothing that matters here.
    Other,
}

/// A message as it arrived.
#[derive(Debug)]
pub struct Message {
    /// The topic it was published on.
    pub topic: Bytes,
    /// The device's bytes.
    pub payload: Bytes,
    /// The QoS with which the broker delivered it.
    pub qos: u8,
    /// Whether the broker sent it as a retained message.
    pub retained: bool,
    /// Whether the broker marked it as delivered before.
    pub duplicate: bool,
    /// The MQTT 5 content type.
    pub content_type: Option<String>,
    /// The MQTT 5 user properties.
    pub user_properties: Vec<(String, String)>,
    /// The acknowledgement it asks for; none at QoS 0.
    pub ack: Option<Ack>,
}

/// Why a connection could not be made or did not last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The reason of the worker's problem.
    pub reason: &'static str,
    /// One sentence for a person.
    pub message: String,
}

/// The broker cannot be reached, or went away.
pub const BROKER_UNREACHABLE: &str = "BrokerUnreachable";
/// The broker does not want this client.
pub const BROKER_REFUSED: &str = "BrokerRefused";
/// The broker sent a packet that is larger than `spec.mqtt.maxPacketSize`.
pub const PACKET_TOO_LARGE: &str = "PacketTooLarge";
/// Another client uses the same client id.
pub const SESSION_TAKEN_OVER: &str = "SessionTakenOver";
/// There is no TLS connection with the broker: a certificate, or what one of the two speaks.
pub const BROKER_TLS_FAILED: &str = "BrokerTlsFailed";
/// A mounted Secret lacks a key, or a value is not usable.
pub const SECRET_INVALID: &str = "SecretInvalid";
/// The broker does not let a subscription go.
pub const UNSUBSCRIBE_REFUSED: &str = "UnsubscribeRefused";
/// The broker has no shared subscriptions.
pub const SHARED_UNSUPPORTED: &str = "SharedSubscriptionsUnsupported";
/// The broker does not grant a subscription.
pub const SUBSCRIPTION_REFUSED: &str = "SubscriptionRefused";

impl Failure {
    /// Whether it is Kafka that does not do its part, so that the MQTT connection is not to blame.
    pub fn is_kafkas(&self) -> bool {
        self.reason.starts_with("Kafka") || self.reason == "TopicMissing"
    }

    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }

    fn too_large(size: usize, max: u32) -> Self {
        Self::new(
            PACKET_TOO_LARGE,
            format!(
                "The MQTT broker sent a packet of {size} bytes, larger than spec.mqtt.maxPacketSize ({max} bytes), \
                 and nothing behind it gets through. Raise spec.mqtt.maxPacketSize, and lower the broker's own limit \
                 to it (Mosquitto: max_packet_size or message_size_limit), or use MQTT 5, where the broker keeps to spec.mqtt.maxPacketSize."
            ),
        )
    }

    /// The broker has no shared subscriptions.
    pub fn shared_unsupported() -> Self {
        Self::new(
            SHARED_UNSUPPORTED,
            "The MQTT broker has no shared subscriptions, so that only one bridge can have its messages. Allow them at the \
             broker, or set spec.mqtt.session to Single."
                .to_owned(),
        )
    }

    fn taken_over(client_id: &str) -> Self {
        Self::new(
            SESSION_TAKEN_OVER,
            format!(
                "Another MQTT client connected with the client id {client_id} and took the session over. Give each \
                 client an id of its own (spec.mqtt.clientId)."
            ),
        )
    }
}
