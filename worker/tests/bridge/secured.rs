//! TLS, WebSockets, certificates, users and rights, with the right ones and with others.

use std::{thread, time::Duration};

use crds::{
    names::{CA_FILE, PASSWORD_FILE, SecretPurpose},
    pipeline::{ProtocolVersion, SaslMechanism},
    worker::{MqttTransport, SaslConfig, TlsConfig},
};
use rumqttc_v5::QoS;

use crate::support::{
    Scenario, address_of, administer_kafka,
    broker::publish,
    records::{assert_each_once, assert_nothing_lost, message, read_topic},
    secret, variable, wait_until,
};

const MQTT_TLS: &str = "IOTPIPELINE_TEST_MQTT_TLS";
const MQTT_CERTIFICATE: &str = "IOTPIPELINE_TEST_MQTT_CERTIFICATE";
const KAFKA_TLS: &str = "IOTPIPELINE_TEST_KAFKA_TLS";
const KAFKA_CERTIFICATE: &str = "IOTPIPELINE_TEST_KAFKA_CERTIFICATE";
const KAFKA_SASL_TLS: &str = "IOTPIPELINE_TEST_KAFKA_SASL_TLS";

/// The bridge reaches the broker at the address in `variable`, with the authority in `ca` and the certificate in
/// `client`, or a password where there is none.
fn reach_broker(
    scenario: &mut Scenario,
    variable: &str,
    transport: MqttTransport,
    ca: &str,
    client: Option<&str>,
) {
    (scenario.config.host, scenario.config.port) = address_of(variable);
    scenario.config.transport = transport;
    scenario.config.tls = TlsConfig { has_ca: true, has_client_certificate: client.is_some() };
    scenario.mount(SecretPurpose::MqttCa, CA_FILE, &secret(ca, CA_FILE));
    if let Some(client) = client {
        scenario.config.has_credentials = false;
        scenario.mount_certificate(SecretPurpose::MqttClient, client);
    }
}

/// The bridge reaches Kafka at the address in `variable`, with the authority in `ca`.
fn reach_kafka(scenario: &mut Scenario, variable_name: &str, ca: &str) {
    scenario.kafka.bootstrap_servers = variable(variable_name);
    scenario.kafka.tls = Some(TlsConfig { has_ca: true, has_client_certificate: false });
    scenario.mount(SecretPurpose::KafkaCa, CA_FILE, &secret(ca, CA_FILE));
}

fn log_in(scenario: &mut Scenario, mechanism: SaslMechanism, username: &str, password: &str) {
    scenario.kafka.sasl = Some(SaslConfig { mechanism, username: username.to_owned() });
    scenario.mount(SecretPurpose::KafkaPassword, PASSWORD_FILE, password);
}

/// Through a stop in the middle, whose last acknowledgements must arrive: nothing comes twice.
fn assert_carries_messages(scenario: &Scenario) {
    let bridge = scenario.start_ready();
    let total = 2000;
    thread::scope(|scope| {
        scope.spawn(|| {
            publish(&scenario.name, QoS::AtLeastOnce, (0..total).map(|number| message(scenario, number)));
        });
        let delivered = || bridge.metric("iotpipeline_bridge_messages_delivered_total");
        wait_until(|| delivered() > 0.0).unwrap();
        assert!(bridge.terminate().success());
    });
    let _bridge = scenario.start();
    assert_each_once(&read_topic(&scenario.name, total), total);
}

#[test]
fn every_transport_carries_messages_in_both_versions() {
    let web_socket = "/mqtt".to_owned();
    let transports = [
        (MQTT_TLS, MqttTransport::Tls, None),
        (MQTT_CERTIFICATE, MqttTransport::Tls, Some("client-bridge")),
        ("IOTPIPELINE_TEST_MQTT_WS", MqttTransport::WebSocket(web_socket.clone()), None),
        ("IOTPIPELINE_TEST_MQTT_WSS", MqttTransport::SecureWebSocket(web_socket), None),
    ];
    for protocol_version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        for (variable, transport, client) in &transports {
            let mut scenario = Scenario::new("transport");
            scenario.config.protocol_version = protocol_version;
            scenario.config.alpn = vec!["mqtt".to_owned()];
            reach_broker(&mut scenario, variable, transport.clone(), "backends-ca", *client);
            assert_carries_messages(&scenario);
        }
    }
}

#[test]
fn what_is_wrong_with_tls_at_the_broker_is_told() {
    /// Address, authority, client certificate, what else is different, reason, and words of the message.
    type Case =
        (&'static str, &'static str, Option<&'static str>, fn(&mut Scenario), &'static str, &'static str);
    let cases: [Case; 7] = [
        (
            MQTT_TLS,
            "stranger-ca",
            None,
            |_| (),
            "BrokerTlsFailed",
            "no authority in spec.mqtt.tls.caSecretRef signed",
        ),
        (
            MQTT_TLS,
            "backends-ca",
            None,
            |scenario| scenario.config.tls.has_ca = false,
            "BrokerTlsFailed",
            "no authority of the system signed",
        ),
        (
            MQTT_TLS,
            "backends-ca",
            None,
            |scenario| scenario.config.host = "mosquitto-alias.mqtt".to_owned(),
            "BrokerTlsFailed",
            "does not name this host",
        ),
        (MQTT_CERTIFICATE, "backends-ca", None, |_| (), "BrokerTlsFailed", "spec.mqtt.tls.clientSecretRef"),
        (
            MQTT_CERTIFICATE,
            "backends-ca",
            Some("client-stranger"),
            |_| (),
            "BrokerTlsFailed",
            "does not accept the client certificate of spec.mqtt.tls.clientSecretRef",
        ),
        (
            MQTT_TLS,
            "backends-ca",
            None,
            |scenario| scenario.config.transport = MqttTransport::Tcp,
            "BrokerUnreachable",
            "closed the connection",
        ),
        (
            "IOTPIPELINE_TEST_MQTT_WSS",
            "backends-ca",
            None,
            |scenario| scenario.mount(SecretPurpose::MqttCa, CA_FILE, "hunter2"),
            "SecretInvalid",
            "ca.crt that holds no certificates in PEM form (spec.mqtt.tls)",
        ),
    ];
    for protocol_version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        for (variable, ca, client, change, reason, says) in cases {
            let mut scenario = Scenario::new("distrust");
            scenario.config.protocol_version = protocol_version;
            reach_broker(&mut scenario, variable, MqttTransport::Tls, ca, client);
            change(&mut scenario);
            let problem = scenario.start().wait_for_problem(reason).problem.unwrap();
            assert!(problem.message.contains(says), "{}", problem.message);
        }
    }
}

#[test]
fn a_certificate_or_a_password_is_all_that_kafka_asks_for() {
    let mut scenario = Scenario::new("kafka-tls");
    reach_kafka(&mut scenario, KAFKA_TLS, "backends-ca");
    assert_carries_messages(&scenario);

    let mut scenario = Scenario::new("kafka-certificate");
    reach_kafka(&mut scenario, KAFKA_CERTIFICATE, "backends-ca");
    scenario.kafka.tls = Some(TlsConfig { has_ca: true, has_client_certificate: true });
    scenario.mount_certificate(SecretPurpose::KafkaClient, "client-bridge");
    administer_kafka(&[format!("allow bridge topic {} Describe,Write", scenario.name)]);
    assert_carries_messages(&scenario);

    for mechanism in [SaslMechanism::ScramSha512, SaslMechanism::ScramSha256, SaslMechanism::Plain] {
        let mut scenario = Scenario::new("kafka-sasl");
        reach_kafka(&mut scenario, KAFKA_SASL_TLS, "backends-ca");
        log_in(&mut scenario, mechanism, "bridge", &secret("kafka-bridge", "password"));
        administer_kafka(&[format!("allow bridge topic {} Describe,Write", scenario.name)]);
        assert_carries_messages(&scenario);
    }
}

#[test]
fn what_kafka_refuses_is_told() {
    let mut scenario = Scenario::new("kafka-distrust");
    let user = scenario.name.clone();
    reach_kafka(&mut scenario, KAFKA_SASL_TLS, "stranger-ca");
    log_in(&mut scenario, SaslMechanism::ScramSha512, &user, "another-password");
    administer_kafka(&[format!("user {user} right-password")]);
    let tells = |scenario: &Scenario, reason: &str, says: &str| {
        let problem = scenario.start().wait_for_problem(reason).problem.unwrap();
        assert!(problem.message.contains(says), "{}", problem.message);
    };
    tells(&scenario, "KafkaTlsFailed", "kafka.tls.caSecretRef");
    scenario.mount(SecretPurpose::KafkaCa, CA_FILE, &secret("backends-ca", CA_FILE));
    tells(&scenario, "KafkaAuthenticationFailed", "kafka.sasl.passwordSecretRef");
    scenario.mount(SecretPurpose::KafkaPassword, PASSWORD_FILE, "right-password");
    tells(&scenario, "KafkaRefused", "DESCRIBE and WRITE on the topic");

    administer_kafka(&[format!("allow {user} topic {user} Describe")]);
    let bridge = scenario.start_ready();
    publish(&scenario.name, QoS::AtLeastOnce, [message(&scenario, 0)]);
    let problem = bridge.wait_for_problem("KafkaRefused").problem.unwrap();
    assert!(problem.message.contains("WRITE on the topic"), "{}", problem.message);
    administer_kafka(&[format!("allow {user} topic {user} Write")]);
    assert_each_once(&read_topic(&scenario.name, 1), 1);
    administer_kafka(&[format!("remove-user {user}")]);
}

#[test]
fn a_password_of_kafka_changes_under_load_without_a_restart() {
    let mut scenario = Scenario::new("rotation");
    let user = scenario.name.clone();
    reach_kafka(&mut scenario, KAFKA_SASL_TLS, "backends-ca");
    log_in(&mut scenario, SaslMechanism::ScramSha512, &user, "first-password");
    administer_kafka(&[
        format!("user {user} first-password"),
        format!("allow {user} topic {user} Describe,Write"),
    ]);
    let bridge = scenario.start_ready();
    let total = 6000;
    thread::scope(|scope| {
        scope.spawn(|| {
            for begin in (0..total).step_by(100) {
                publish(
                    &scenario.name,
                    QoS::AtLeastOnce,
                    (begin..begin + 100).map(|number| message(&scenario, number)),
                );
                thread::sleep(Duration::from_millis(300));
            }
        });
        // A producer that has logged in stays logged in: only one that was made anew minds.
        scenario.mount(SecretPurpose::KafkaPassword, PASSWORD_FILE, "second-password");
        bridge.wait_for_problem("KafkaAuthenticationFailed");
        administer_kafka(&[format!("user {user} second-password")]);
        bridge.wait_for("ready", |status| status.ready);
    });
    assert_nothing_lost(&read_topic(&scenario.name, total), total);
    assert!(bridge.terminate().success(), "the same process all the time");
    administer_kafka(&[format!("remove-user {user}")]);
}
