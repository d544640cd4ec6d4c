//! What is published, and what is in a test's topic.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use super::{DEVICES, PARTITIONS, PATIENCE, Scenario, broker, kafka_address};

/// One record of the topic.
pub struct Record {
    pub key: String,
    pub payload: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

/// Reads the topic from its beginning until it holds `expect` different payloads, then a little longer.
pub fn read_topic(topic: &str, expect: usize) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka_address())
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    let mut deadline = Instant::now() + PATIENCE;
    let mut complete = false;
    while Instant::now() < deadline {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        // Kafka may be on its way back.
        let Ok(message) = message else { continue };
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = worker::headers::decode(message.headers().unwrap()).unwrap();
        let payload = message.payload().unwrap_or_default().to_vec();
        seen.insert(payload.clone());
        records.push(Record { key: text(message.key()), payload, headers: as_text(&headers) });
        if seen.len() >= expect && !complete {
            complete = true;
            // Duplicates that are still on their way belong to the truth too.
            deadline = Instant::now() + Duration::from_secs(2);
        }
    }
    records
}

fn as_text(origin: &worker::headers::Origin<'_>) -> BTreeMap<String, String> {
    let mut text = BTreeMap::from([
        ("topic".to_owned(), origin.topic.to_string()),
        ("qos".to_owned(), origin.qos.to_string()),
        ("retained".to_owned(), origin.retained.to_string()),
    ]);
    if let Some(stub) = &origin.stub {
        let hash: String = stub.payload_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        text.insert("stub".to_owned(), format!("{} {} {hash}", stub.reason, stub.payload_bytes));
    }
    text.extend(origin.content_type.iter().map(|value| ("content_type".to_owned(), value.to_string())));
    text.extend(
        origin.properties.iter().map(|(name, value)| (format!("property.{name}"), value.to_string())),
    );
    text
}

/// Message `number`, from one of [`DEVICES`] devices.
pub fn message(scenario: &Scenario, number: usize) -> broker::Outbound {
    let topic = format!("{}/device/{}", scenario.name, number % DEVICES);
    broker::Outbound::new(topic, format!(r#"{{"n":{number},"device":"d{}"}}"#, number % DEVICES))
}

/// Which message a record is.
pub fn number(record: &Record) -> usize {
    let value: serde_json::Value = serde_json::from_slice(&record.payload).unwrap();
    value["n"].as_u64().unwrap() as usize
}

pub fn assert_nothing_lost(records: &[Record], total: usize) {
    let numbers: BTreeSet<_> = records.iter().map(number).collect();
    let lost: Vec<_> = (0..total).filter(|number| !numbers.contains(number)).collect();
    assert!(lost.is_empty(), "{} of {total} messages lost, the first is {}", lost.len(), lost[0]);
}

pub fn assert_each_once(records: &[Record], total: usize) {
    assert_nothing_lost(records, total);
    assert_eq!(records.len(), total, "records, of which none may be a duplicate");
}
