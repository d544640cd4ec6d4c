//! One MQTT connection that publishes with QoS 1 and waits for every PUBACK. Does network I/O.

use std::{pin::pin, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use rumqttc_v5::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, PublishNotice, PublishOptions,
};
use snafu::{ResultExt, Snafu};
use tokio::{sync::mpsc, time::Instant};

use super::{Broker, Entry, Progress, message::Message};

/// Why a device fell silent.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The options are contradictory.
    #[snafu(display("failed to prepare the connection of {client_id}"))]
    Prepare {
        /// The MQTT client id.
        client_id: String,
        /// What is wrong with the options.
        source: rumqttc_v5::ClientBuildError,
    },
    /// The broker does not answer at the end.
    #[snafu(display("{messages} messages on {topic} were not acknowledged in time"))]
    Unacknowledged {
        /// The MQTT topic.
        topic: String,
        /// How many.
        messages: usize,
    },
    /// The connection's task is gone, or the message is not publishable.
    #[snafu(display("failed to publish on {topic}"))]
    Publish {
        /// The MQTT topic.
        topic: String,
        /// What the client says.
        source: rumqttc_v5::ClientError,
    },
}

/// How many messages of one device may wait for their PUBACK.
const WINDOW: u16 = 32;
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How long a fleet that is stopped waits for a broker that does not answer.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Publishes whatever comes, in order, until `messages` ends and everything is acknowledged. A publication
/// whose acknowledgement is lost with the connection is made again.
///
/// # Errors
/// Fails where the client itself does, and where the last messages are not acknowledged in 30 seconds. Before,
/// lost connections are made again for ever.
pub async fn publish_all(
    broker: &Broker,
    client_id: String,
    topic: String,
    mut messages: mpsc::Receiver<Message>,
    progress: &Progress,
) -> Result<Vec<Entry>, Error> {
    let mut options = MqttOptions::new(&client_id, (broker.host.clone(), broker.port));
    options
        .set_keep_alive(30)
        .set_clean_start(true)
        .set_connect_timeout(Duration::from_secs(10))
        // Without it each client keeps room for 65,535 messages: megabytes for every device.
        .set_outgoing_inflight_upper_limit(WINDOW);
    if let Some((username, password)) = &broker.credentials {
        options.set_credentials(username.clone(), password.clone().into_bytes());
    }
    let (client, event_loop) = AsyncClient::builder(options)
        .capacity(usize::from(WINDOW))
        .try_build()
        .context(PrepareSnafu { client_id })?;
    let connection = keep_connected(event_loop, progress);
    let publishing = async {
        let mut entries = Vec::new();
        let mut unacknowledged = FuturesUnordered::new();
        let mut is_over = false;
        let mut end = pin!(tokio::time::sleep(Duration::MAX));
        loop {
            tokio::select! {
                message = messages.recv(), if !is_over && unacknowledged.len() < usize::from(WINDOW) => match message {
                    Some(message) => {
                        let notice = publish(&client, &topic, &message).await?;
                        unacknowledged.push(acknowledged(&client, &topic, message, notice, progress));
                    }
                    None => {
                        is_over = true;
                        end.as_mut().reset(Instant::now() + LAST_WORDS);
                    }
                },
                Some(message) = unacknowledged.next() => {
                    let message = message?;
                    progress.count(message.kind);
                    if progress.keeps_ledger {
                        entries.push(Entry::new(&message));
                    }
                }
                () = &mut end, if !unacknowledged.is_empty() => {
                    return UnacknowledgedSnafu { topic: &topic, messages: unacknowledged.len() }.fail();
                }
                else => break,
            }
        }
        client.disconnect().await.context(PublishSnafu { topic: &topic })?;
        Ok(entries)
    };
    let (mut publishing, mut connection) = (pin!(publishing), pin!(connection));
    // The goodbye is written by the connection, which ends with it; a failure ends both.
    tokio::select! {
        entries = &mut publishing => {
            if entries.is_ok() {
                _ = tokio::time::timeout(LAST_WORDS, connection).await;
            }
            entries
        }
        () = &mut connection => publishing.await,
    }
}

async fn publish(client: &AsyncClient, topic: &str, message: &Message) -> Result<PublishNotice, Error> {
    client
        .publish_tracked(topic, message.payload.clone(), PublishOptions::at_least_once())
        .await
        .context(PublishSnafu { topic })
}

async fn acknowledged(
    client: &AsyncClient,
    topic: &str,
    message: Message,
    mut notice: PublishNotice,
    progress: &Progress,
) -> Result<Message, Error> {
    while let Err(error) = notice.wait_completion_async().await {
        tracing::debug!(topic, %error, "publishing again");
        progress.retry();
        tokio::time::sleep(RECONNECT_PAUSE).await;
        notice = publish(client, topic, &message).await?;
    }
    Ok(message)
}

/// Reads, writes and connects again until the client has said goodbye.
async fn keep_connected(mut event_loop: EventLoop, progress: &Progress) {
    loop {
        match event_loop.poll().await {
            Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "connecting again");
                progress.lost_connection(&error.to_string());
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
}
