//! Topics that the operator makes and keeps.

use std::{collections::BTreeMap, time::SystemTime};

use crds::{status::Reason, worker::PipelineId};
use operator::{
    kafka::{Error, KafkaClient, TopicAdmin, TopicPlan, Watermarks},
    pipeline::{TopicName, WantedTopic},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::harness::{Test, plain};

#[tokio::test]
async fn a_topic_is_created_as_asked_and_then_left_alone() {
    let test = Test::new("create");
    let mut plan = test.plan(&test.topic, None).await;
    assert!(plan.claim);
    assert_eq!(test.apply(&plan).await, [format!("topic {} created", test.topic.name)]);

    plan = test.plan(&test.topic, Some(&test.pipeline)).await;
    assert_eq!(plan, TopicPlan::default());
    let existing = test.observe().await.topic.unwrap();
    assert_eq!((existing.partitions, existing.replication_factor), (2, 1));
    let config = existing.config.unwrap();
    assert_eq!(config["retention.ms"].value, "3600000");
    assert!(config["retention.ms"].set_on_topic);
    assert!(!config["segment.bytes"].set_on_topic);
    assert_eq!(config["max.message.bytes"].value, "2000000");
    test.finish().await;
}

#[tokio::test]
async fn looking_at_a_topic_does_not_create_it() {
    let test = Test::new("look");
    for _ in 0..3 {
        assert_eq!(test.observe().await.topic, None);
        assert_eq!(test.watermarks().await, BTreeMap::new());
        // A broker that creates topics by itself takes a moment.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert!(!test.observe().await.cluster_id.is_empty());
}

#[tokio::test]
async fn drift_of_every_managed_setting_is_repaired_and_all_others_survive() {
    let test = Test::created("drift").await;
    // Somebody else's hand: our settings changed or gone, one of theirs set.
    test.set_config(&[("retention.ms", "1000"), ("max.message.bytes", "1000"), ("segment.ms", "7200000")])
        .await;

    let plan = test.plan(&test.topic, Some(&test.pipeline)).await;
    let name = &test.topic.name;
    assert_eq!(
        test.apply(&plan).await,
        [
            format!("topic {name}: compression.type changed from producer to zstd"),
            format!("topic {name}: max.message.bytes changed from 1000 to 2000000"),
            format!("topic {name}: retention.ms changed from 1000 to 3600000"),
        ]
    );
    test.settled(&test.topic).await;
    assert_eq!(test.observe().await.topic.unwrap().config.unwrap()["segment.ms"].value, "7200000");
    test.finish().await;
}

#[tokio::test]
async fn a_larger_max_message_bytes_stays_and_a_wanted_default_is_no_drift() {
    let mut test = Test::created("minimum").await;
    test.set_config(&[
        ("retention.ms", "3600000"),
        ("compression.type", "zstd"),
        ("max.message.bytes", "9000000"),
    ])
    .await;
    test.wanted().config.insert("cleanup.policy".into(), "delete".into());
    assert_eq!(test.plan(&test.topic, Some(&test.pipeline)).await, TopicPlan::default());
    test.finish().await;
}

#[tokio::test]
async fn partitions_grow_and_never_shrink() {
    let test = Test::created("partitions").await;
    assert_eq!(test.watermarks().await.len(), 2);
    let mut grown = test.topic.clone();
    grown.wanted.as_mut().unwrap().partitions = 5;
    let plan = test.plan(&grown, Some(&test.pipeline)).await;
    assert_eq!(
        test.apply(&plan).await,
        [format!("topic {}: partitions changed from 2 to 5", test.topic.name)]
    );
    test.settled(&grown).await;

    let plan = test.plan(&test.topic, Some(&test.pipeline)).await;
    assert_eq!(plan.steps, []);
    assert_eq!(plan.refusals[0].reason, Reason::TopicChangeRefused);
    assert_eq!(test.observe().await.topic.unwrap().partitions, 5);
    assert_eq!(test.watermarks().await.len(), 5, "who asked before knows of the new ones");
    test.finish().await;
}

#[tokio::test]
async fn a_topic_of_somebody_else_is_refused() {
    let test = Test::created("foreign").await;
    let plan = test.plan(&test.topic, None).await;
    assert_eq!((plan.claim, plan.steps.len(), plan.refusals[0].reason), (false, 0, Reason::TopicNotOwned));
    let other = PipelineId { name: "other".into(), ..test.pipeline.clone() };
    let plan = test.plan(&test.topic, Some(&other)).await;
    assert_eq!((plan.steps.len(), plan.refusals[0].reason), (0, Reason::ResourceConflict));
    test.finish().await;
}

#[tokio::test]
async fn a_topic_that_appears_between_plan_and_creation_is_repaired_next() {
    let test = Test::new("race");
    let early = test.plan(&test.topic, None).await;
    // The broker's own creation: one partition, default settings.
    let mut automatic = test.topic.clone();
    automatic.wanted = Some(WantedTopic {
        adopt: false,
        partitions: 1,
        allow_reorder: false,
        replication_factor: 1,
        config: BTreeMap::new(),
    });
    test.apply(&test.plan(&automatic, None).await).await;

    let step = &early.steps[0];
    let error = test.kafka.apply(&test.topic.kafka, &test.topic.name, step).await.unwrap_err();
    assert!(matches!(error, Error::NotAsAsked { .. }), "{error}");
    let repair = test.plan(&test.topic, Some(&test.pipeline)).await;
    assert_eq!(repair.steps.len(), 2);
    test.apply(&repair).await;
    test.settled(&test.topic).await;
    test.finish().await;
}

#[tokio::test]
async fn watermarks_tell_what_a_partition_holds() {
    let test = Test::created("watermarks").await;
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &test.topic.kafka.bootstrap_servers).create().unwrap();
    for number in 0..7 {
        let record = BaseRecord::<(), str>::to(test.topic.name.as_str()).partition(number % 2).payload("x");
        producer.send(record).unwrap();
    }
    producer.flush(std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(
        test.watermarks().await,
        BTreeMap::from([(0, Watermarks { low: 0, high: 4 }), (1, Watermarks { low: 0, high: 3 })])
    );
    test.finish().await;
}

#[tokio::test]
async fn a_deleted_topic_is_gone_and_deleting_it_again_succeeds() {
    let test = Test::created("delete").await;
    for _ in 0..2 {
        test.kafka.delete(&test.topic.kafka, &test.topic.name).await.unwrap();
        assert_eq!(test.observe().await.topic, None);
    }
}

#[tokio::test]
async fn a_deleted_group_is_gone_with_its_offsets_and_deleting_it_again_succeeds() {
    let test = Test::created("group").await;
    let group = format!("group-{}", test.topic.name);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &test.topic.kafka.bootstrap_servers)
        .set("group.id", &group)
        .create()
        .unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(test.topic.name.as_str(), 0, Offset::Offset(0)).unwrap();
    consumer.commit(&offsets, CommitMode::Sync).unwrap();
    drop(consumer);
    let deletion = test.kafka.delete_group(&test.topic.kafka, &group).await.unwrap().unwrap();
    assert_eq!(deletion.to_string(), format!("consumer group {group} deleted"));
    assert_eq!(test.kafka.delete_group(&test.topic.kafka, &group).await.unwrap(), None);
    test.finish().await;
}

#[tokio::test]
async fn refusals_of_the_broker_say_what_to_do() {
    let mut test = Test::new("refused");
    test.wanted().replication_factor = 3;
    let error = test.try_create().await.unwrap_err();
    assert_eq!(error.reason(), Reason::KafkaRefused);
    assert!(error.to_string().contains("fewer brokers than kafka.topic.replicationFactor"), "{error}");

    test.wanted().replication_factor = 1;
    test.wanted().config.insert("compression.type".into(), "rar".into());
    let error = test.try_create().await.unwrap_err();
    assert_eq!(error.reason(), Reason::KafkaRefused);
    assert!(error.to_string().contains("kafka.topic.config"), "{error}");
    assert_eq!(test.observe().await.topic, None);
}

#[tokio::test]
async fn silence_is_told_from_refusal_within_the_deadline() {
    let topic = TopicName::parse("t").unwrap();
    let started = SystemTime::now();
    // Nothing listens on the discard port.
    let error = KafkaClient::default().observe(&plain("127.0.0.1:9"), &topic).await.unwrap_err();
    assert_eq!(error.reason(), Reason::KafkaUnreachable);
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
    assert!(started.elapsed().unwrap().as_secs() < 15);
}
