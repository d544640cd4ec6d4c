//! The operator repairs what was changed behind its back, and writes nothing when there is nothing to do.

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

use crds::{IoTPipeline, names::PIPELINE_LABEL};
use e2e::{
    Result,
    database::{literal, quoted},
    scenario::{PIPELINE, Scenario, scenario, scenario_alone},
    wait::eventually,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, Service},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use snafu::{OptionExt, Report, ResultExt, Whatever};

/// What was changed by hand is repaired within this time, whatever `resync` is up to its default of a minute. Kafka and
/// the database send no events, so their drift is found at the next look: after a minute and a fifth at most.
const REPAIRED: Duration = Duration::from_secs(120);

/// One thing after the other is changed by hand; each prints how long it took until it was repaired.
#[tokio::test]
async fn what_was_changed_by_hand_is_repaired_and_told() -> Report<Whatever> {
    scenario("drift", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        topic_setting(test).await?;
        index(test).await?;
        chunk_interval(test).await?;

        let [bridge, processor] = ["bridge", "processor"].map(|component| format!("{PIPELINE}-{component}"));
        let scale = json!({"spec": {"replicas": 5}});
        edited::<Deployment>(test, &processor, scale, "/spec/replicas", "spec.replicas changed from 5 to 2")
            .await?;
        let image =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "worker", "image": "evil:1"}]}}}});
        edited::<Deployment>(
            test,
            &processor,
            image,
            "/spec/template/spec/containers/0/image",
            "spec.template.spec.containers[worker].image changed from evil:1 to ",
        )
        .await?;
        let budget = json!({"spec": {"maxUnavailable": 5}});
        let told = "spec.maxUnavailable changed from 5 to 1";
        edited::<PodDisruptionBudget>(test, &bridge, budget, "/spec/maxUnavailable", told).await?;
        let policy = json!({"spec": {"policyTypes": ["Egress"]}});
        let told = "spec.policyTypes[0] changed from Egress to Ingress";
        edited::<NetworkPolicy>(test, &processor, policy, "/spec/policyTypes", told).await?;

        deleted::<Service>(test, &bridge).await?;
        deleted::<StatefulSet>(test, &bridge).await?;
        // One that is immutable, so it can only be deleted.
        let configuration = test.cluster.api::<Deployment>(&test.namespace).get(&processor).await;
        let configuration = json_of(&configuration.whatever_context("failed to read the Deployment")?)?;
        let volumes = configuration.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
        let name = volumes.into_iter().flatten().find_map(|volume| volume["configMap"]["name"].as_str());
        deleted::<ConfigMap>(test, name.whatever_context("the processor has no configuration")?).await?;
        test.ready().await?;
        Ok(())
    })
    .await
}

async fn topic_setting(test: &Scenario) -> Result<()> {
    let topic = test.topic();
    test.kafka.set(&topic, &[("retention.ms", "1234567"), ("segment.ms", "7654321")]).await?;
    repaired("topic setting altered", async || {
        let settings = test.kafka.settings(&topic).await?;
        let retention = settings.get("retention.ms").map(String::as_str);
        Ok((retention == Some("86400000")).then_some(()).ok_or(format!("retention.ms {retention:?}")))
    })
    .await?;
    test.told("Changed", "retention.ms changed from 1234567 to 86400000").await?;
    let settings = test.kafka.settings(&topic).await?;
    let segment = settings.get("segment.ms").map(String::as_str);
    assert_eq!(segment, Some("7654321"), "not managed, so left alone");
    Ok(())
}

async fn index(test: &Scenario) -> Result<()> {
    let (schema, index) = (test.schema(), "telemetry_device_time_desc_idx");
    test.database.execute(&format!("DROP INDEX {}.{}", quoted(&schema), quoted(index))).await?;
    let found = format!(
        "SELECT count(*) FROM pg_indexes WHERE schemaname = {} AND indexname = {}",
        literal(&schema),
        literal(index)
    );
    repaired("index dropped", async || {
        let found = test.database.number(&found).await?;
        Ok((found == 1).then_some(()).ok_or(format!("{found} indexes")))
    })
    .await?;
    test.told("Changed", &format!("index set to {index}")).await
}

async fn chunk_interval(test: &Scenario) -> Result<()> {
    let table = test.table().quoted();
    let change = format!("SELECT public.set_chunk_time_interval({}, INTERVAL '3 days')", literal(&table));
    test.database.execute(&change).await?;
    let hours = format!(
        "SELECT (extract(epoch FROM time_interval) / 3600)::bigint FROM timescaledb_information.dimensions \
         WHERE hypertable_schema = {} AND hypertable_name = 'telemetry'",
        literal(&test.schema())
    );
    repaired("chunk interval changed", async || {
        let hours = test.database.number(&hours).await?;
        Ok((hours == 24).then_some(()).ok_or(format!("{hours} hours")))
    })
    .await?;
    test.told("Changed", "chunk interval changed from 3 days to 1 day").await
}

/// Somebody edits an object; what stands at `pointer` becomes what it was.
async fn edited<K: Child>(
    test: &Scenario,
    name: &str,
    patch: Value,
    pointer: &str,
    told: &str,
) -> Result<()> {
    test.ready().await?;
    let api = test.cluster.api::<K>(&test.namespace);
    let what = format!("{} {name}", K::kind(&()));
    let read = async || {
        let object = api.get(name).await.with_whatever_context(|_| format!("failed to read {what}"))?;
        Ok::<_, Whatever>(json_of(&object)?.pointer(pointer).cloned().unwrap_or_default())
    };
    let before = read().await?;
    let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    patched.with_whatever_context(|_| format!("failed to edit {what}"))?;
    repaired(&format!("{what} {pointer} edited"), async || {
        let now = read().await?;
        Ok((now == before).then_some(()).ok_or(now.to_string()))
    })
    .await?;
    test.told("Changed", &format!("{what}: {told}")).await
}

/// Somebody deletes an object; another one of its name comes.
async fn deleted<K: Child>(test: &Scenario, name: &str) -> Result<()> {
    test.ready().await?;
    let api = test.cluster.api::<K>(&test.namespace);
    let what = format!("{} {name}", K::kind(&()));
    let before = api.get(name).await.with_whatever_context(|_| format!("failed to read {what}"))?.uid();
    let gone = api.delete(name, &DeleteParams::background()).await;
    gone.with_whatever_context(|_| format!("failed to delete {what}"))?;
    repaired(&format!("{what} deleted"), async || {
        let now = api.get_opt(name).await.with_whatever_context(|_| format!("failed to read {what}"))?;
        Ok(now.is_some_and(|now| now.uid() != before).then_some(()).ok_or("there is none".to_owned()))
    })
    .await?;
    test.told("Changed", &format!("{what} created")).await
}

/// Waits until it is, and prints how long that took.
pub async fn repaired(
    drift: &str,
    is_repaired: impl AsyncFnMut() -> Result<Result<(), String>>,
) -> Result<()> {
    let since = Instant::now();
    eventually(REPAIRED, &format!("repaired: {drift}"), is_repaired).await?;
    // Not by the macro, whose output is kept from whoever runs the tests.
    let line = format!("drift={drift:?} repaired_s={:.1}\n", since.elapsed().as_secs_f64());
    std::io::stderr().write_all(line.as_bytes()).whatever_context("failed to print")
}

fn json_of(object: &impl Serialize) -> Result<Value> {
    serde_json::to_value(object).whatever_context("failed to write an object as JSON")
}

/// An object of a pipeline.
trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + DeserializeOwned
    + Serialize
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize
{
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

async fn versions_of<K: Child>(test: &Scenario, labels: &str) -> Result<BTreeMap<String, String>> {
    let wanted = ListParams::default().labels(labels);
    let objects = test.cluster.api::<K>(&test.namespace).list(&wanted).await;
    let objects = objects.with_whatever_context(|_| format!("failed to list {}", K::plural(&())))?;
    assert!(!objects.items.is_empty(), "there is no {}", K::kind(&()));
    let version = |object: &K| (format!("{} {}", K::kind(&()), object.name_any()), object.resource_version());
    Ok(objects.iter().map(version).map(|(name, version)| (name, version.unwrap_or_default())).collect())
}
