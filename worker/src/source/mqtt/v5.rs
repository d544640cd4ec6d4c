//! MQTT 5 through rumqttc.

use std::time::Duration;

use crds::worker::{BridgeConfig, Subscription};
use rumqttc_v5::{
    AckMode, AsyncClient, Broker, ClientError, ConnectReturnCode, ConnectionError, DisconnectReasonCode,
    EventLoop, ManualAck, MqttOptions, Outgoing, Packet, PubAck, PubRec, Publish, QoS, RetainForwardRule,
    StateError, SubscribeFilterInput, SubscribeReasonCode, UnsubAckReason, mqttbytes::Error as PacketError,
};

use super::{
    BATCH, BROKER_REFUSED, BROKER_UNREACHABLE, CONNECT_TIMEOUT_SECONDS, Event, Failure, KEEP_ALIVE_SECONDS,
    Message, PACKET_TOO_LARGE,
    connection::{Credentials, SessionUse},
    transport::{CLOSED_CONNECTION, NO_MQTT_WEBSOCKET, NO_PINGRESP, Transport},
    v5_session::NothingUnderWay,
};

/// The bridge publishes nothing, and rumqttc looks through all places for outgoing messages at each write.
pub const OUTGOING_IN_FLIGHT: u16 = 1;

/// The acknowledgement of one message.
pub type Ack = ManualAck;

/// The sending half.
pub struct Client(AsyncClient);

/// The receiving half.
pub struct Events {
    event_loop: EventLoop,
    transport: Transport,
    client_id: String,
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
        .set_connect_timeout(Duration::from_secs(CONNECT_TIMEOUT_SECONDS))
        .set_clean_start(session_use == SessionUse::End)
        .set_session_expiry_interval(Some(match session_use {
            SessionUse::Keep => config.session_expiry_seconds,
            SessionUse::End => 0,
        }))
        .set_session_store(NothingUnderWay)
        .set_receive_maximum(Some(config.max_in_flight))
        .set_max_packet_size(Some(config.max_packet_size_bytes))
        .set_socket_connector(move |_, _| connector.clone().open())
        .set_outgoing_inflight_upper_limit(OUTGOING_IN_FLIGHT)
        .set_ack_mode(AckMode::Manual)
        .set_max_request_batch(BATCH)
        .set_read_batch_size(BATCH);
    if let Some(Credentials { username, password }) = credentials {
        options.set_credentials(username, password);
    }
    // Unbounded, because the window bounds what can be queued: at most one acknowledgement for each message.
    let (client, event_loop) =
        AsyncClient::builder(options).unbounded().try_build().map_err(|error| invalid(&error))?;
    Ok((Client(client), Events { event_loop, transport, client_id: config.client_id.clone() }))
}

impl Client {
    /// Queues an acknowledgement.
    pub fn acknowledge(&self, ack: Ack) -> Result<(), Failure> {
        self.0.try_manual_ack(ack).map_err(closed)
    }

    /// Queues one SUBSCRIBE. Retained messages come with new subscriptions only, not at each start.
    pub fn subscribe(&self, subscriptions: &[Subscription]) -> Result<(), Failure> {
        let filters = subscriptions.iter().map(|subscription| {
            SubscribeFilterInput::new(&subscription.filter, qos(subscription.qos))
                .retain_forward_rule(RetainForwardRule::OnNewSubscribe)
        });
        self.0.try_subscribe_many(filters).map_err(closed)
    }

    /// Queues one UNSUBSCRIBE.
    pub fn unsubscribe(&self, filters: &[String]) -> Result<(), Failure> {
        self.0.try_unsubscribe_many(filters.iter().map(String::as_str)).map_err(closed)
    }

    /// Queues DISCONNECT without properties, so that the session's expiry stays as it is.
    pub fn disconnect(&self, timeout: Duration) -> Result<(), Failure> {
        self.0.try_disconnect_with_timeout(timeout).map_err(closed)
    }
}

impl Events {
    /// The next event.
    pub async fn poll(&mut self) -> Result<Event, Failure> {
        use rumqttc_v5::Event::{Incoming, Outgoing as Sent};
        Ok(match self.event_loop.poll().await {
            Ok(Incoming(Packet::Publish(publish))) => Event::Message(message(publish)),
            Ok(Incoming(Packet::ConnAck(connack))) => {
                // It has said what it is there for, and would be asked to keep each change from now on.
                self.event_loop.options.clear_session_store();
                let shared =
                    connack.properties.and_then(|properties| properties.shared_subscription_available);
                Event::Connected {
                    session_present: connack.session_present,
                    // Without a word of it there are some (MQTT-3.2.2.3.13).
                    lacks_shared: shared == Some(0),
                }
            }
            Ok(Incoming(Packet::SubAck(suback))) => {
                Event::Subscribed(suback.return_codes.into_iter().map(answer).collect())
            }
            Ok(Incoming(Packet::UnsubAck(unsuback))) => Event::Unsubscribed(kept(&unsuback.reasons)),
            Ok(Sent(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => Event::Disconnected,
            Ok(_) => Event::Other,
            Err(error) => return Err(self.failure(error)),
        })
    }

    fn failure(&self, error: ConnectionError) -> Failure {
        let Self { transport, client_id, .. } = self;
        let last_word = transport.disconnect_code().and_then(|code| code.try_into().ok());
        match error {
            ConnectionError::ConnectionRefused(code)
            | ConnectionError::MqttState(StateError::ConnFail { reason: code }) => {
                refused(&transport.broker(), code)
            }
            ConnectionError::MqttState(StateError::Deserialization(
                PacketError::PayloadSizeLimitExceeded { pkt_size, max },
            )) => Failure::too_large(pkt_size, max),
            // What the broker says beside the code is not repeated.
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
                disconnected(&transport.broker(), client_id, reason_code)
            }
            ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(error))) => {
                transport.failure(&error)
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => match last_word {
                Some(code) => disconnected(&transport.broker(), client_id, code),
                None => transport.unreachable(CLOSED_CONNECTION),
            },
            ConnectionError::MqttState(StateError::AwaitPingResp) => transport.unreachable(NO_PINGRESP),
            ConnectionError::ResponseValidation(_) => transport.unreachable(NO_MQTT_WEBSOCKET),
            ConnectionError::Websocket(error) => transport.websocket_failure(&error),
            error => transport.failure(&error),
        }
    }
}

/// Why the broker kept a filter. One that it did not know is as good as gone.
fn kept(reasons: &[UnsubAckReason]) -> Result<(), String> {
    let gone = |reason: &&UnsubAckReason| {
        matches!(reason, UnsubAckReason::Success | UnsubAckReason::NoSubscriptionExisted)
    };
    reasons.iter().find(|reason| !gone(reason)).map_or(Ok(()), |reason| Err(format!("{reason:?}")))
}

fn message(publish: Publish) -> Message {
    let ack = match publish.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(ManualAck::PubAck(PubAck::new(publish.pkid, None))),
        QoS::ExactlyOnce => Some(ManualAck::PubRec(PubRec::new(publish.pkid, None))),
    };
    let properties = publish.properties.unwrap_or_default();
    Message {
        topic: publish.topic,
        payload: publish.payload,
        qos: publish.qos as u8,
        retained: publish.retain,
        duplicate: publish.dup,
        content_type: properties.content_type,
        user_properties: properties.user_properties,
        ack: ack.map(super::Ack::V5),
    }
}

fn answer(code: SubscribeReasonCode) -> Result<u8, String> {
    match code {
        SubscribeReasonCode::Success(qos) => Ok(qos as u8),
        refused => Err(format!("{refused:?}")),
    }
}

fn refused(broker: &str, code: ConnectReturnCode) -> Failure {
    let hint = match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
            " Check the Secret of spec.mqtt.credentialsSecretRef."
        }
        ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => {
            " Try spec.mqtt.protocolVersion V3_1_1."
        }
        _ => "",
    };
    Failure::new(BROKER_REFUSED, format!("The MQTT broker {broker} refused the connection: {code:?}.{hint}"))
}

fn disconnected(broker: &str, client_id: &str, code: DisconnectReasonCode) -> Failure {
    match code {
        DisconnectReasonCode::SessionTakenOver => Failure::taken_over(client_id),
        DisconnectReasonCode::SharedSubscriptionNotSupported => Failure::shared_unsupported(),
        DisconnectReasonCode::PacketTooLarge => Failure::new(
            PACKET_TOO_LARGE,
            format!(
                "The MQTT broker {broker} ended the connection because a packet was larger than it accepts. Raise \
                 the broker's limit (Mosquitto: max_packet_size), or name fewer filters in spec.mqtt.subscriptions."
            ),
        ),
        DisconnectReasonCode::ServerShuttingDown | DisconnectReasonCode::KeepAliveTimeout => Failure::new(
            BROKER_UNREACHABLE,
            format!("The MQTT broker {broker} ended the connection: {code:?}."),
        ),
        _ => {
            Failure::new(BROKER_REFUSED, format!("The MQTT broker {broker} ended the connection: {code:?}."))
        }
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
