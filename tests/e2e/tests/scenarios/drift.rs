//! The operator repairs what was changed behind its back, and writes nothing when there is nothing to do.

use std::{collections::BTreeMap, time::Duration};

use crds::{IoTPipeline, names::PIPELINE_LABEL};
use e2e::{
    Result,
    scenario::{PIPELINE, Scenario, scenario, scenario_alone},
    wait::eventually,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, Service},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use snafu::{Report, ResultExt, Whatever};

/// Kafka sends no events, so its drift is found at the next look: after a minute and a fifth at most.
const REPAIRED: Duration = Duration::from_secs(90);

#[tokio::test]
async fn what_was_changed_by_hand_is_repaired() -> Report<Whatever> {
    scenario("drift", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let topic = test.topic();
        test.kafka.set(&topic, "retention.ms", "1234567").await?;
        test.kafka.set(&topic, "segment.ms", "7654321").await?;
        let deployments = test.cluster.api::<Deployment>(&test.namespace);
        let processor = format!("{PIPELINE}-processor");
        let five = Patch::Merge(json!({"spec": {"replicas": 5}}));
        deployments
            .patch_scale(&processor, &PatchParams::default(), &five)
            .await
            .whatever_context("failed to scale")?;
        let services = test.cluster.api::<Service>(&test.namespace);
        let service =
            services.list(&ListParams::default()).await.whatever_context("failed to list Services")?;
        let service = service.items[0].name_any();
        services
            .delete(&service, &DeleteParams::default())
            .await
            .whatever_context("failed to delete a Service")?;

        eventually(REPAIRED, "topic, scale and Service are repaired", async || {
            let settings = test.kafka.settings(&topic).await?;
            let deployment =
                deployments.get(&processor).await.whatever_context("failed to read the Deployment")?;
            let replicas = deployment.spec.and_then(|spec| spec.replicas);
            let has_service =
                services.get_opt(&service).await.whatever_context("failed to read the Service")?;
            let retention = settings.get("retention.ms").map(String::as_str);
            let is_repaired = retention == Some("86400000") && replicas == Some(2) && has_service.is_some();
            Ok(is_repaired.then_some(()).ok_or(format!("retention.ms {retention:?}, replicas {replicas:?}")))
        })
        .await?;
        let settings = test.kafka.settings(&topic).await?;
        assert_eq!(
            settings.get("segment.ms").map(String::as_str),
            Some("7654321"),
            "not managed, so left alone"
        );
        test.ready().await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pipeline_at_rest_is_not_written() -> Report<Whatever> {
    scenario_alone("at-rest", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        look_again(test, 2).await?;
        let (versions, writes) = (versions(test).await?, test.cluster.operator_counter(WRITES).await?);
        look_again(test, 3).await?;
        assert_eq!(self::versions(test).await?, versions);
        let others = other_pipelines(test).await?;
        if others.is_empty() {
            assert_eq!(test.cluster.operator_counter(WRITES).await?, writes, "writes to the Kubernetes API");
        } else {
            println!("the operator's writes were not counted, because it has other pipelines: {others:?}");
        }
        Ok(())
    })
    .await
}

const WRITES: &str = "iotpipeline_api_writes_total";

/// Waits until the operator has looked at each pipeline so often.
async fn look_again(test: &Scenario, times: u64) -> Result<()> {
    let pipelines = other_pipelines(test).await?.len() as u64 + 1;
    let before = test.cluster.operator_counter("iotpipeline_reconciles_total").await?;
    eventually(Duration::from_secs(300), &format!("the operator has looked {times} times"), async || {
        let now = test.cluster.operator_counter("iotpipeline_reconciles_total").await?;
        Ok((now >= before + times * pipelines).then_some(()).ok_or(format!("{now} after {before}")))
    })
    .await
}

async fn other_pipelines(test: &Scenario) -> Result<Vec<String>> {
    let all: Api<IoTPipeline> = Api::all(test.cluster.client.clone());
    let all = all.list(&ListParams::default()).await.whatever_context("failed to list pipelines")?;
    let others = all.items.iter().filter(|pipeline| pipeline.namespace().as_ref() != Some(&test.namespace));
    Ok(others
        .map(|pipeline| format!("{}/{}", pipeline.namespace().unwrap_or_default(), pipeline.name_any()))
        .collect())
}

/// The resource version of the pipeline and of each object that belongs to it.
async fn versions(test: &Scenario) -> Result<BTreeMap<String, String>> {
    let mut versions = versions_of::<IoTPipeline>(test, "").await?;
    versions.extend(versions_of::<ConfigMap>(test, PIPELINE_LABEL).await?);
    versions.extend(versions_of::<Deployment>(test, PIPELINE_LABEL).await?);
    versions.extend(versions_of::<PodDisruptionBudget>(test, PIPELINE_LABEL).await?);
    versions.extend(versions_of::<Service>(test, PIPELINE_LABEL).await?);
    versions.extend(versions_of::<StatefulSet>(test, PIPELINE_LABEL).await?);
    Ok(versions)
}

async fn versions_of<K>(test: &Scenario, labels: &str) -> Result<BTreeMap<String, String>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let wanted = ListParams::default().labels(labels);
    let objects = test.cluster.api::<K>(&test.namespace).list(&wanted).await;
    let objects = objects.with_whatever_context(|_| format!("failed to list {}", K::plural(&())))?;
    assert!(!objects.items.is_empty(), "there is no {}", K::kind(&()));
    let version = |object: &K| (format!("{} {}", K::kind(&()), object.name_any()), object.resource_version());
    Ok(objects.iter().map(version).map(|(name, version)| (name, version.unwrap_or_default())).collect())
}
