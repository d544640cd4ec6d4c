//! What is planned for a topic.

use access::kafka::KafkaAccess;

use super::*;
use crate::{kafka::TopicSetting, pipeline::TopicName};

fn wanted() -> Topic {
    Topic {
        kafka: KafkaAccess { bootstrap_servers: "kafka.kafka:9092".to_owned(), tls: None, sasl: None },
        name: TopicName::parse("plant-7.line").unwrap(),
        wanted: Some(WantedTopic {
            adopt: false,
            partitions: 6,
            allow_reorder: false,
            replication_factor: 3,
            config: BTreeMap::from([
                ("retention.ms".into(), "604800000".into()),
                ("compression.type".into(), "zstd".into()),
            ]),
        }),
        min_max_message_bytes: Some(2_000_000),
    }
}

fn pipeline(name: &str) -> PipelineId {
    PipelineId { cluster_name: "c".into(), namespace: "plant-7".into(), name: name.into() }
}

/// The topic as `wanted` makes it, beside a setting of somebody else's and a default.
fn as_wanted() -> ExistingTopic {
    let setting = |value: &str, set_on_topic| TopicSetting { value: value.into(), set_on_topic };
    ExistingTopic {
        partitions: 6,
        replication_factor: 3,
        config: Some(BTreeMap::from([
            ("retention.ms".into(), setting("604800000", false)),
            ("compression.type".into(), setting("zstd", true)),
            ("max.message.bytes".into(), setting("2000000", true)),
            ("segment.ms".into(), setting("3600000", true)),
            ("cleanup.policy".into(), setting("delete", false)),
        ])),
    }
}

/// [`as_wanted`] with another value of one setting.
fn with(name: &str, value: &str) -> ExistingTopic {
    let mut existing = as_wanted();
    existing.config.as_mut().unwrap().get_mut(name).unwrap().value = value.into();
    existing
}

fn plan(
    wanted: &Topic,
    pipeline: &PipelineId,
    observed: &ObservedTopic,
    marker: Option<&PipelineId>,
) -> TopicPlan {
    super::plan(wanted, pipeline, observed, marker, None, &Approvals::default())
}

fn observed(topic: Option<ExistingTopic>) -> ObservedTopic {
    ObservedTopic { cluster_id: "k1".into(), topic, is_empty: false }
}

fn plan_ours(existing: ExistingTopic) -> TopicPlan {
    plan(&wanted(), &pipeline("line"), &observed(Some(existing)), Some(&pipeline("line")))
}

fn only_refusal(plan: &TopicPlan) -> (Reason, &str) {
    assert_eq!((plan.claim, plan.steps.len(), plan.refusals.len()), (false, 0, 1), "{plan:?}");
    (plan.refusals[0].reason, &plan.refusals[0].message)
}

#[test]
fn a_missing_topic_is_claimed_and_created() {
    let plan = plan(&wanted(), &pipeline("line"), &observed(None), None);
    assert!(plan.claim);
    assert_eq!(plan.steps[0].changes[0].to_string(), "topic plant-7.line created");
    insta::assert_debug_snapshot!(plan.steps[0].action);
}

#[test]
fn a_topic_that_vanished_is_created_without_another_claim() {
    let plan = plan(&wanted(), &pipeline("line"), &observed(None), Some(&pipeline("line")));
    assert!(!plan.claim);
    assert!(matches!(plan.steps[0].action, TopicAction::Create { .. }));
}

#[test]
fn a_topic_as_wanted_needs_nothing() {
    assert_eq!(plan_ours(as_wanted()), TopicPlan::default());
}

#[test]
fn drift_of_named_settings_is_repaired_and_others_stay() {
    let mut existing = with("retention.ms", "1000");
    existing.config.as_mut().unwrap().get_mut("compression.type").unwrap().value = "producer".into();
    let plan = plan_ours(existing);
    let changes: Vec<_> = plan.steps[0].changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "topic plant-7.line: compression.type changed from producer to zstd",
            "topic plant-7.line: retention.ms changed from 1000 to 604800000",
        ]
    );
    assert_eq!(plan.steps[0].action, TopicAction::AlterConfig { config: wanted().wanted.unwrap().config });
    assert_eq!(plan.refusals, []);
}

#[test]
fn max_message_bytes_is_a_minimum() {
    assert_eq!(plan_ours(with("max.message.bytes", "10485760")), TopicPlan::default());

    let config = BTreeMap::from([("max.message.bytes".to_owned(), "2000000".to_owned())]);
    assert_eq!(
        plan_ours(with("max.message.bytes", "1048588")).steps[0].action,
        TopicAction::AlterConfig { config }
    );
}

#[test]
fn a_setting_that_kafka_does_not_know_is_refused_and_the_rest_goes_on() {
    let mut topic = wanted();
    topic.wanted.as_mut().unwrap().config.insert("retention.hours".into(), "1".into());
    let observed = observed(Some(with("retention.ms", "1000")));
    let plan = plan(&topic, &pipeline("line"), &observed, Some(&pipeline("line")));
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.refusals[0].reason, Reason::KafkaRefused);
    assert!(plan.refusals[0].message.contains("retention.hours"));
}

#[test]
fn partitions_grow() {
    let plan = plan_ours(ExistingTopic { partitions: 2, ..as_wanted() });
    assert_eq!(plan.steps[0].action, TopicAction::AddPartitions { total: 6 });
    assert_eq!(plan.steps[0].changes[0].to_string(), "topic plant-7.line: partitions changed from 2 to 6");
}

#[test]
fn what_is_kept_for_a_shorter_time_is_deleted() {
    let class = |name, from, to| class_of_setting(name, from, to);
    for name in ["retention.ms", "retention.bytes"] {
        for (from, to) in [("2000", "1000"), ("-1", "1000")] {
            assert_eq!(class(name, from, to), ChangeClass::Destructive, "{name} {from} {to}");
            assert_eq!(class(name, to, from), ChangeClass::Safe, "{name} {to} {from}");
        }
    }
    assert_eq!(class("segment.ms", "2000", "1000"), ChangeClass::Safe);
    let growth = plan_ours(ExistingTopic { partitions: 2, ..as_wanted() });
    assert_eq!(growth.steps[0].changes[0].class, ChangeClass::Disruptive);
}

#[test]
fn a_shorter_retention_waits_for_approval_and_the_rest_does_not() {
    let ours = pipeline("line");
    let mut existing = with("retention.ms", "-1");
    existing.config.as_mut().unwrap().get_mut("compression.type").unwrap().value = "producer".into();
    let plan_with = |approvals: &Approvals, is_empty| {
        let observed = ObservedTopic { is_empty, ..observed(Some(existing.clone())) };
        super::plan(&wanted(), &ours, &observed, Some(&ours), None, approvals)
    };
    let waiting = plan_with(&Approvals::new(4, None, &[]), false);
    let config = BTreeMap::from([("compression.type".to_owned(), "zstd".to_owned())]);
    assert_eq!(waiting.steps[0].action, TopicAction::AlterConfig { config });
    assert_eq!(waiting.steps[0].changes.len(), 1);
    assert_eq!(waiting.held[0].field, "retention.ms");
    assert_eq!(waiting.refusals[0].reason, Reason::ApprovalRequired);
    insta::assert_snapshot!(waiting.refusals[0].message);

    let hash = Approvals::new(4, None, &[]).hash(&waiting.held[0]);
    let approved = Approvals::new(4, Some(&hash), &[]);
    for plan in [plan_with(&approved, false), plan_with(&Approvals::default(), true)] {
        assert_eq!((plan.held.len(), plan.refusals.len()), (0, 0), "{plan:?}");
        let config = wanted().wanted.unwrap().config;
        assert_eq!(plan.steps[0].action, TopicAction::AlterConfig { config });
    }
}

#[test]
fn fewer_partitions_are_refused() {
    let plan = plan_ours(ExistingTopic { partitions: 12, ..as_wanted() });
    let (reason, message) = only_refusal(&plan);
    assert_eq!(reason, Reason::TopicChangeRefused);
    assert!(message.contains("set it to 12 or more"), "{message}");
}

#[test]
fn another_replication_factor_is_refused_with_the_command() {
    let plan = plan_ours(ExistingTopic { replication_factor: 1, ..as_wanted() });
    let (reason, message) = only_refusal(&plan);
    assert_eq!(reason, Reason::TopicChangeRefused);
    assert!(
        message.contains("kafka-reassign-partitions.sh --bootstrap-server kafka.kafka:9092"),
        "{message}"
    );
}

#[test]
fn a_topic_without_marker_is_not_owned() {
    let plan = plan(&wanted(), &pipeline("line"), &observed(Some(as_wanted())), None);
    let (reason, message) = only_refusal(&plan);
    assert_eq!(reason, Reason::TopicNotOwned);
    assert!(message.contains("set adoptionPolicy: Adopt"), "{message}");
}

#[test]
fn a_topic_of_nobody_is_adopted_and_made_as_the_spec_says() {
    let mut adopting = wanted();
    adopting.wanted.as_mut().unwrap().adopt = true;
    let plan_for = |existing, marker: Option<&PipelineId>| {
        plan(&adopting, &pipeline("line"), &observed(Some(existing)), marker)
    };
    let plan = plan_for(with("compression.type", "gzip"), None);
    assert!(plan.claim);
    let adoption = plan.adoption.unwrap();
    assert_eq!(adoption.to_string(), "topic plant-7.line: ownership changed from nobody's to adopted");
    assert_eq!(adoption.class, ChangeClass::Safe);
    assert_eq!((plan.steps.len(), plan.refusals), (1, Vec::new()));

    // What a spec of our own would not get either.
    let plan = plan_for(ExistingTopic { partitions: 12, ..as_wanted() }, None);
    assert_eq!((plan.claim, plan.refusals[0].reason), (true, Reason::TopicChangeRefused));
    for unfit in [with("cleanup.policy", "compact"), ExistingTopic { config: None, ..as_wanted() }] {
        let plan = plan_for(unfit, None);
        assert_eq!((plan.claim, plan.adoption, plan.steps.len(), plan.refusals.len()), (false, None, 0, 1));
    }
    assert_eq!(only_refusal(&plan_for(as_wanted(), Some(&pipeline("other")))).0, Reason::ResourceConflict);
    assert_eq!(plan_for(as_wanted(), Some(&pipeline("line"))), TopicPlan::default());
}

#[test]
fn a_topic_of_another_pipeline_is_a_conflict_even_before_it_exists() {
    for existing in [None, Some(as_wanted())] {
        let plan = plan(&wanted(), &pipeline("line"), &observed(existing), Some(&pipeline("other")));
        let (reason, message) = only_refusal(&plan);
        assert_eq!(reason, Reason::ResourceConflict);
        assert!(message.contains("IoTPipeline other in namespace plant-7"), "{message}");
    }
}

#[test]
fn a_topic_that_another_pipeline_manages_is_a_conflict_whatever_the_marker_says() {
    let manager = ("plant-8".to_owned(), "other".to_owned());
    for existing in [None, Some(as_wanted())] {
        for marker in [None, Some(&pipeline("line"))] {
            let observed = observed(existing.clone());
            let plan = super::plan(
                &wanted(),
                &pipeline("line"),
                &observed,
                marker,
                Some(&manager),
                &Approvals::default(),
            );
            let (reason, message) = only_refusal(&plan);
            assert_eq!(reason, Reason::ResourceConflict);
            assert!(message.contains("managed by the IoTPipeline other in namespace plant-8"), "{message}");
        }
    }
}

#[test]
fn a_topic_without_known_settings_is_left_alone() {
    let plan = plan_ours(ExistingTopic { config: None, ..as_wanted() });
    let (reason, message) = only_refusal(&plan);
    assert_eq!(reason, Reason::KafkaRefused);
    assert!(message.contains("DescribeConfigs"), "{message}");
}

#[test]
fn an_external_topic_is_never_claimed_or_changed_or_deleted() {
    let external = Topic { wanted: None, ..wanted() };
    let manager = ("plant-8".to_owned(), "other".to_owned());
    for existing in [None, Some(as_wanted()), Some(with("retention.ms", "1000"))] {
        for marker in [None, Some(&pipeline("line")), Some(&pipeline("other"))] {
            let observed = observed(existing.clone());
            let plan = super::plan(
                &external,
                &pipeline("line"),
                &observed,
                marker,
                Some(&manager),
                &Approvals::default(),
            );
            assert_eq!((plan.claim, plan.steps.len()), (false, 0));
            assert_eq!(plan.refusals.is_empty(), existing.is_some());
            assert_eq!(plan_deletion(&external, &pipeline("line"), marker, false, None), None);
        }
    }
}

#[test]
fn only_a_topic_of_our_own_is_deleted() {
    let deletion =
        |marker: Option<&PipelineId>| plan_deletion(&wanted(), &pipeline("line"), marker, false, None);
    assert_eq!(deletion(None), None);
    assert_eq!(deletion(Some(&pipeline("other"))), None);
    assert_eq!(deletion(Some(&pipeline("line"))).unwrap().to_string(), "topic plant-7.line deleted");
    let manager = ("plant-8".to_owned(), "other".to_owned());
    let ours = Some(&pipeline("line"));
    assert_eq!(plan_deletion(&wanted(), &pipeline("line"), ours, false, Some(&manager)), None);
    assert_eq!(plan_deletion(&wanted(), &pipeline("line"), ours, true, None), None, "adopted");
}
