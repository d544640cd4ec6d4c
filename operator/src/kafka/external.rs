//! Whether a topic that somebody else manages serves the pipeline. Pure: nothing here changes it.

use crds::status::Reason;

use super::{ExistingTopic, ObservedTopic, found, plan::MAX_MESSAGE_BYTES};
use crate::{change::Refusal, pipeline::Topic};

/// Why the topic does not serve; nothing where it does. Where this user may not read its settings, what cannot be seen
/// is taken to be right.
pub(super) fn check(topic: &Topic, observed: &ObservedTopic) -> Vec<Refusal> {
    match &observed.topic {
        None => vec![missing(topic)],
        Some(existing) => compacted(topic, existing).into_iter().chain(too_small(topic, existing)).collect(),
    }
}

fn missing(topic: &Topic) -> Refusal {
    Refusal {
        reason: Reason::TopicMissing,
        message: format!(
            "topic {name} does not exist, and kafka.topic.management is External: whoever manages it must create \
             it, and the workers wait; or set management to Managed, with partitions and replicationFactor",
            name = topic.name
        ),
    }
}

/// Whether Kafka may remove a record before it is a row.
pub(super) fn compacted(topic: &Topic, existing: &ExistingTopic) -> Option<Refusal> {
    let is_compacted = found(existing, "cleanup.policy").split(',').any(|policy| policy.trim() == "compact");
    is_compacted.then(|| Refusal {
        reason: Reason::TopicUnfit,
        message: format!(
            "topic {} has cleanup.policy=compact: Kafka removes a record once a newer one has the same key, perhaps \
             before it is a row; set cleanup.policy=delete on it, or choose another kafka.topic.name",
            topic.name
        ),
    })
}

fn too_small(topic: &Topic, existing: &ExistingTopic) -> Option<Refusal> {
    let needed = topic.min_max_message_bytes?;
    let largest: u32 = found(existing, MAX_MESSAGE_BYTES).parse().ok()?;
    (largest < needed).then(|| Refusal {
        reason: Reason::TopicUnfit,
        message: format!(
            "topic {name} takes records of at most {largest} bytes ({MAX_MESSAGE_BYTES}), and a message as large as \
             mqtt.maxPacketSize allows needs {needed} with its key and headers; set {MAX_MESSAGE_BYTES}={needed} on \
             the topic, or lower mqtt.maxPacketSize by {missing} bytes",
            name = topic.name,
            missing = needed - largest,
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        kafka::TopicSetting,
        test_support::{QUICKSTART, pipeline},
    };

    fn external() -> Topic {
        let yaml = QUICKSTART.replace("partitions: 3, replicationFactor: 1", "management: External");
        pipeline(&yaml).topic
    }

    fn check_config(topic: &Topic, config: Option<&[(&str, &str)]>) -> Vec<(Reason, String)> {
        let setting = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), TopicSetting { value: (*value).to_owned(), set_on_topic: true })
        };
        let existing = ExistingTopic {
            partitions: 1,
            replication_factor: 1,
            config: config.map(|config| config.iter().map(setting).collect::<BTreeMap<_, _>>()),
        };
        let observed = ObservedTopic { cluster_id: "k1".to_owned(), topic: Some(existing), is_empty: false };
        check(topic, &observed).into_iter().map(|refusal| (refusal.reason, refusal.message)).collect()
    }

    #[test]
    fn a_topic_that_serves_is_left_alone() {
        let config = [("cleanup.policy", "delete"), ("max.message.bytes", "9000000")];
        assert_eq!(check_config(&external(), Some(&config)), []);
    }

    #[test]
    fn a_missing_topic_is_waited_for() {
        let observed = ObservedTopic { cluster_id: "k1".to_owned(), topic: None, is_empty: false };
        let refusals = check(&external(), &observed);
        assert_eq!((refusals.len(), refusals[0].reason), (1, Reason::TopicMissing));
        assert!(refusals[0].message.contains("whoever manages it must create it"), "{refusals:?}");
    }

    #[test]
    fn compaction_in_any_company_is_a_misfit() {
        for policy in ["compact", "compact,delete", "delete, compact"] {
            let refusals = check_config(&external(), Some(&[("cleanup.policy", policy)]));
            assert_eq!((refusals.len(), refusals[0].0), (1, Reason::TopicUnfit), "{policy}");
        }
    }

    #[test]
    fn a_size_that_a_message_may_exceed_is_a_misfit_for_a_bridge_only() {
        let config: [(&str, &str); 1] = [("max.message.bytes", "1048588")];
        let mut topic = external();
        let needed = topic.min_max_message_bytes.unwrap();
        let refusals = check_config(&topic, Some(&config));
        assert_eq!((refusals.len(), refusals[0].0), (1, Reason::TopicUnfit));
        for words in [
            "at most 1048588 bytes",
            &format!("max.message.bytes={needed}"),
            &format!("lower mqtt.maxPacketSize by {} bytes", needed - 1_048_588),
        ] {
            assert!(refusals[0].1.contains(words), "{words} in {refusals:?}");
        }
        topic.min_max_message_bytes = None;
        assert_eq!(check_config(&topic, Some(&config)), []);
    }

    #[test]
    fn settings_that_cannot_be_read_are_taken_to_be_right() {
        assert_eq!(check_config(&external(), None), []);
    }
}
