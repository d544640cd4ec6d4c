//! All faults, and the short selection of them.

use crds::worker::Component::{Bridge, Processor};
use futures::FutureExt;

use super::{
    Comparison::{Exact, MqttMayRepeat, UniqueBy},
    Fault, Injection, api_server,
    away::{A_MINUTE, Backend::*, TEN_MINUTES, away},
    change, clock, crash, disk,
    network::{
        BRIDGE_KAFKA, BRIDGE_MOSQUITTO, ONE_PROCESSOR_KAFKA, PROCESSOR_DATABASE, PROCESSOR_KAFKA, cut,
        latency, resets,
    },
    replay, restore, secrets, spool, table,
};
use crate::volume::{ROOMY, Volume};

/// The faults that run with `--short`.
pub const SHORT: [&str; 8] = [
    "bridge-killed",
    "processor-killed",
    "processor-stopped",
    "mosquitto-killed",
    "kafka-killed",
    "database-killed",
    "database-restored",
    "rebalance-storm",
];

/// All faults in the order in which they run.
pub const FAULTS: [Fault; 42] = [
    // Processes that end.
    fault("bridge-killed", UniqueBy, |trial| crash::workers(trial, Bridge).boxed_local()),
    fault("processor-killed", Exact, |trial| crash::workers(trial, Processor).boxed_local()),
    fault("processor-stopped", Exact, |trial| crash::stopped_processor(trial).boxed_local()),
    fault("operator-killed", Exact, |trial| crash::operators(trial).boxed_local()),
    fault("mosquitto-killed", UniqueBy, |trial| crash::mosquitto(trial).boxed_local()),
    fault("kafka-killed", UniqueBy, |trial| crash::backend(trial, Kafka).boxed_local()),
    fault("database-killed", Exact, |trial| crash::backend(trial, Timescale).boxed_local()),
    // The same at the worst moments, which scripts/faults builds the workers for.
    fault("bridge-before-puback", UniqueBy, |trial| {
        crash::at_point(trial, Bridge, "before-puback").boxed_local()
    }),
    fault("processor-in-copy", Exact, |trial| crash::at_point(trial, Processor, "in-copy").boxed_local()),
    fault("processor-after-commit", Exact, |trial| {
        crash::at_point(trial, Processor, "after-commit").boxed_local()
    }),
    // Servers that are away.
    fault("mosquitto-away", UniqueBy, |trial| away(trial, Mosquitto, A_MINUTE).boxed_local()),
    fault("kafka-away", MqttMayRepeat, |trial| away(trial, Kafka, A_MINUTE).boxed_local()),
    fault("kafka-away-for-long", MqttMayRepeat, |trial| away(trial, Kafka, TEN_MINUTES).boxed_local()),
    with_spool("kafka-away-with-spool", ROOMY, |trial| spool::kafka_away(trial).boxed_local()),
    with_spool("spool-full", spool::SMALL, |trial| spool::full(trial).boxed_local()),
    with_spool("spool-disk-full", spool::SMALL_DISK, |trial| spool::disk_full(trial).boxed_local()),
    fault("database-away", Exact, |trial| away(trial, Timescale, A_MINUTE).boxed_local()),
    // Kubernetes and its operator, without which data shall go on.
    fault("api-server-away", Exact, |trial| api_server::away(trial).boxed_local()),
    fault("leader-changes", Exact, |trial| crash::leaders(trial).boxed_local()),
    // The network between a worker and a server.
    fault("bridge-mosquitto-cut", UniqueBy, |trial| cut(trial, BRIDGE_MOSQUITTO).boxed_local()),
    fault("bridge-kafka-cut", UniqueBy, |trial| cut(trial, BRIDGE_KAFKA).boxed_local()),
    fault("one-processor-kafka-cut", Exact, |trial| cut(trial, ONE_PROCESSOR_KAFKA).boxed_local()),
    fault("processor-kafka-cut", Exact, |trial| cut(trial, PROCESSOR_KAFKA).boxed_local()),
    fault("processor-database-cut", Exact, |trial| cut(trial, PROCESSOR_DATABASE).boxed_local()),
    fault("bridge-mosquitto-resets", UniqueBy, |trial| resets(trial, BRIDGE_MOSQUITTO).boxed_local()),
    fault("bridge-kafka-resets", UniqueBy, |trial| resets(trial, BRIDGE_KAFKA).boxed_local()),
    fault("processor-kafka-resets", Exact, |trial| resets(trial, PROCESSOR_KAFKA).boxed_local()),
    fault("processor-database-resets", Exact, |trial| resets(trial, PROCESSOR_DATABASE).boxed_local()),
    fault("bridge-mosquitto-latency", UniqueBy, |trial| latency(trial, BRIDGE_MOSQUITTO).boxed_local()),
    fault("bridge-kafka-latency", UniqueBy, |trial| latency(trial, BRIDGE_KAFKA).boxed_local()),
    fault("processor-kafka-latency", Exact, |trial| latency(trial, PROCESSOR_KAFKA).boxed_local()),
    fault("processor-database-latency", Exact, |trial| latency(trial, PROCESSOR_DATABASE).boxed_local()),
    // The database itself.
    fault("table-locked", Exact, |trial| table::locked(trial).boxed_local()),
    fault("disk-full", Exact, |trial| disk::full(trial).boxed_local()),
    fault("database-restored", Exact, |trial| restore::restored(trial).boxed_local()),
    // What people do.
    fault("rebalance-storm", Exact, |trial| change::rebalance_storm(trial).boxed_local()),
    fault("rolling-update", UniqueBy, |trial| change::rolling_update(trial).boxed_local()),
    fault("node-drained", UniqueBy, |trial| change::node_drained(trial).boxed_local()),
    fault("helm-upgrade", UniqueBy, |trial| change::helm_upgrade(trial).boxed_local()),
    fault("secrets-rotated", UniqueBy, |trial| secrets::rotated(trial).boxed_local()),
    fault("topic-replayed", UniqueBy, |trial| replay::whole_topic(trial).boxed_local()),
    // The machines on which workers run.
    fault("clock-skew", UniqueBy, |trial| clock::skewed(trial).boxed_local()),
];

const fn fault(name: &'static str, comparison: super::Comparison, inject: Injection) -> Fault {
    Fault { name, comparison, spool: None, inject }
}

/// With a spool on this volume.
const fn with_spool(name: &'static str, volume: Volume, inject: Injection) -> Fault {
    Fault { name, comparison: UniqueBy, spool: Some(volume), inject }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_make_namespaces_and_the_short_ones_exist() {
        let names: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), FAULTS.len());
        // e2e-<name>-<six digits> names a pod's namespace, a topic and a schema.
        assert!(names.iter().all(|name| name.len() <= 40));
        assert!(SHORT.iter().all(|name| names.contains(name)));
    }
}
