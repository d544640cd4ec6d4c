//! Ways to come in, and what a person is told who chose the wrong one.

use std::time::{Duration, Instant};

use access::{
    kafka::{KafkaAccess, SaslAccess},
    tls::TlsMaterial,
};
use crds::{pipeline::SaslMechanism, status::Reason};
use futures::join;
use operator::{
    kafka::{Error, KafkaClient, TopicAdmin},
    pipeline::TopicName,
};

use crate::harness::{sasl, secret, tls, variable};

/// What is told at once takes less, although a busy machine may be slow.
const AT_ONCE: Duration = Duration::from_secs(6);

/// Whoever may still answer gets ten seconds.
const DEADLINE: Duration = Duration::from_secs(15);

const OURS: Option<&str> = Some("backends-ca");

/// A listener of the broker, by what the tests' variables call it.
fn listener(name: &str, tls: Option<TlsMaterial>, sasl: Option<SaslAccess>) -> KafkaAccess {
    address(&variable(&format!("IOTPIPELINE_TEST_{name}")), tls, sasl)
}

fn address(servers: &str, tls: Option<TlsMaterial>, sasl: Option<SaslAccess>) -> KafkaAccess {
    KafkaAccess { bootstrap_servers: servers.to_owned(), tls, sasl }
}

async fn observe(access: KafkaAccess) -> Result<(), Error> {
    let topic = TopicName::parse("nobody-made-this-topic").unwrap();
    KafkaClient::default().observe(&access, &topic).await.map(|observed| assert_eq!(observed.topic, None))
}

/// Kafka knows who asks: a user without any right.
fn assert_known_user(result: Result<(), Error>) {
    let error = result.unwrap_err();
    assert_eq!(error.reason(), Reason::KafkaRefused, "{error}");
    assert!(error.to_string().contains("TopicAuthorizationFailed"), "{error}");
}

async fn assert_told(access: KafkaAccess, reason: Reason, words: &str) {
    let started = Instant::now();
    let error = observe(access).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.reason(), reason, "{text}");
    assert!(text.contains(words), "{words:?} in {text:?}");
    for foreign in ["SSL routines", "error:", "Broker:", "uthentication failed", "wrong-password"] {
        assert!(!text.contains(foreign), "{foreign:?} in {text:?}");
    }
    let limit = if reason == Reason::KafkaUnreachable { DEADLINE } else { AT_ONCE };
    assert!(started.elapsed() < limit, "told after {:?}", started.elapsed());
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted() {
    observe(listener("KAFKA_TLS", tls(OURS, None), None)).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_names_the_user() {
    let material = tls(OURS, Some("client-outsider"));
    assert_known_user(observe(listener("KAFKA_CERTIFICATE", material, None)).await);
}

#[tokio::test]
async fn every_mechanism_lets_in_who_knows_the_password() {
    let password = secret("kafka-outsider", "password");
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
        let user = sasl(mechanism, "outsider", &password);
        assert_known_user(observe(listener("KAFKA_SASL_TLS", tls(OURS, None), user)).await);
    }
    for mechanism in [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
        let user = sasl(mechanism, "outsider", &password);
        assert_known_user(observe(listener("KAFKA_SASL", None, user)).await);
    }
}

#[tokio::test]
async fn a_server_certificate_that_cannot_be_trusted_is_told() {
    let user = sasl(SaslMechanism::Plain, "outsider", &secret("kafka-outsider", "password"));
    for access in [
        listener("KAFKA_TLS", tls(Some("stranger-ca"), None), None),
        listener("KAFKA_SASL_TLS", tls(Some("stranger-ca"), None), user),
        // No authority of the system signed it.
        listener("KAFKA_TLS", tls(None, None), None),
        // The certificate does not name this host.
        address("kafka-alias.kafka:9097", tls(OURS, None), None),
    ] {
        assert_told(access, Reason::KafkaTlsFailed, "kafka.tls.caSecretRef").await;
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_missing_or_not_trusted_is_told() {
    for client in [None, Some("client-stranger")] {
        let access = listener("KAFKA_CERTIFICATE", tls(OURS, client), None);
        assert_told(access, Reason::KafkaTlsFailed, "kafka.tls.clientSecretRef").await;
    }
}

#[tokio::test]
async fn a_key_that_does_not_belong_to_its_certificate_is_told() {
    let mut material = tls(OURS, Some("client-outsider")).unwrap();
    material.client.as_mut().unwrap().key = secret("client-bridge", "tls.key");
    let access = listener("KAFKA_CERTIFICATE", Some(material), None);
    assert_told(access, Reason::KafkaTlsFailed, "a private key that belongs to the certificate").await;
}

#[tokio::test]
async fn a_user_or_password_that_is_refused_is_told() {
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
        for user in ["outsider", "nobody"] {
            let user = sasl(mechanism, user, "wrong-password");
            let access = listener("KAFKA_SASL_TLS", tls(OURS, None), user);
            assert_told(access, Reason::KafkaAuthenticationFailed, "kafka.sasl.passwordSecretRef").await;
        }
    }
}

#[tokio::test]
async fn a_port_of_another_kind_is_told() {
    let user = sasl(SaslMechanism::Plain, "outsider", &secret("kafka-outsider", "password"));
    let access = listener("KAFKA_SASL", None, user);
    assert_told(access, Reason::KafkaAuthenticationFailed, "set kafka.sasl.mechanism to one").await;
    // Brokers just hang up here, which may have other causes.
    let told = |access, words| assert_told(access, Reason::KafkaUnreachable, words);
    join!(
        told(listener("KAFKA_SASL", None, None), "set kafka.sasl, or"),
        told(listener("KAFKA_SASL_TLS", tls(OURS, None), None), "set kafka.sasl, or"),
        told(listener("KAFKA_TLS", None, None), "set kafka.tls"),
        told(listener("KAFKA", tls(OURS, None), None), "remove kafka.tls"),
    );
}

#[tokio::test]
async fn a_host_that_is_not_known_is_told() {
    let error = observe(address("no-such-host.kafka:9092", None, None)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::KafkaUnreachable);
    assert!(error.to_string().contains("is not known to DNS"), "{error}");
}
