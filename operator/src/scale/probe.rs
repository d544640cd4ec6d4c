//! Looks every second how far the pipelines are that are scaled. I/O.
//!
//! Where each partition ends, Kafka says: one client for all pipelines of a cluster and a user, the same that reconciles
//! their topics. How far each is, its processor says, which has just written it; while none runs, the database has said
//! it and it cannot change. So the database is not asked every second.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use access::kafka::KafkaAccess;
use crds::worker::{StartFrom, WorkerStatus};
use futures::{StreamExt, future, stream, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    BridgeTarget, Target, bridges,
    policy::{Partition, Reading},
};
use crate::{
    context::Context,
    kafka::{Watermarks, start_of_unread},
    memory::PipelineKey,
    reconcile::health::is_ready,
};

/// How often to look.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a worker may take to answer. One that takes longer is asked again with the next look.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many pipelines of one cluster are looked at at once.
const AT_ONCE: usize = 8;

/// What the reason of a worker's problem begins with, where the database does not take what the worker has.
const DATABASE: &str = "Database";

/// How many pipelines' bridges are asked at once.
const BRIDGES_AT_ONCE: usize = 64;

/// Looks and decides for as long as it is polled.
pub async fn run(context: &Context) {
    future::join(processors(context), bridges(context)).await;
}

/// How much all bridges receive, they themselves say.
async fn bridges(context: &Context) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looks = stream::iter(context.scaling.bridge_targets());
        looks
            .for_each_concurrent(BRIDGES_AT_ONCE, |(key, target)| async move {
                let reports = ask(&target.pods, context).await;
                let reading = reports.and_then(|reports| bridge_reading(&target, &reports));
                context.scaling.decide_bridges(&key, reading.as_ref());
            })
            .await;
    }
}

/// `None` where a bridge does not tell how much it has received.
fn bridge_reading(target: &BridgeTarget, reports: &[(&Pod, WorkerStatus)]) -> Option<bridges::Reading> {
    let received = reports.iter().map(|(pod, report)| Some((pod.uid()?, report.received?)));
    Some(bridges::Reading {
        received: received.collect::<Option<_>>()?,
        replicas: target.replicas,
        is_settled: target.is_settled,
    })
}

/// The pipelines of one Kafka cluster are looked at together, and those of another do not wait for them.
async fn processors(context: &Context) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looking = FuturesUnordered::new();
    let mut looked_at = HashSet::<KafkaAccess>::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                for (kafka, pipelines) in by_cluster(context.scaling.targets()) {
                    // Where the last look still waits, another one would wait too.
                    if looked_at.insert(kafka.clone()) {
                        looking.push(async move {
                            look_at_all(&pipelines, context).await;
                            kafka
                        });
                    }
                }
            }
            Some(kafka) = looking.next() => {
                looked_at.remove(&kafka);
            }
        }
    }
}

type Pipelines = Vec<(PipelineKey, Arc<Target>)>;

fn by_cluster(targets: Pipelines) -> HashMap<KafkaAccess, Pipelines> {
    let mut clusters = HashMap::<KafkaAccess, Pipelines>::new();
    for (key, target) in targets {
        clusters.entry(target.kafka.clone()).or_default().push((key, target));
    }
    clusters
}

async fn look_at_all(pipelines: &[(PipelineKey, Arc<Target>)], context: &Context) {
    let looks = stream::iter(pipelines);
    looks.for_each_concurrent(AT_ONCE, |(key, target)| look(key, target, context)).await;
}

/// Looks at one pipeline and decides.
async fn look(key: &PipelineKey, target: &Target, context: &Context) {
    // First the ends, then how far the processors are: so there is rather too little lag than one that is not there.
    let watermarks = context.kafka.watermarks(&target.kafka, &target.topic).await;
    let reports = ask(&target.pods, context).await;
    let reading = match (watermarks, reports) {
        (Ok(watermarks), Some(reports)) => {
            let reports: Vec<_> = reports.into_iter().map(|(_, report)| report).collect();
            let reported = reports.iter().flat_map(|report| report.positions.clone()).collect();
            let owned = reports.iter().flat_map(|report| report.partitions.clone()).collect();
            let writing = || reports.iter().filter(|report| report.ready && !report.partitions.is_empty());
            context.scaling.positions(key, reported).map(|positions| Reading {
                partitions: partitions(&watermarks, &positions, &owned, &target.start_from),
                replicas: target.replicas,
                ready: writing().count().try_into().unwrap_or(i32::MAX),
                waiting: mean_wait(writing()),
                database_refuses: reports.iter().any(database_refuses),
            })
        }
        (Err(error), _) => {
            tracing::debug!(namespace = key.0, pipeline = key.1, %error, "Kafka does not tell where the topic ends");
            None
        }
        (_, None) => None,
    };
    context.scaling.decide(key, reading.as_ref());
}

/// What the workers say, each with its pod; `None` where one does not answer that Kubernetes takes for ready: without what it
/// has done, the lag would seem to grow, or the rate to fall.
async fn ask<'a>(pods: &'a [Pod], context: &Context) -> Option<Vec<(&'a Pod, WorkerStatus)>> {
    let answers = pods.iter().map(|pod| async move {
        let report = timeout(PATIENCE, context.reports.ask(pod)).await.ok().flatten();
        (pod, report)
    });
    let answers = future::join_all(answers).await;
    let is_missing = answers.iter().any(|(pod, report)| is_ready(pod) && report.is_none());
    (!is_missing).then(|| answers.into_iter().filter_map(|(pod, report)| Some((pod, report?))).collect())
}

fn database_refuses(report: &WorkerStatus) -> bool {
    let problem = report.problem.as_ref();
    !report.ready && problem.is_some_and(|problem| problem.reason.starts_with(DATABASE))
}

/// For how much of their time processors wait for the database, from 0 to 1; `None` where one does not know.
fn mean_wait<'a>(processors: impl Iterator<Item = &'a WorkerStatus>) -> Option<f64> {
    let percents: Vec<_> = processors.map(|report| report.database_wait_percent).collect::<Option<_>>()?;
    let sum: f64 = percents.iter().copied().map(f64::from).sum();
    (!percents.is_empty()).then(|| sum / percents.len() as f64 / 100.0)
}

/// Where each partition stands.
fn partitions(
    watermarks: &BTreeMap<i32, Watermarks>,
    positions: &BTreeMap<i32, i64>,
    owned: &BTreeSet<i32>,
    start_from: &StartFrom,
) -> BTreeMap<i32, Partition> {
    let start = start_of_unread(start_from, !positions.is_empty());
    let stand = |(partition, watermarks): (&i32, &Watermarks)| {
        let position = watermarks.next_offset(positions.get(partition).copied(), start);
        (*partition, Partition { end: watermarks.high, position, is_owned: owned.contains(partition) })
    };
    watermarks.iter().map(stand).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_partition_stands_where_its_processor_or_the_spec_says() {
        let watermarks =
            (0..).zip([(0, 10), (8, 10), (2, 10)].map(|(low, high)| Watermarks { low, high })).collect();
        let positions = BTreeMap::from([(0, 7), (1, 5)]);
        let stand = |positions: &BTreeMap<_, _>, start_from| {
            let partitions = partitions(&watermarks, positions, &BTreeSet::from([1]), &start_from);
            assert_eq!(partitions.values().map(|one| one.is_owned).collect::<Vec<_>>(), [false, true, false]);
            partitions.values().map(|partition| partition.position).collect::<Vec<_>>()
        };
        assert_eq!(stand(&positions, StartFrom::Earliest), [7, 8, 2]);
        assert_eq!(stand(&positions, StartFrom::Latest), [7, 8, 2], "the topic has grown");
        assert_eq!(stand(&BTreeMap::new(), StartFrom::Latest), [10, 10, 10]);
    }

    #[test]
    fn the_wait_for_the_database_is_known_where_each_processor_knows_it() {
        let mean = |percents: &[Option<u8>]| {
            let report = |percent: &Option<u8>| {
                let report = json!({
                    "component": "processor", "version": "1", "ready": true, "problem": null,
                    "databaseWaitPercent": percent,
                });
                serde_json::from_value(report).unwrap()
            };
            let reports: Vec<WorkerStatus> = percents.iter().map(report).collect();
            mean_wait(reports.iter())
        };
        assert_eq!(mean(&[Some(90), Some(70)]), Some(0.8));
        assert_eq!((mean(&[Some(90), None]), mean(&[])), (None, None));
    }

    #[test]
    fn only_what_the_database_refuses_counts_against_it() {
        let refuses = |ready: bool, reason: &str| {
            let problem = json!({"reason": reason, "message": ""});
            let report =
                json!({"component": "processor", "version": "1", "ready": ready, "problem": problem});
            database_refuses(&serde_json::from_value(report).unwrap())
        };
        assert!(refuses(false, "DatabaseUnreachable") && refuses(false, "DatabaseUnavailable"));
        assert!(!refuses(false, "KafkaUnreachable") && !refuses(true, "DatabaseUnavailable"));
    }
}
