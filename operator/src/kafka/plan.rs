//! The difference between a topic as it is and as it shall be. Pure.
//!
//! Only the settings that the spec names are compared, each by the value in force: a wanted value that is the
//! broker's default anyway is no drift. All other settings belong to whoever set them.

use std::{collections::BTreeMap, time::Duration};

use crds::{
    status::{ChangeClass, Reason},
    worker::PipelineId,
};

use super::{
    ExistingTopic, ObservedTopic, TopicAction, TopicPlan, TopicSetting, TopicStep, external, found,
    settings_unknown,
};
use crate::{
    change::{Approvals, Change, Refusal, adoption_of},
    memory::PipelineKey,
    pipeline::{Topic, WantedTopic},
    timescale::duration_text,
};

#[cfg(test)]
mod tests;

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
    approvals: &Approvals,
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
        (Some(existing), None) if topic.adopt => {
            let plan = adopt(wanted, topic, existing);
            hold_deletions(plan, wanted, pipeline, observed, approvals)
        }
        (Some(_), None) => refused(not_owned(wanted)),
        (Some(existing), Some(_)) => {
            let plan = repair(wanted, topic, existing);
            hold_deletions(plan, wanted, pipeline, observed, approvals)
        }
    }
}

/// The deletion of the topic with its pipeline; `None` where another pipeline or nobody is known to have
/// created it, where it was adopted, and where another manages it. A deletion that was interrupted after Kafka's part is planned again.
pub fn plan_deletion(
    wanted: &Topic,
    pipeline: &PipelineId,
    marker: Option<&PipelineId>,
    is_adopted: bool,
    manager: Option<&PipelineKey>,
) -> Option<Change> {
    let is_ours = wanted.wanted.is_some() && marker == Some(pipeline) && !is_adopted && manager.is_none();
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

/// Takes the topic over, if its settings are known and it is not compacted: what is kept there for each key for ever would
/// go after a while.
fn adopt(wanted: &Topic, topic: &WantedTopic, existing: &ExistingTopic) -> TopicPlan {
    if let Some(refusal) = external::compacted(wanted, existing) {
        return refused(refusal);
    }
    let repair = repair(wanted, topic, existing);
    let adoption = existing.config.is_some().then(|| adoption_of(format!("topic {}", wanted.name)));
    TopicPlan { claim: adoption.is_some(), adoption, ..repair }
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

/// Whether a setting that the spec asks for would delete records, where there are any.
pub fn deletes_records(wanted: &Topic, observed: &ObservedTopic) -> bool {
    let (Some(topic), Some(existing)) = (&wanted.wanted, &observed.topic) else { return false };
    let steps = repair(wanted, topic, existing).steps;
    steps.iter().flat_map(|step| &step.changes).any(|change| change.class == ChangeClass::Destructive)
}

/// Leaves settings as they are that would delete records, until a person approves each; an empty topic has none.
fn hold_deletions(
    mut plan: TopicPlan,
    wanted: &Topic,
    pipeline: &PipelineId,
    observed: &ObservedTopic,
    approvals: &Approvals,
) -> TopicPlan {
    let waits = |change: &Change| {
        change.class == ChangeClass::Destructive && !observed.is_empty && !approvals.include(change)
    };
    for step in &mut plan.steps {
        let TopicAction::AlterConfig { config } = &mut step.action else { continue };
        for change in step.changes.extract_if(.., |change| waits(change)) {
            config.remove(&change.field);
            plan.refusals.push(approval_required(wanted, &change, pipeline, approvals));
            plan.held.push(change);
        }
    }
    plan.steps.retain(|step| !step.changes.is_empty());
    plan
}

/// What would delete records, and the command that approves it.
fn approval_required(
    wanted: &Topic,
    change: &Change,
    pipeline: &PipelineId,
    approvals: &Approvals,
) -> Refusal {
    let is_time = change.field == "retention.ms";
    let told = |value: &str| match value.parse::<u64>() {
        Ok(milliseconds) if is_time => {
            format!("{value} ({})", duration_text(Duration::from_millis(milliseconds)))
        }
        _ if value == "-1" => format!("{value} (no limit)"),
        _ => value.to_owned(),
    };
    Refusal {
        reason: Reason::ApprovalRequired,
        message: format!(
            "topic {}: {} from {} to {} would delete records that are kept so far, whether they are rows or not; until it \
             is approved, the old value stays in force. Set {} back, or approve with: {}",
            wanted.name,
            change.field,
            told(&change.from),
            told(&change.to),
            if is_time { "kafka.topic.retention" } else { "kafka.topic.config" },
            approvals.command(change, pipeline),
        ),
    }
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
             have, for a client that came first: auto.create.topics.enable); set adoptionPolicy: Adopt to take it over, \
             {}",
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
