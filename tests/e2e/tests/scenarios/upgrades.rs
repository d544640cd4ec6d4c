//! What another version of the operator does to the workers of many pipelines.

use std::{collections::BTreeMap, time::Duration};

use crds::names::{FIELD_MANAGER, MANAGED_BY_LABEL, PIPELINE_LABEL};
use e2e::{
    Result,
    fleet::Shares,
    pods::is_ready,
    release,
    scenario::{PIPELINE, Scenario, scenario_alone},
    wait::eventually,
};
use futures::future::try_join;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use snafu::{Report, Whatever, whatever};

/// Every pipeline, and how many workers it has.
const PIPELINES: [(&str, usize); 3] = [(PIPELINE, 3), ("second", 2), ("third", 2)];

const REPLACED: Duration = Duration::from_secs(300);

/// By which the pods of the newer version are known, as another version's are by their image.
const NEWER: &str = "Never";

/// How the workers of a pipeline stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Old,
    Underway,
    New,
}

#[tokio::test]
async fn an_upgrade_replaces_the_workers_of_one_pipeline_after_the_other() -> Report<Whatever> {
    scenario_alone("upgrade", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        for (reader, _) in &PIPELINES[1..] {
            test.apply(&test.reader(reader)?).await?;
        }
        all_are_ready(test).await?;
        let fleet = test.fleet(20, 100.0, None, Shares::NONE);
        let upgrade = release::upgrade(&["maxConcurrentRollouts=1", "worker.image.pullPolicy=Never"]);
        let upgraded = try_join(upgrade, are_replaced_in_turn(test)).await;
        release::roll_back().await?;
        upgraded?;
        all_are(test, Stage::Old).await?;
        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, true).await
    })
    .await
}

/// Watches all workers become those of the newer version, and at each look of one pipeline at most.
async fn are_replaced_in_turn(test: &Scenario) -> Result<()> {
    let (mut at_once, mut waited) = (None, false);
    eventually(REPLACED, "all workers are replaced", async || {
        let stages = stages(test).await?;
        let of = |wanted| stages.values().filter(|stage| **stage == wanted).count();
        if of(Stage::Underway) > 1 {
            at_once.get_or_insert_with(|| format!("{stages:?}"));
        }
        waited |= of(Stage::New) > 0 && of(Stage::Old) > 0;
        Ok(are(&stages, Stage::New))
    })
    .await?;
    match at_once {
        Some(stages) => whatever!("the workers of several pipelines were replaced at once: {stages}"),
        None if !waited => whatever!("no pipeline was seen to wait"),
        None => Ok(()),
    }
}

async fn all_are_ready(test: &Scenario) -> Result<()> {
    eventually(REPLACED, "all workers are ready", async || {
        let ready = workers(test).await?.iter().filter(|pod| is_ready(pod)).count();
        let wanted = PIPELINES.iter().map(|(_, workers)| workers).sum::<usize>();
        Ok((ready == wanted).then_some(()).ok_or(format!("{ready} of {wanted} are")))
    })
    .await
}

async fn all_are(test: &Scenario, stage: Stage) -> Result<()> {
    eventually(REPLACED, &format!("all workers are {stage:?}"), async || Ok(are(&stages(test).await?, stage)))
        .await
}

fn are(stages: &BTreeMap<&str, Stage>, wanted: Stage) -> Result<(), String> {
    let are = stages.values().all(|stage| *stage == wanted);
    are.then_some(()).ok_or_else(|| format!("{stages:?}"))
}

/// Those of all pipelines, at one moment.
async fn workers(test: &Scenario) -> Result<Vec<Pod>> {
    test.cluster.pods(&test.namespace, &format!("{MANAGED_BY_LABEL}={FIELD_MANAGER}")).await
}

async fn stages(test: &Scenario) -> Result<BTreeMap<&'static str, Stage>> {
    let pods = workers(test).await?;
    let of = |pipeline: &str| {
        let pods =
            pods.iter().filter(|pod| pod.labels().get(PIPELINE_LABEL).is_some_and(|name| name == pipeline));
        pods.filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect::<Vec<_>>()
    };
    Ok(PIPELINES.iter().map(|(pipeline, workers)| (*pipeline, stage(&of(pipeline), *workers))).collect())
}

fn stage(pods: &[&Pod], workers: usize) -> Stage {
    let new = pods.iter().filter(|pod| is_newer(pod)).count();
    let are_ready = pods.len() == workers && pods.iter().all(|pod| is_ready(pod));
    match new {
        0 if pods.len() == workers => Stage::Old,
        new if new == workers && are_ready => Stage::New,
        _ => Stage::Underway,
    }
}

fn is_newer(pod: &Pod) -> bool {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    containers.iter().any(|container| container.image_pull_policy.as_deref() == Some(NEWER))
}
