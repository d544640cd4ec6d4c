//! Users that have no more rights than docs/security.md tells to give them, and users that have less.

use access::kafka::KafkaAccess;
use crds::{pipeline::SaslMechanism, status::Reason};
use operator::{
    change::Approvals,
    kafka::{Error, KafkaClient, TopicAction, TopicAdmin, TopicStep, plan},
    pipeline::Topic,
};
use std::collections::BTreeMap;

use crate::harness::{Test, administer, documented_rights, sasl, variable};

/// A user of Kafka for one test.
struct User(String);

impl User {
    fn new(test: &Test, name: &str) -> Self {
        Self(format!("{name}-{}", test.topic.name))
    }

    /// The commands that make it and give it rights on the test's topic; none where there are none to give.
    fn commands(&self, test: &Test, rights: &str) -> Vec<String> {
        let mut commands = vec![format!("user {} first-password", self.0)];
        if !rights.is_empty() {
            commands.push(format!("allow {} topic {} {rights}", self.0, test.topic.name));
        }
        commands
    }

    fn access(&self, password: &str) -> KafkaAccess {
        KafkaAccess {
            bootstrap_servers: variable("IOTPIPELINE_TEST_KAFKA_SASL"),
            tls: None,
            sasl: sasl(SaslMechanism::ScramSha512, &self.0, password),
        }
    }

    /// The test's topic as this user reaches it.
    fn topic(&self, test: &Test) -> Topic {
        Topic { kafka: self.access("first-password"), ..test.topic.clone() }
    }

    fn remove(&self) -> String {
        format!("remove-user {}", self.0)
    }
}

#[tokio::test]
async fn the_documented_rights_suffice_to_manage_a_topic() {
    let mut test = Test::new("rights-managed");
    let user = User::new(&test, "manager");
    administer(&user.commands(&test, &documented_rights("operator, Managed", "topic")));
    test.topic = user.topic(&test);
    test.apply(&test.plan(&test.topic, None).await).await;

    let mut changed = test.topic.clone();
    let wanted = changed.wanted.as_mut().unwrap();
    wanted.partitions = 3;
    wanted.config.insert("retention.ms".into(), "7200000".into());
    let plan = test.plan(&changed, Some(&test.pipeline)).await;
    assert_eq!(plan.steps.len(), 2);
    test.apply(&plan).await;
    assert_eq!(test.watermarks().await.len(), 3);
    test.kafka.delete(&test.topic.kafka, &test.topic.name).await.unwrap();
    assert_eq!(test.observe().await.topic, None);
    administer(&[user.remove()]);
}

#[tokio::test]
async fn the_documented_rights_suffice_to_use_a_topic() {
    let test = Test::created("rights-external").await;
    let user = User::new(&test, "user");
    administer(&user.commands(&test, &documented_rights("operator, External", "topic")));
    let topic = Topic { wanted: None, ..user.topic(&test) };
    let observed = test.kafka.observe(&topic.kafka, &topic.name).await.unwrap();
    assert!(observed.topic.as_ref().unwrap().config.is_some());
    assert_eq!(plan(&topic, &test.pipeline, &observed, None, None, &Approvals::default()).refusals, []);
    assert_eq!(test.kafka.watermarks(&topic.kafka, &topic.name).await.unwrap().len(), 2);

    // The check sees what is there.
    test.set_config(&[("cleanup.policy", "compact"), ("max.message.bytes", "1000000")]).await;
    let observed = test.kafka.observe(&topic.kafka, &topic.name).await.unwrap();
    let refusals = plan(&topic, &test.pipeline, &observed, None, None, &Approvals::default()).refusals;
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(refusals.iter().all(|refusal| refusal.reason == Reason::TopicUnfit), "{refusals:?}");
    administer(&[user.remove()]);
    test.finish().await;
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let test = Test::created("rights-missing").await;
    let absent = Test::new("rights-missing-too");
    let [nothing, blind, reader] = ["nothing", "blind", "reader"].map(|name| User::new(&test, name));
    let mut commands = nothing.commands(&test, "");
    commands.extend(blind.commands(&test, "Describe"));
    commands.extend(reader.commands(&test, "Describe,DescribeConfigs"));
    commands.push(format!("allow {} topic {} Describe,DescribeConfigs", reader.0, absent.topic.name));
    administer(&commands);
    let kafka = &test.kafka;
    let name = &test.topic.name;

    let error = kafka.observe(&nothing.access("first-password"), name).await.unwrap_err();
    assert_missing(&error, "Describe");
    let error = kafka.watermarks(&nothing.access("first-password"), name).await.unwrap_err();
    assert_missing(&error, "Describe");

    // Without its settings a topic can be used, but not managed.
    let observed = kafka.observe(&blind.access("first-password"), name).await.unwrap();
    let managed = plan(
        &blind.topic(&test),
        &test.pipeline,
        &observed,
        Some(&test.pipeline),
        None,
        &Approvals::default(),
    );
    assert_eq!((managed.steps.len(), managed.refusals[0].reason), (0, Reason::KafkaRefused));
    assert!(managed.refusals[0].message.contains("DescribeConfigs on the topic"), "{managed:?}");
    let external = Topic { wanted: None, ..blind.topic(&test) };
    assert_eq!(plan(&external, &test.pipeline, &observed, None, None, &Approvals::default()).refusals, []);

    let reader = reader.access("first-password");
    let config = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
    for (right, topic, action) in [
        (
            "Create",
            &absent.topic,
            TopicAction::Create { partitions: 1, replication_factor: 1, config: config.clone() },
        ),
        ("AlterConfigs", &test.topic, TopicAction::AlterConfig { config }),
        ("Alter", &test.topic, TopicAction::AddPartitions { total: 5 }),
    ] {
        let step = TopicStep { changes: Vec::new(), action };
        assert_missing(&kafka.apply(&reader, &topic.name, &step).await.unwrap_err(), right);
    }
    assert_missing(&kafka.delete(&reader, name).await.unwrap_err(), "Delete");
    administer(&[nothing.remove(), blind.remove(), format!("remove-user reader-{name}")]);
    test.finish().await;
}

#[tokio::test]
async fn a_changed_password_counts_at_once() {
    let test = Test::created("rights-password").await;
    let user = User::new(&test, "rotating");
    administer(&user.commands(&test, "Describe"));
    let (kafka, name) = (&test.kafka, &test.topic.name);
    kafka.observe(&user.access("first-password"), name).await.unwrap();
    let error = kafka.observe(&user.access("second-password"), name).await.unwrap_err();
    assert_eq!(error.reason(), Reason::KafkaAuthenticationFailed);
    administer(&[format!("user {} second-password", user.0)]);
    kafka.observe(&user.access("second-password"), name).await.unwrap();
    let error = KafkaClient::default().observe(&user.access("first-password"), name).await.unwrap_err();
    assert_eq!(error.reason(), Reason::KafkaAuthenticationFailed);
    administer(&[user.remove()]);
    test.finish().await;
}

fn assert_missing(error: &Error, right: &str) {
    assert_eq!(error.reason(), Reason::KafkaRefused, "{error}");
    assert!(error.to_string().contains(&format!("user {right} on the topic")), "{right} in {error}");
}
