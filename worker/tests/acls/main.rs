//! Bridge and processor as users of Kafka that have the rights which docs/security.md tells to give them, and no more.

// Helpers outside of test functions fail by panicking too.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "../processor/harness.rs"]
#[allow(dead_code, reason = "the processor's tests use more of it")]
mod processing;
#[path = "../bridge/support/mod.rs"]
#[allow(dead_code, reason = "the bridge's tests use more of it")]
mod support;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use crds::{
    names::SecretPurpose,
    pipeline::SaslMechanism,
    worker::{KafkaConfig, SaslConfig},
};
use rumqttc_v5::QoS;
use support::broker::{Outbound, publish};

const PASSWORD: &str = "a-password-of-the-tests";

#[test]
fn the_documented_rights_suffice_to_fill_a_topic_and_to_make_rows_of_it() {
    let mut bridging = support::Scenario::new("acls");
    let mut processing = processing::Scenario::without_topic("acls");
    let topic = bridging.name.clone();
    let (bridge, processor) = (format!("bridge-of-{topic}"), format!("processor-of-{topic}"));
    processing.config.consumer_group = format!("group-of-{topic}");
    administer(&[
        format!("user {bridge} {PASSWORD}"),
        format!("allow {bridge} topic {topic} {}", documented_rights("bridge", "topic")),
        format!("user {processor} {PASSWORD}"),
        format!("allow {processor} topic {topic} {}", documented_rights("processor", "topic")),
        format!(
            "allow {processor} group {} {}",
            processing.config.consumer_group,
            documented_rights("processor", "group")
        ),
    ]);
    bridging.kafka = as_user(&bridge, &topic);
    bridging.mount(SecretPurpose::KafkaPassword, "password", PASSWORD);
    processing.kafka = as_user(&processor, &topic);
    processing.mount(SecretPurpose::KafkaPassword, "password", PASSWORD);

    let _bridge = bridging.start_ready();
    let _processor = processing.start();
    let rows = 2_000;
    publish(
        &topic,
        QoS::AtLeastOnce,
        (0..rows).map(|n| Outbound::new(format!("{topic}/d{}", n % 20), processing::event(n))),
    );
    processing.assert_each_once(rows);
    administer(&[format!("remove-user {bridge}"), format!("remove-user {processor}")]);
}

fn as_user(username: &str, topic: &str) -> KafkaConfig {
    let servers = std::env::var("IOTPIPELINE_TEST_KAFKA_SASL");
    KafkaConfig {
        bootstrap_servers: servers.expect("IOTPIPELINE_TEST_KAFKA_SASL is not set: run `make test`"),
        topic: topic.to_owned(),
        tls: None,
        sasl: Some(SaslConfig { mechanism: SaslMechanism::ScramSha512, username: username.to_owned() }),
    }
}

/// Gives Kafka's superuser commands, which are those of tests/e2e/cluster/kafka-admin.
fn administer(commands: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/cluster/kafka-admin");
    let mut child = Command::new(script).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "kafka-admin failed");
}

/// The operations that docs/security.md tells to allow a worker on a kind of resource.
fn documented_rights(who: &str, resource: &str) -> String {
    let document = include_str!("../../../docs/security.md");
    let (_, commands) = document.split_once(&format!("# {who}\n")).unwrap();
    let is_it = |command: &&str| command.contains(&format!("--{resource} "));
    let command = commands.lines().take_while(|line| line.starts_with("kafka-acls.sh")).find(is_it).unwrap();
    let operations = command.split("--operation ").skip(1).map(|rest| rest.split(' ').next().unwrap());
    operations.collect::<Vec<_>>().join(",")
}
