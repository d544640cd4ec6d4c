//! The difference between a topic as it is and as it shall be. Pure.
//!
//! Only the settings that the spec names are compared, each by the value in force: a wanted value that is the
//! broker's default anyway is no drift. All other settings belong to whoever set them.

use std::collections::BTreeMap;

use crds::{
    status::{ChangeClass, Reason},
    worker::PipelineId,
};

use super::{
    ExistingTopic, ObservedTopic, TopicAction, TopicPlan, TopicSetting, TopicStep, external, found,
    settings_unknown,
};
use crate::{
    change::{Change, Refusal},
    memory::PipelineKey,
    pipeline::{Topic, WantedTopic},
};

/// The one setting that is a minimum: a larger value on the topic stays.
pub(super) const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// What to do so that `wanted` holds. `marker` is the pipeline that created the topic, as the database knows it;
/// `manager` another pipeline of this operator that manages it, and whose marker may be in another database. A topic
/// whose management is External is only looked at.
pub fn plan(
    wanted: &Topic,
    pipeline: &PipelineId,
    observed: &ObservedTopic,
    marker: Option<&PipelineId>,
    manager: Option<&PipelineKey>,
) -> TopicPlan {
    let Some(topic) = &wanted.wanted else {
        return TopicPlan { refusals: external::check(wanted, observed), ..TopicPlan::default() };
    };
    if let Some(manager) = manager {
        return refused(managed_by_another(wanted, manager));
    }
    match (&observed.topic, marker) {
        (_, Some(owner)) if owner != pipeline => refused(resource_conflict(wanted, owner)),
        (None, marker) => {
            TopicPlan { claim: marker.is_none(), steps: vec![create(wanted, topic)], ..TopicPlan::default() }
        }
        (Some(_), None) => refused(not_owned(wanted)),
        (Some(existing), Some(_)) => repair(wanted, topic, existing),
    }
}

/// The deletion of the topic with its pipeline; `None` where another pipeline or nobody is known to have
/// created it, and where another manages it. A deletion that was interrupted after Kafka's part is planned again.
pub fn plan_deletion(
    wanted: &Topic,
    pipeline: &PipelineId,
    marker: Option<&PipelineId>,
    manager: Option<&PipelineKey>,
) -> Option<Change> {
    let is_ours = wanted.wanted.is_some() && marker == Some(pipeline) && manager.is_none();
    is_ours.then(|| change(wanted, "", wanted.name.as_str(), "").classed(ChangeClass::Destructive))
}

/// The refusal of a topic that another pipeline of this operator manages.
pub fn managed_by_another(wanted: &Topic, (namespace, name): &PipelineKey) -> Refusal {
    Refusal {
        reason: Reason::ResourceConflict,
        message: format!(
            "topic {} is managed by the IoTPipeline {name} in namespace {namespace}; {}",
            wanted.name,
            ways_out("delete that IoTPipeline first")
        ),
    }
}

fn create(wanted: &Topic, topic: &WantedTopic) -> TopicStep {
    let mut config = topic.config.clone();
    config
        .extend(wanted.min_max_message_bytes.map(|bytes| (MAX_MESSAGE_BYTES.to_owned(), bytes.to_string())));
    TopicStep {
        changes: vec![change(wanted, "", "", wanted.name.as_str())],
        action: TopicAction::Create {
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            config,
        },
    }
}

fn repair(wanted: &Topic, topic: &WantedTopic, existing: &ExistingTopic) -> TopicPlan {
    let mut plan = TopicPlan::default();
    let Some(settings) = &existing.config else {
        return refused(Refusal { reason: Reason::KafkaRefused, message: settings_unknown(&wanted.name) });
    };
    plan.refusals.extend(topic.config.keys().filter(|name| !settings.contains_key(*name)).map(|name| {
        Refusal {
            reason: Reason::KafkaRefused,
            message: format!(
                "kafka.topic.config names {name}, a setting that this Kafka does not know; remove it"
            ),
        }
    }));

    let config = settings_to_change(wanted, topic, settings);
    if !config.is_empty() {
        let changes = config.iter().map(|(name, value)| {
            let found = found(existing, name);
            change(wanted, name, found, value).classed(class_of_setting(name, found, value))
        });
        let changes = changes.collect();
        plan.steps.push(TopicStep { changes, action: TopicAction::AlterConfig { config } });
    }

    // When that may be done, `reconcile::plan` knows: it is about workers too.
    if topic.partitions > existing.partitions {
        plan.steps.push(TopicStep {
            changes: vec![
                change(wanted, "partitions", &existing.partitions.to_string(), &topic.partitions.to_string())
                    .classed(ChangeClass::Disruptive),
            ],
            action: TopicAction::AddPartitions { total: topic.partitions },
        });
    }
    if topic.partitions < existing.partitions {
        plan.refusals.push(Refusal {
            reason: Reason::TopicChangeRefused,
            message: format!(
                "kafka.topic.partitions is {}, but topic {} has {}, and Kafka cannot remove partitions; \
                 set it to {} or more",
                topic.partitions, wanted.name, existing.partitions, existing.partitions
            ),
        });
    }
    if topic.replication_factor != existing.replication_factor {
        plan.refusals.push(other_replication_factor(wanted, topic, existing));
    }
    plan
}

fn settings_to_change(
    wanted: &Topic,
    topic: &WantedTopic,
    existing: &BTreeMap<String, TopicSetting>,
) -> BTreeMap<String, String> {
    let found = |name: &str| existing.get(name).map(|setting| setting.value.as_str());
    let mut config: BTreeMap<_, _> = topic
        .config
        .iter()
        .filter(|(name, value)| found(name).is_some_and(|found| found != value.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let max_message_bytes = found(MAX_MESSAGE_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    if let Some(least) = wanted.min_max_message_bytes.filter(|least| max_message_bytes < u64::from(*least)) {
        config.insert(MAX_MESSAGE_BYTES.to_owned(), least.to_string());
    }
    config
}

/// What is kept for a shorter time, or less of it, is deleted.
fn class_of_setting(name: &str, from: &str, to: &str) -> ChangeClass {
    // -1 stands for no limit.
    let limit = |value: &str| value.parse().ok().filter(|limit| *limit >= 0).unwrap_or(i64::MAX);
    let is_retention = matches!(name, "retention.ms" | "retention.bytes");
    if is_retention && limit(to) < limit(from) { ChangeClass::Destructive } else { ChangeClass::Safe }
}

fn change(wanted: &Topic, field: &str, from: &str, to: &str) -> Change {
    Change::new(format!("topic {}", wanted.name), field, from, to)
}

fn refused(refusal: Refusal) -> TopicPlan {
    TopicPlan { refusals: vec![refusal], ..TopicPlan::default() }
}

fn resource_conflict(wanted: &Topic, owner: &PipelineId) -> Refusal {
    Refusal {
        reason: Reason::ResourceConflict,
        message: format!(
            "topic {} belongs to the IoTPipeline {} in namespace {} of cluster {}; {}",
            wanted.name,
            owner.name,
            owner.namespace,
            owner.cluster_name,
            ways_out("delete that IoTPipeline first")
        ),
    }
}

fn not_owned(wanted: &Topic) -> Refusal {
    Refusal {
        reason: Reason::TopicNotOwned,
        message: format!(
            "topic {} exists, and no IoTPipeline that keeps its notes in this schema created it (the broker may \
             have, for a client that came first: auto.create.topics.enable); {}",
            wanted.name,
            ways_out("delete the topic if nobody needs what is in it")
        ),
    }
}

/// What to do about a topic that is not ours.
fn ways_out(last: &str) -> String {
    format!(
        "create the IoTPipeline with kafka.topic.management: External to use the topic as it is, choose another \
         kafka.topic.name, or {last}"
    )
}

fn other_replication_factor(wanted: &Topic, topic: &WantedTopic, existing: &ExistingTopic) -> Refusal {
    Refusal {
        reason: Reason::TopicChangeRefused,
        message: format!(
            "kafka.topic.replicationFactor is {wanted_factor}, but topic {topic} has {factor}; it counts at \
             creation only. Set it to {factor}, or move the replicas: kafka-reassign-partitions.sh \
             --bootstrap-server {servers} --execute --reassignment-json-file FILE, where FILE lists \
             {wanted_factor} broker ids for each partition: {{\"version\":1,\"partitions\":[{{\"topic\":\"{topic}\",\
             \"partition\":0,\"replicas\":[…]}}, …]}}",
            wanted_factor = topic.replication_factor,
            factor = existing.replication_factor,
            topic = wanted.name,
            servers = wanted.kafka.bootstrap_servers,
        ),
    }
}

#[cfg(test)]
mod tests {
    use access::kafka::KafkaAccess;

    use super::*;
    use crate::{kafka::TopicSetting, pipeline::TopicName};

    fn wanted() -> Topic {
        Topic {
            kafka: KafkaAccess { bootstrap_servers: "kafka.kafka:9092".to_owned(), tls: None, sasl: None },
            name: TopicName::parse("plant-7.line").unwrap(),
            wanted: Some(WantedTopic {
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
        super::plan(wanted, pipeline, observed, marker, None)
    }

    fn observed(topic: Option<ExistingTopic>) -> ObservedTopic {
        ObservedTopic { cluster_id: "k1".into(), topic }
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
        assert_eq!(
            plan.steps[0].action,
            TopicAction::AlterConfig { config: wanted().wanted.unwrap().config }
        );
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
        assert_eq!(
            plan.steps[0].changes[0].to_string(),
            "topic plant-7.line: partitions changed from 2 to 6"
        );
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
        assert_eq!(only_refusal(&plan).0, Reason::TopicNotOwned);
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
                let plan = super::plan(&wanted(), &pipeline("line"), &observed, marker, Some(&manager));
                let (reason, message) = only_refusal(&plan);
                assert_eq!(reason, Reason::ResourceConflict);
                assert!(
                    message.contains("managed by the IoTPipeline other in namespace plant-8"),
                    "{message}"
                );
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
                let plan = super::plan(&external, &pipeline("line"), &observed, marker, Some(&manager));
                assert_eq!((plan.claim, plan.steps.len()), (false, 0));
                assert_eq!(plan.refusals.is_empty(), existing.is_some());
                assert_eq!(plan_deletion(&external, &pipeline("line"), marker, None), None);
            }
        }
    }

    #[test]
    fn only_a_topic_of_our_own_is_deleted() {
        let deletion =
            |marker: Option<&PipelineId>| plan_deletion(&wanted(), &pipeline("line"), marker, None);
        assert_eq!(deletion(None), None);
        assert_eq!(deletion(Some(&pipeline("other"))), None);
        assert_eq!(deletion(Some(&pipeline("line"))).unwrap().to_string(), "topic plant-7.line deleted");
        let manager = ("plant-8".to_owned(), "other".to_owned());
        let ours = Some(&pipeline("line"));
        assert_eq!(plan_deletion(&wanted(), &pipeline("line"), ours, Some(&manager)), None);
    }
}
