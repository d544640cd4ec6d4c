//! One connection, whichever the protocol version: the rest of the bridge is written once, against this.

use std::time::Duration;

use access::tls::TlsMaterial;
use crds::{
    pipeline::ProtocolVersion,
    worker::{BridgeConfig, Subscription},
};

use super::{Event, Failure, transport::Transport, v5, v311};

/// A user name and a password, read from the mounted Secret for one connection.
pub struct Credentials {
    /// The MQTT user name.
    pub username: String,
    /// The MQTT password.
    pub password: String,
}

/// What a connection is made with, read from the mounted Secrets for it alone.
pub struct Login {
    /// User name and password, where the broker asks for them.
    pub credentials: Option<Credentials>,
    /// Certificates, for the encrypted transports.
    pub tls: TlsMaterial,
}

/// What a connection does with the session that the broker keeps under the client id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionUse {
    /// Resumes it, whoever began it, or begins one; it outlasts the connection.
    Keep,
    /// Throws it away, with everything in it, and leaves none behind.
    End,
}

/// The sending half of a connection. Nothing here waits; [`Events::poll`] writes what was queued.
pub enum Client {
    /// MQTT 5.
    V5(v5::Client),
    /// MQTT 3.1.1.
    V311(v311::Client),
}

/// The receiving half of a connection.
pub enum Events {
    /// MQTT 5.
    V5(Box<v5::Events>),
    /// MQTT 3.1.1.
    V311(Box<v311::Events>),
}

/// The acknowledgement that one message asks for: PUBACK (QoS 1) or PUBREC (QoS 2).
#[derive(Debug)]
pub enum Ack {
    /// MQTT 5.
    V5(v5::Ack),
    /// MQTT 3.1.1.
    V311(v311::Ack),
}

/// Prepares a connection; the first [`Events::poll`] makes it.
pub fn connect(
    config: &BridgeConfig,
    login: Login,
    session_use: SessionUse,
) -> Result<(Client, Events), Failure> {
    let Login { credentials, tls } = login;
    let transport = Transport::new(config, tls)?;
    Ok(match config.protocol_version {
        ProtocolVersion::V5 => {
            let (client, events) = v5::connect(config, transport, credentials, session_use)?;
            (Client::V5(client), Events::V5(Box::new(events)))
        }
        ProtocolVersion::V311 => {
            let (client, events) = v311::connect(config, transport, credentials, session_use)?;
            (Client::V311(client), Events::V311(Box::new(events)))
        }
    })
}

impl Client {
    /// Queues the acknowledgement of a message of this connection.
    pub fn acknowledge(&self, ack: Ack) -> Result<(), Failure> {
        match (self, ack) {
            (Self::V5(client), Ack::V5(ack)) => client.acknowledge(ack),
            (Self::V311(client), Ack::V311(ack)) => client.acknowledge(ack),
            // A connection's window only ever holds acknowledgements of its own messages.
            _ => Ok(()),
        }
    }

    /// Queues one SUBSCRIBE with all `subscriptions`.
    pub fn subscribe(&self, subscriptions: &[Subscription]) -> Result<(), Failure> {
        match self {
            Self::V5(client) => client.subscribe(subscriptions),
            Self::V311(client) => client.subscribe(subscriptions),
        }
    }

    /// Queues one UNSUBSCRIBE with all `filters`.
    pub fn unsubscribe(&self, filters: &[String]) -> Result<(), Failure> {
        match self {
            Self::V5(client) => client.unsubscribe(filters),
            Self::V311(client) => client.unsubscribe(filters),
        }
    }

    /// Queues DISCONNECT behind what is queued already; the session stays at the broker, or goes, as the
    /// connection was made.
    pub fn disconnect(&self, timeout: Duration) -> Result<(), Failure> {
        match self {
            Self::V5(client) => client.disconnect(timeout),
            Self::V311(client) => client.disconnect(timeout),
        }
    }
}

impl Events {
    /// The next event; reads, writes and keeps the connection alive meanwhile. Not to be dropped half-way.
    pub async fn poll(&mut self) -> Result<Event, Failure> {
        match self {
            Self::V5(events) => events.poll().await,
            Self::V311(events) => events.poll().await,
        }
    }
}
