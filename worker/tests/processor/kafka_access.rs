//! Kafka behind TLS, users and rights: what is wrong is said and heals, and what rotates loses nothing.

use std::{thread, time::Duration};

use crds::{
    names::{CERTIFICATE_FILE, KEY_FILE, PASSWORD_FILE, SecretPurpose},
    pipeline::SaslMechanism,
    worker::{SaslConfig, TlsConfig},
};

use crate::harness::{Scenario, administer_kafka, client_certificate, under_load, variable};

const PARTITIONS: i32 = 2;

/// Records that the processor has to find, whatever stood in its way before.
fn send_ten(scenario: &Scenario) {
    let records = scenario.producer();
    records.send_events(0..10, PARTITIONS);
    records.flush();
}

fn use_tls(scenario: &mut Scenario, listener: &str, has_client_certificate: bool) {
    scenario.kafka.bootstrap_servers = variable(listener);
    scenario.kafka.tls = Some(TlsConfig { has_ca: true, has_client_certificate });
    scenario.mount_ca(SecretPurpose::KafkaCa, "backends-ca");
}

fn use_password(scenario: &mut Scenario, mechanism: SaslMechanism, username: &str, password: &str) {
    scenario.kafka.bootstrap_servers = variable("IOTPIPELINE_TEST_KAFKA_SASL_TLS");
    scenario.kafka.tls = Some(TlsConfig { has_ca: true, has_client_certificate: false });
    scenario.mount_ca(SecretPurpose::KafkaCa, "backends-ca");
    scenario.kafka.sasl = Some(SaslConfig { mechanism, username: username.to_owned() });
    scenario.mount(SecretPurpose::KafkaPassword, PASSWORD_FILE, password);
}

/// What docs/security.md tells to allow the processor, for a user of the test's own.
fn rights(scenario: &Scenario) -> [String; 2] {
    let name = &scenario.name;
    [format!("allow {name} topic {name} Describe,Read"), format!("allow {name} group {name} Read")]
}

#[test]
fn certificates_that_do_not_fit_are_named() {
    let alias = variable("IOTPIPELINE_TEST_KAFKA_TLS").replace("kafka.kafka", "kafka-alias.kafka");
    let mut scenario = Scenario::new("kafka_certificates", PARTITIONS);
    send_ten(&scenario);

    use_tls(&mut scenario, "IOTPIPELINE_TEST_KAFKA_TLS", false);
    scenario.mount_ca(SecretPurpose::KafkaCa, "stranger-ca");
    let processor = scenario.start();
    let message = processor.wait_for_problem("KafkaTlsFailed");
    assert!(message.contains("kafka.tls.caSecretRef"), "{message}");
    // The same process heals once the right authority is mounted.
    scenario.mount_ca(SecretPurpose::KafkaCa, "backends-ca");
    processor.wait_for("ready", |status| status.ready);
    scenario.assert_each_once(10);
    drop(processor);

    scenario.kafka.bootstrap_servers = alias;
    let message = scenario.start().wait_for_problem("KafkaTlsFailed");
    assert!(message.contains("kafka.bootstrapServers"), "{message}");

    use_tls(&mut scenario, "IOTPIPELINE_TEST_KAFKA_TLS", false);
    scenario.kafka.tls = Some(TlsConfig::default());
    let message = scenario.start().wait_for_problem("KafkaTlsFailed");
    assert!(message.contains("not among the system's"), "{message}");

    use_tls(&mut scenario, "IOTPIPELINE_TEST_KAFKA_CERTIFICATE", false);
    let message = scenario.start().wait_for_problem("KafkaTlsFailed");
    assert!(message.contains("kafka.tls.clientSecretRef"), "{message}");

    use_tls(&mut scenario, "IOTPIPELINE_TEST_KAFKA_CERTIFICATE", true);
    scenario.mount_client(SecretPurpose::KafkaClient, "client-stranger");
    let message = scenario.start().wait_for_problem("KafkaTlsFailed");
    assert!(message.contains("kafka.tls.clientSecretRef"), "{message}");

    scenario.mount(SecretPurpose::KafkaClient, KEY_FILE, "no key");
    let message = scenario.start().wait_for_problem("SecretInvalid");
    assert!(message.contains("kafka-client has a key tls.key that holds no private key"), "{message}");

    let (certificate, _) = client_certificate(&scenario.name);
    let (_, other_key) = client_certificate(&scenario.name);
    scenario.mount(SecretPurpose::KafkaClient, CERTIFICATE_FILE, &certificate);
    scenario.mount(SecretPurpose::KafkaClient, KEY_FILE, &other_key);
    let processor = scenario.start();
    processor.wait_for_problem("KafkaConfigInvalid");
    assert!(processor.terminate().success());
}

#[test]
fn passwords_and_rights_that_are_missing_are_named_and_heal() {
    let mut scenario = Scenario::new("kafka_rights", PARTITIONS);
    let name = scenario.name.clone();
    administer_kafka(&[format!("user {name} right")]);
    send_ten(&scenario);
    use_password(&mut scenario, SaslMechanism::ScramSha256, &name, "wrong");
    scenario.unmount(SecretPurpose::KafkaPassword);

    let processor = scenario.start();
    let message = processor.wait_for_problem("SecretInvalid");
    assert!(message.contains("kafka-password has no key password"), "{message}");
    scenario.mount(SecretPurpose::KafkaPassword, PASSWORD_FILE, "wrong");
    let message = processor.wait_for_problem("KafkaAuthenticationFailed");
    assert!(message.contains("kafka.sasl.passwordSecretRef") && !message.contains("wrong"), "{message}");
    scenario.mount(SecretPurpose::KafkaPassword, PASSWORD_FILE, "right");
    let wait_for = |words: &str, partitions: usize| {
        processor.wait_for(words, |status| {
            status.partitions.len() == partitions
                && status.problem.as_ref().is_some_and(|problem| {
                    problem.reason == "KafkaRefused" && problem.message.contains(words)
                })
        });
    };
    wait_for("the consumer group", 0);
    administer_kafka(&[format!("allow {name} group {name} Read")]);
    wait_for("read the topic", 0);
    administer_kafka(&[format!("allow {name} topic {name} Describe")]);
    wait_for("read the topic", 2);
    // It stays so, although clients come and go.
    let stays = |status: &crds::worker::WorkerStatus| !status.ready;
    for _ in 0..60 {
        assert!(processor.status().is_some_and(|status| stays(&status)));
        thread::sleep(Duration::from_millis(200));
    }
    administer_kafka(&rights(&scenario));
    processor.wait_for("ready", |status| status.ready);
    scenario.assert_each_once(10);
    administer_kafka(&[format!("remove-user {name}")]);
}

#[test]
fn every_mechanism_and_a_client_certificate_get_in() {
    let mut scenario = Scenario::new("kafka_users", PARTITIONS);
    let name = scenario.name.clone();
    let mut commands = vec![format!("user {name} secret")];
    commands.extend(rights(&scenario));
    commands.extend(rights(&scenario).map(|right| right.replacen(&name, "processor", 1)));
    administer_kafka(&commands);
    send_ten(&scenario);
    for mechanism in [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
        use_password(&mut scenario, mechanism, &name, "secret");
        scenario.start_ready();
    }
    let password = crate::harness::test_secret("kafka-processor", "password");
    use_password(&mut scenario, SaslMechanism::Plain, "processor", &password);
    scenario.start_ready();
    scenario.kafka.sasl = None;
    use_tls(&mut scenario, "IOTPIPELINE_TEST_KAFKA_CERTIFICATE", true);
    scenario.mount_client(SecretPurpose::KafkaClient, "client-processor");
    let _processor = scenario.start_ready();
    scenario.assert_each_once(10);
    administer_kafka(&[format!("remove-user {name}")]);
}

#[test]
fn a_password_rotates_under_load() {
    let mut scenario = Scenario::new("kafka_rotation", PARTITIONS);
    let name = scenario.name.clone();
    let mut commands = vec![format!("user {name} first")];
    commands.extend(rights(&scenario));
    administer_kafka(&commands);
    use_password(&mut scenario, SaslMechanism::ScramSha512, &name, "first");
    let processor = scenario.start_ready();
    let total = under_load(&scenario, PARTITIONS, 30, || {
        for password in ["second", "third"] {
            administer_kafka(&[format!("user {name} {password}")]);
            scenario.mount(SecretPurpose::KafkaPassword, PASSWORD_FILE, password);
            processor.wait_for("joining anew", |status| !status.ready);
            processor.wait_for("ready again", |status| status.ready);
        }
    });
    scenario.assert_each_once(total);
    assert!(scenario.dead_letters(0).is_empty());
    assert!(processor.terminate().success());
    administer_kafka(&[format!("remove-user {name}")]);
}

#[test]
fn a_client_certificate_rotates_under_load() {
    let mut scenario = Scenario::new("kafka_renewal", PARTITIONS);
    let name = scenario.name.clone();
    administer_kafka(&rights(&scenario));
    use_tls(&mut scenario, "IOTPIPELINE_TEST_KAFKA_CERTIFICATE", true);
    let renew = || {
        let (certificate, key) = client_certificate(&name);
        scenario.mount(SecretPurpose::KafkaClient, CERTIFICATE_FILE, &certificate);
        scenario.mount(SecretPurpose::KafkaClient, KEY_FILE, &key);
    };
    renew();
    let processor = scenario.start_ready();
    let total = under_load(&scenario, PARTITIONS, 20, || {
        renew();
        processor.wait_for("joining anew", |status| !status.ready);
        processor.wait_for("ready again", |status| status.ready);
    });
    scenario.assert_each_once(total);
    administer_kafka(&[format!("revoke {name}")]);
}
