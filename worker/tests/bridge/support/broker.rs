//! Publishers to the real broker, and a false broker that answers as told.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use rumqttc_v5::{
    BrokerSessionResumePolicy, Client, Connection, Event, MqttOptions, Outgoing, Packet, PublishOptions, QoS,
    mqttbytes::v5::{ConnectProperties, PublishProperties},
};

use super::{credentials, mqtt_address};

/// One message to publish.
pub struct Outbound {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub properties: PublishProperties,
}

impl Outbound {
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            retain: false,
            properties: PublishProperties::default(),
        }
    }
}

/// Publishes all messages, in order, and returns when the broker has them all.
pub fn publish(client_id: &str, qos: QoS, messages: impl IntoIterator<Item = Outbound>) {
    let mut options = MqttOptions::new(format!("{client_id}-publisher"), mqtt_address());
    options.set_max_request_batch(64).set_connect_properties(ConnectProperties::new());
    if let Some((username, password)) = credentials() {
        options.set_credentials(username, password);
    }
    let messages: Vec<_> = messages.into_iter().collect();
    let total = messages.len();
    let (client, mut connection) = Client::builder(options).capacity(64).build();
    let sender = thread::spawn(move || {
        for Outbound { topic, payload, retain, properties } in messages {
            let options = PublishOptions::new(qos).retain(retain).properties(properties);
            client.publish(topic, payload, options).unwrap();
        }
        client
    });
    let mut done = 0;
    for event in connection.iter() {
        match event.expect("the publisher's connection") {
            Event::Incoming(Packet::PubAck(_)) if qos == QoS::AtLeastOnce => done += 1,
            Event::Incoming(Packet::PubComp(_)) if qos == QoS::ExactlyOnce => done += 1,
            Event::Outgoing(Outgoing::Publish(_)) if qos == QoS::AtMostOnce => done += 1,
            _ => {}
        }
        if done == total {
            break;
        }
    }
    sender.join().unwrap().disconnect().unwrap();
    for _ in connection.iter() {}
}

/// A client that goes on with the session of `client_id`, or begins one, and stays. Answers when the broker accepts
/// it, with whether it had the session.
pub fn take_session(client_id: &str) -> ((Client, Connection), bool) {
    let mut options = MqttOptions::new(client_id, mqtt_address());
    // A clean start would throw away what is looked for.
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(600))
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly);
    if let Some((username, password)) = credentials() {
        options.set_credentials(username, password);
    }
    let (client, mut connection) = Client::builder(options).capacity(1).build();
    let had_it = connection.iter().find_map(|event| match event.expect("the session's connection") {
        Event::Incoming(Packet::ConnAck(connack)) => Some(connack.session_present),
        _ => None,
    });
    ((client, connection), had_it.unwrap())
}

/// The MQTT 5 reason codes that a false broker answers.
#[derive(Clone, Copy, Default)]
pub struct Answers {
    pub connack: u8,
    pub suback: u8,
    pub unsuback: u8,
    pub session_present: bool,
    /// CONNACK says that there are no shared subscriptions.
    pub lacks_shared: bool,
    /// DISCONNECT after SUBACK.
    pub disconnect: Option<u8>,
}

/// A broker that only answers. Its port.
pub fn false_broker(answers: Answers) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || answer(&mut stream, answers));
        }
    });
    port
}

fn answer(stream: &mut TcpStream, answers: Answers) -> Option<()> {
    let Answers { connack, suback, unsuback, session_present, lacks_shared, disconnect } = answers;
    loop {
        let mut header = [0; 2];
        stream.read_exact(&mut header).ok()?;
        // All packets of these tests are shorter than 128 bytes, or CONNECT, which may be a little longer.
        let mut length = usize::from(header[1] & 0x7f);
        if header[1] & 0x80 != 0 {
            let mut more = [0];
            stream.read_exact(&mut more).ok()?;
            length += usize::from(more[0]) << 7;
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        match header[0] >> 4 {
            // Shared Subscription Available (MQTT-3.2.2.3.13).
            1 if lacks_shared => {
                stream.write_all(&[0x20, 5, session_present.into(), connack, 2, 0x2a, 0]).ok()?;
            }
            1 => stream.write_all(&[0x20, 3, session_present.into(), connack, 0]).ok()?,
            8 => {
                stream.write_all(&[0x90, 4, body[0], body[1], 0, suback]).ok()?;
                if let Some(code) = disconnect {
                    return stream.write_all(&[0xe0, 2, code, 0]).ok();
                }
            }
            10 => stream.write_all(&[0xb0, 4, body[0], body[1], 0, unsuback]).ok()?,
            12 => stream.write_all(&[0xd0, 0]).ok()?,
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
}
