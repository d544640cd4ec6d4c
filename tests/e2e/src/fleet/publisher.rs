//! One MQTT connection that publishes with QoS 1 and waits for every PUBACK. Does network I/O.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use rumqttc_v5::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, PublishNotice, PublishOptions,
};
use snafu::{ResultExt, Snafu};
use tokio::sync::mpsc;

use super::{Broker, Entry, Progress, message::Message};

/// Why a device fell silent.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
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
    #[snafu(display("the last messages on {topic} were not acknowledged in {} s", LAST_WORDS.as_secs()))]
    Unacknowledged {
        /// The MQTT topic.
        topic: String,
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
/// How long a device that has said everything waits for a broker that does not answer.
pub const LAST_WORDS: Duration = Duration::from_secs(30);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Publishes whatever comes, in order, until `messages` ends and everything is acknowledged. A publication
/// whose acknowledgement is lost with the connection is made again.
///
/// # Errors
/// Fails where the client itself does; lost connections are made again for ever.
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
    // The window bounds what is queued, so queueing never waits.
    let (client, event_loop) =
        AsyncClient::builder(options).unbounded().try_build().context(PrepareSnafu { client_id })?;
    let connection = keep_connected(event_loop, progress);
    let publishing = async {
        let mut entries = Vec::new();
        let mut unacknowledged = FuturesUnordered::new();
        let mut is_over = false;
        loop {
            tokio::select! {
                message = messages.recv(), if !is_over && unacknowledged.len() < usize::from(WINDOW) => match message {
                    Some(message) => {
                        let notice = publish(&client, &topic, &message).await?;
                        unacknowledged.push(acknowledged(&client, &topic, message, notice, progress));
                    }
                    None => is_over = true,
                },
                Some(message) = unacknowledged.next() => {
                    let message = message?;
                    progress.count(message.kind);
                    if progress.keeps_ledger {
                        entries.push(Entry::new(&message));
                    }
                }
                else => break,
            }
        }
        client.disconnect().await.context(PublishSnafu { topic: &topic })?;
        Ok(entries)
    };
    let (entries, ()) = futures::join!(publishing, connection);
    entries
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
