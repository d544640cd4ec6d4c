//! MQTT 3.1.1 through rumqttc.
//!
//! This version has no receive maximum and no maximum packet size to announce: the broker's own limit bounds
//! what is in flight, and a packet that is too large ends the connection.

use std::time::Duration;

use crds::worker::{BridgeConfig, Subscription};
use rumqttc_v4::{
    AckMode, AsyncClient, ClientError, ConnectReturnCode, ConnectionError, EventLoop, ManualAck, MqttOptions,
    NetworkOptions, Outgoing, Packet, PubAck, PubRec, Publish, QoS, StateError, SubscribeFilter,
    SubscribeReasonCode, mqttbytes::Error as PacketError,
};

use super::{
    BATCH, BROKER_REFUSED, BROKER_UNREACHABLE, CONNECT_TIMEOUT_SECONDS, Event, Failure, KEEP_ALIVE_SECONDS,
    Message, connection::Credentials, corked::Corked,
};

/// What the client may send at most, bytes: a SUBSCRIBE with all filters of a spec.
const MAX_OUTGOING_PACKET_BYTES: usize = 1 << 20;

/// The acknowledgement of one message.
pub type Ack = ManualAck;

/// The sending half.
pub struct Client(AsyncClient);

/// The receiving half.
pub struct Events {
    event_loop: EventLoop,
    broker: String,
    max_packet_size: u32,
}

/// Prepares a connection that resumes the session the broker keeps, whoever began it.
pub fn connect(config: &BridgeConfig, credentials: Option<Credentials>) -> Result<(Client, Events), Failure> {
    let invalid = |error: &dyn std::fmt::Display| {
        Failure::new(BROKER_REFUSED, format!("The MQTT options are invalid: {error}."))
    };
    let mut options = MqttOptions::new(&config.client_id, (config.host.clone(), config.port));
    options
        .set_keep_alive(KEEP_ALIVE_SECONDS)
        .set_max_packet_size(config.max_packet_size_bytes as usize, MAX_OUTGOING_PACKET_BYTES)
        .set_socket_connector(|address, network| async move {
            rumqttc_v4::default_socket_connect(address, network).await.map(Corked::new)
        })
        .set_ack_mode(AckMode::Manual)
        .set_max_request_batch(BATCH)
        .set_read_batch_size(BATCH);
    // The bridge publishes nothing, and rumqttc looks through all places for outgoing messages at each write.
    options.try_set_inflight(1).map_err(|error| invalid(&error))?;
    options.try_set_clean_session(false).map_err(|error| invalid(&error))?;
    if let Some(Credentials { username, password }) = credentials {
        options.set_credentials(username, password);
    }
    // Unbounded, because the window bounds what can be queued: at most one acknowledgement for each message.
    let (client, mut event_loop) =
        AsyncClient::builder(options).unbounded().try_build().map_err(|error| invalid(&error))?;
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT_SECONDS);
    event_loop.set_network_options(network);
    Ok((
        Client(client),
        Events {
            event_loop,
            broker: format!("{}:{}", config.host, config.port),
            max_packet_size: config.max_packet_size_bytes,
        },
    ))
}

impl Client {
    /// Queues an acknowledgement.
    pub fn acknowledge(&self, ack: Ack) -> Result<(), Failure> {
        self.0.try_manual_ack(ack).map_err(closed)
    }

    /// Queues one SUBSCRIBE.
    pub fn subscribe(&self, subscriptions: &[Subscription]) -> Result<(), Failure> {
        let filters = (subscriptions.iter())
            .map(|subscription| SubscribeFilter::new(subscription.filter.clone(), qos(subscription.qos)));
        self.0.try_subscribe_many(filters).map_err(closed)
    }

    /// Queues DISCONNECT.
    pub fn disconnect(&self, timeout: Duration) -> Result<(), Failure> {
        self.0.try_disconnect_with_timeout(timeout).map_err(closed)
    }
}

impl Events {
    /// The next event.
    pub async fn poll(&mut self) -> Result<Event, Failure> {
        use rumqttc_v4::Event::{Incoming, Outgoing as Sent};
        Ok(match self.event_loop.poll().await {
            Ok(Incoming(Packet::Publish(publish))) => Event::Message(message(publish)),
            Ok(Incoming(Packet::ConnAck(connack))) => {
                Event::Connected { session_present: connack.session_present }
            }
            Ok(Incoming(Packet::SubAck(suback))) => {
                Event::Subscribed(suback.return_codes.into_iter().map(answer).collect())
            }
            Ok(Sent(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => Event::Disconnected,
            Ok(_) => Event::Other,
            Err(error) => return Err(failure(&self.broker, self.max_packet_size, &error)),
        })
    }
}

fn failure(broker: &str, max_packet_size: u32, error: &ConnectionError) -> Failure {
    match error {
        ConnectionError::ConnectionRefused(code) => {
            let hint = match code {
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                    " Check the Secret of spec.mqtt.credentialsSecretRef."
                }
                _ => "",
            };
            Failure::new(
                BROKER_REFUSED,
                format!("The MQTT broker {broker} refused the connection: {code:?}.{hint}"),
            )
        }
        ConnectionError::MqttState(StateError::Deserialization(PacketError::PayloadSizeLimitExceeded(
            size,
        ))) => Failure::too_large(*size, max_packet_size),
        error => Failure::new(
            BROKER_UNREACHABLE,
            format!("The connection to the MQTT broker {broker} failed: {error}."),
        ),
    }
}

fn message(publish: Publish) -> Message {
    let ack = match publish.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(ManualAck::PubAck(PubAck::new(publish.pkid))),
        QoS::ExactlyOnce => Some(ManualAck::PubRec(PubRec::new(publish.pkid))),
    };
    Message {
        topic: publish.topic,
        payload: publish.payload,
        qos: publish.qos as u8,
        retained: publish.retain,
        duplicate: publish.dup,
        content_type: None,
        user_properties: Vec::new(),
        ack: ack.map(super::Ack::V311),
    }
}

fn answer(code: SubscribeReasonCode) -> Result<u8, String> {
    match code {
        SubscribeReasonCode::Success(qos) => Ok(qos as u8),
        SubscribeReasonCode::Failure => Err("Failure".to_owned()),
    }
}

fn qos(level: u8) -> QoS {
    match level {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn closed(error: ClientError) -> Failure {
    // Carries the request, which may be long; its kind is enough.
    let what = match error {
        ClientError::InvalidRequest(_) => "a request was invalid",
        _ => "the connection is closed",
    };
    Failure::new(BROKER_UNREACHABLE, format!("Failed to send to the MQTT broker: {what}."))
}
