//! Fills the topic, and the session at the broker.

use std::{sync::Arc, thread, time::Duration};

use crds::names::header;
use jiff::Timestamp;
use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use rumqttc_v5::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, PublishOptions};
use snafu::{ResultExt, whatever};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    process::PATIENCE,
    reading::{PARTITIONS, Reading},
};
use crate::{
    Result,
    fleet::Broker,
    kafka::{BOOTSTRAP_SERVERS, Kafka},
};

/// How many messages a publisher has not acknowledged at most.
const WINDOW: u16 = 1_000;

/// Makes a topic with so many readings, each with the headers that a bridge writes.
///
/// # Errors
/// Fails where Kafka refuses.
pub async fn fill_topic(kafka: &Kafka, topic: &str, messages: u64) -> Result<()> {
    kafka.delete(topic).await?;
    kafka.create_with(topic, PARTITIONS).await?;
    let name = topic.to_owned();
    tokio::task::spawn_blocking(move || produce(&name, messages))
        .await
        .whatever_context("failed to wait for the producer")?
        .whatever_context("failed to fill the topic")?;
    let found = kafka.count(topic).await?;
    if found != messages {
        whatever!("the topic has {found} records, where {messages} should be");
    }
    Ok(())
}

fn produce(topic: &str, messages: u64) -> Result<(), KafkaError> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", BOOTSTRAP_SERVERS)
        .set("enable.idempotence", "true")
        .set("linger.ms", "20")
        .create()?;
    for number in 0..messages {
        let reading = Reading::past(number);
        let (payload, device) = (reading.payload(), reading.device());
        let mqtt_topic = topic_of(&device);
        let ingested_at = Timestamp::now().to_string();
        let headers = [
            (header::TOPIC, mqtt_topic.as_str()),
            (header::QOS, "1"),
            (header::INGESTED_AT, ingested_at.as_str()),
        ];
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(*value) })
        });
        let mut record = BaseRecord::to(topic)
            .partition(reading.partition())
            .key(&device)
            .payload(&payload)
            .headers(headers);
        while let Err((error, back)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(PATIENCE)
}

fn topic_of(device: &str) -> String {
    format!("bench/{device}/readings")
}

/// The filter under which all devices publish.
pub const FILTER: &str = "bench/+/readings";

/// Publishes so many readings with QoS 1, as fast as the broker takes them, or so many a second, with the time of
/// their publication in them. Ends when the broker has acknowledged all.
///
/// # Errors
/// Fails where the connection does.
pub async fn publish(broker: &Broker, messages: u64, per_second: Option<u64>) -> Result<()> {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let mut options = MqttOptions::new("bench-publisher", (broker.host.clone(), broker.port));
    options
        .set_clean_start(true)
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_max_request_batch(64)
        .set_read_batch_size(64)
        .set_network_options(network);
    if let Some((username, password)) = &broker.credentials {
        options.set_credentials(username.clone(), password.clone().into_bytes());
    }
    let (client, event_loop) = AsyncClient::builder(options)
        .capacity(usize::from(WINDOW))
        .try_build()
        .whatever_context("failed to prepare the publisher")?;
    let acknowledged = Arc::new(Notify::new());
    let connection = tokio::spawn(acknowledge(event_loop, messages, acknowledged.clone()));
    let said = async {
        match per_second {
            None => say_at_once(&client, messages).await?,
            Some(per_second) => say_at(&client, messages, per_second).await?,
        }
        acknowledged.notified().await;
        client.disconnect().await.whatever_context("failed to disconnect")
    };
    tokio::select! {
        ended = connection => match ended.whatever_context("failed to wait for the connection")? {
            Ok(()) => Ok(()),
            Err(error) => Err(error).whatever_context("the publisher's connection failed"),
        },
        said = said => said,
    }
}

async fn say_at_once(client: &AsyncClient, messages: u64) -> Result<()> {
    for number in 0..messages {
        say(client, Reading::past(number)).await?;
    }
    Ok(())
}

async fn say_at(client: &AsyncClient, messages: u64, per_second: u64) -> Result<()> {
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0;
    while number < messages {
        ticks.tick().await;
        let due = (begun.elapsed().as_secs_f64() * per_second as f64) as u64;
        while number < due.min(messages) {
            say(client, Reading { number, micros: Timestamp::now().as_microsecond() }).await?;
            number += 1;
        }
    }
    Ok(())
}

async fn say(client: &AsyncClient, reading: Reading) -> Result<()> {
    client
        .publish(topic_of(&reading.device()), reading.payload(), PublishOptions::at_least_once())
        .await
        .whatever_context("failed to publish")
}

/// Runs the connection until so many messages are acknowledged, and a little longer.
async fn acknowledge(
    mut event_loop: EventLoop,
    messages: u64,
    all: Arc<Notify>,
) -> Result<(), rumqttc_v5::ConnectionError> {
    let mut count = 0;
    loop {
        if let Event::Incoming(Packet::PubAck(_)) = event_loop.poll().await? {
            count += 1;
            if count == messages {
                all.notify_one();
            }
        }
    }
}
