//! One MQTT client that does a single thing and goes: publishes given bytes, looks whether the broker keeps a session, or
//! reads what the broker says of itself. Does network I/O.

use std::time::Duration;

use rumqttc_v5::{
    AsyncClient, BrokerSessionResumePolicy, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet,
    PublishOptions, QoS,
};
use snafu::{ResultExt, Whatever};

use crate::{Result, fleet::Broker};

const PATIENCE: Duration = Duration::from_secs(60);

/// The largest packet that is published: larger than any that a pipeline takes.
const MAX_PACKET_BYTES: u32 = 32 << 20;

/// Publishes each payload on its topic with QoS 1; returns when the broker has acknowledged them all.
///
/// # Errors
/// Fails where the broker does not take them within a minute.
pub async fn publish(broker: &Broker, client_id: &str, messages: &[(String, Vec<u8>)]) -> Result<()> {
    let (client, mut event_loop) = client(options(broker, client_id))?;
    let publishing = async {
        for (topic, payload) in messages {
            let notice =
                client.publish_tracked(topic, payload.clone(), PublishOptions::at_least_once()).await;
            notice
                .with_whatever_context(|_| format!("failed to publish on {topic}"))?
                .wait_completion_async()
                .await
                .with_whatever_context(|_| format!("the broker did not take a message on {topic}"))?;
        }
        client.disconnect().await.whatever_context("failed to disconnect")?;
        Ok(())
    };
    let both = async { futures::join!(publishing, until_disconnected(&mut event_loop)) };
    let (published, connection): (Result<()>, Result<()>) =
        tokio::time::timeout(PATIENCE, both).await.whatever_context("the broker did not answer")?;
    published.and(connection)
}

/// Whether the broker keeps a session of this client. If so, whoever is connected to it loses it for a moment.
///
/// # Errors
/// Fails where the broker does not answer within a minute.
pub async fn has_session(broker: &Broker, client_id: &str) -> Result<bool> {
    let mut options = options(broker, client_id);
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(3600))
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly);
    let (client, mut event_loop) = client(options)?;
    let connected = async {
        loop {
            match event_loop.poll().await.whatever_context("failed to connect")? {
                Event::Incoming(Packet::ConnAck(answer)) => {
                    return Ok::<_, Whatever>(answer.session_present);
                }
                _ => continue,
            }
        }
    };
    let is_present =
        tokio::time::timeout(PATIENCE, connected).await.whatever_context("the broker did not answer")??;
    client.disconnect().await.whatever_context("failed to disconnect")?;
    until_disconnected(&mut event_loop).await?;
    Ok(is_present)
}

/// A number that the broker says of itself, such as `$SYS/broker/clients/disconnected`. It is as old as the broker's
/// interval between two of them.
///
/// # Errors
/// Fails where the broker says no such thing within a minute.
pub async fn system_value(broker: &Broker, topic: &str) -> Result<u64> {
    let (client, mut event_loop) = client(options(broker, &format!("reader-{}", std::process::id())))?;
    client
        .subscribe(topic, QoS::AtMostOnce)
        .await
        .with_whatever_context(|_| format!("failed to subscribe to {topic}"))?;
    let said = async {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) =
                event_loop.poll().await.whatever_context("the connection broke")?
            {
                return Ok::<_, Whatever>(String::from_utf8_lossy(&publish.payload).into_owned());
            }
        }
    };
    let said = tokio::time::timeout(PATIENCE, said)
        .await
        .with_whatever_context(|_| format!("the broker says nothing on {topic}"))??;
    client.disconnect().await.whatever_context("failed to disconnect")?;
    until_disconnected(&mut event_loop).await?;
    said.parse().with_whatever_context(|_| format!("{topic} says {said:?}, which is no number"))
}

fn options(broker: &Broker, client_id: &str) -> MqttOptions {
    let mut options = MqttOptions::new(client_id, (broker.host.clone(), broker.port));
    options
        .set_keep_alive(30)
        .set_clean_start(true)
        .set_connect_timeout(Duration::from_secs(10))
        .set_max_packet_size(Some(MAX_PACKET_BYTES));
    if let Some((username, password)) = &broker.credentials {
        options.set_credentials(username.clone(), password.clone().into_bytes());
    }
    options
}

fn client(options: MqttOptions) -> Result<(AsyncClient, EventLoop)> {
    AsyncClient::builder(options).unbounded().try_build().whatever_context("failed to prepare a connection")
}

async fn until_disconnected(event_loop: &mut EventLoop) -> Result<()> {
    loop {
        match event_loop.poll().await {
            Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error).whatever_context("the connection broke"),
        }
    }
}
