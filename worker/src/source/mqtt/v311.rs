//! MQTT 3.1.1 through rumqttc.
//!
//! This version has no receive maximum and no maximum packet size to announce: the broker's own limit bounds
//! what is in flight, and a packet that is too large ends the connection.

use std::time::Duration;

use crds::worker::{BridgeConfig, Subscription};
use rumqttc_v4::{
    AckMode, AsyncClient, Broker, ClientError, ConnectReturnCode, ConnectionError, EventLoop, ManualAck,
    MqttOptions, NetworkOptions, Outgoing, Packet, PubAck, PubRec, Publish, QoS, StateError, SubscribeFilter,
    SubscribeReasonCode, mqttbytes::Error as PacketError,
};

use super::{
    BATCH, BROKER_REFUSED, BROKER_UNREACHABLE, CONNECT_TIMEOUT_SECONDS, Event, Failure, KEEP_ALIVE_SECONDS,
    Message,
    connection::{Credentials, SessionUse},
    transport::{CLOSED_CONNECTION, NO_ANSWER, NO_MQTT_WEBSOCKET, NO_PINGRESP, Transport},
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
    transport: Transport,
    client_id: String,
    max_packet_size: u32,
}

/// Prepares a connection.
pub fn connect(
    config: &BridgeConfig,
    transport: Transport,
    credentials: Option<Credentials>,
    session_use: SessionUse,
) -> Result<(Client, Events), Failure> {
    let invalid = |error: &dyn std::fmt::Display| {
        Failure::new(BROKER_REFUSED, format!("The MQTT options are invalid: {error}."))
    };
    let broker = match transport.websocket_url() {
        Some(url) => Broker::websocket(url).map_err(|error| invalid(&error))?,
        None => Broker::tcp(&config.host, config.port),
    };
    let connector = transport.clone();
    let mut options = MqttOptions::new(&config.client_id, broker);
    options
        .set_keep_alive(KEEP_ALIVE_SECONDS)
        .set_max_packet_size(config.max_packet_size_bytes as usize, MAX_OUTGOING_PACKET_BYTES)
        .set_socket_connector(move |_, _| connector.clone().open())
        .set_ack_mode(AckMode::Manual)
        .set_max_request_batch(BATCH)
        .set_read_batch_size(BATCH);
    // The bridge publishes nothing, and rumqttc looks through all places for outgoing messages at each write.
    options.try_set_inflight(1).map_err(|error| invalid(&error))?;
    options.try_set_clean_session(session_use == SessionUse::End).map_err(|error| invalid(&error))?;
    if let Some(Credentials { username, password }) = credentials {
        options.set_credentials(username, password);
    }
    // Unbounded, because the window bounds what can be queued: at most one acknowledgement for each message.
    let (client, mut event_loop) =
        AsyncClient::builder(options).unbounded().try_build().map_err(|error| invalid(&error))?;
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(CONNECT_TIMEOUT_SECONDS);
    event_loop.set_network_options(network);
    Ok((
        Client(client),
        Events {
            event_loop,
            transport,
            client_id: config.client_id.clone(),
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

    /// Queues one UNSUBSCRIBE.
    pub fn unsubscribe(&self, filters: &[String]) -> Result<(), Failure> {
        self.0.try_unsubscribe_many(filters.iter().map(String::as_str)).map_err(closed)
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
                Event::Connected { session_present: connack.session_present, lacks_shared: false }
            }
            Ok(Incoming(Packet::SubAck(suback))) => {
                Event::Subscribed(suback.return_codes.into_iter().map(answer).collect())
            }
            // This version has no word for a filter that the broker keeps.
            Ok(Incoming(Packet::UnsubAck(_))) => Event::Unsubscribed(Ok(())),
            Ok(Sent(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => Event::Disconnected,
            Ok(_) => Event::Other,
            Err(error) => {
                return Err(failure(&self.transport, &self.client_id, self.max_packet_size, &error));
            }
        })
    }
}

fn failure(transport: &Transport, client_id: &str, max_packet_size: u32, error: &ConnectionError) -> Failure {
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
                format!("The MQTT broker {} refused the connection: {code:?}.{hint}", transport.broker()),
            )
        }
        ConnectionError::MqttState(StateError::Deserialization(PacketError::PayloadSizeLimitExceeded(
            size,
        ))) => Failure::too_large(*size, max_packet_size),
        // This version has no word for the reason either.
        ConnectionError::MqttState(StateError::ConnectionAborted) => transport.unreachable(&format!(
            "{CLOSED_CONNECTION}. If that happens again and again, another client may use the client id {client_id}"
        )),
        ConnectionError::MqttState(StateError::AwaitPingResp) => transport.unreachable(NO_PINGRESP),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => transport.unreachable(NO_ANSWER),
        ConnectionError::ResponseValidation(_) => transport.unreachable(NO_MQTT_WEBSOCKET),
        ConnectionError::Websocket(error) => transport.websocket_failure(error),
        error => transport.failure(error),
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
