//! What goes on, and what comes to an end, while the operator, Kafka or the database does not answer.

use std::time::Duration;

use crds::names::PIPELINE_LABEL;
use e2e::{
    Result,
    cluster::{OPERATOR_NAMESPACE, TAKEN_OVER, USER},
    fleet::Shares,
    manifest::set,
    scenario::{PIPELINE, Scenario, scenario, scenario_alone},
    wait::eventually,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Secret, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use snafu::{OptionExt, Report, ResultExt, Whatever};

/// The operator's Deployment, as tests/e2e/install makes it.
const OPERATOR: &str = "iotpipeline-operator";

#[tokio::test]
async fn the_operators_absence_stops_no_data() -> Report<Whatever> {
    scenario_alone("no-operator", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let replicas = scale_operator(test, 0).await?;
        let without = without_operator(test).await;
        scale_operator(test, replicas).await?;
        without?;
        // What was done meanwhile is seen when it is back.
        test.ready().await?;
        Ok(())
    })
    .await
}

async fn without_operator(test: &Scenario) -> Result<()> {
    eventually(TAKEN_OVER, "there is no operator", async || {
        let left = test.cluster.operators().await?.len();
        Ok((left == 0).then_some(()).ok_or(format!("{left} pods")))
    })
    .await?;
    let fleet = test.fleet(50, 500.0, Some(5_000), Shares { late: 0.02, repeated: 0.01, malformed: 0.01 });
    // Kubernetes keeps the workers running by itself.
    let pods = test.cluster.pods(&test.namespace, &format!("{PIPELINE_LABEL}={PIPELINE}")).await?;
    test.cluster.remove_at_once(pods.first().whatever_context("there are no workers")?).await?;
    let ledger = fleet.finish().await.whatever_context("failed to publish")?;
    test.expect_delivered(&ledger, true).await
}

/// How many operators there were before.
async fn scale_operator(test: &Scenario, replicas: i32) -> Result<i32> {
    let deployments = test.cluster.api::<Deployment>(OPERATOR_NAMESPACE);
    let before =
        deployments.get_scale(OPERATOR).await.whatever_context("failed to read the operator's scale")?;
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let scaled = deployments.patch_scale(OPERATOR, &PatchParams::default(), &patch).await;
    scaled.whatever_context("failed to scale the operator")?;
    // Kubernetes leaves a zero out.
    Ok(before.spec.and_then(|spec| spec.replicas).unwrap_or(0))
}

#[tokio::test]
async fn of_two_operators_one_acts_and_the_other_follows_it() -> Report<Whatever> {
    scenario_alone("two-operators", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let leader = test.cluster.leader().await?;
        test.cluster.remove_at_once(&leader).await?;
        let follower = eventually(TAKEN_OVER, "another operator acts", async || {
            let follower = test.cluster.leader().await?;
            Ok((follower.name_any() != leader.name_any()).then_some(follower).ok_or("not yet".to_owned()))
        })
        .await?;
        let services = test.cluster.api::<Service>(&test.namespace);
        let name = format!("{PIPELINE}-bridge");
        let deleted = services.delete(&name, &DeleteParams::default()).await;
        deleted.whatever_context("failed to delete a Service")?;
        eventually(TAKEN_OVER, "the Service is there again", async || {
            let service = services.get_opt(&name).await.whatever_context("failed to read the Service")?;
            Ok(service.map(|_| ()).ok_or("it is not".to_owned()))
        })
        .await?;
        assert_eq!(test.cluster.leader().await?.name_any(), follower.name_any());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_namespace_goes_while_kafka_and_the_database_are_down() -> Report<Whatever> {
    scenario("namespace-goes", async |test: &Scenario| {
        let namespaces: Api<Namespace> = Api::all(test.cluster.client.clone());
        let namespace = format!("{}-doomed", test.namespace);
        let doomed = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let how = PatchParams::apply(USER);
        let created = namespaces.patch(&namespace, &how, &Patch::Apply(doomed)).await;
        created.whatever_context("failed to create a namespace")?;
        let uri = format!("postgres://app:x@nothing.{namespace}.svc:5432/iot");
        let mqtt = json!({"username": "x", "password": "y"});
        for (name, values) in [("tsdb", json!({"uri": uri})), ("mqtt-user", mqtt)] {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values});
            let created = test.cluster.api::<Secret>(&namespace).patch(name, &how, &Patch::Apply(secret)).await;
            created.whatever_context("failed to create a Secret")?;
        }
        let manifest = set(test.manifest()?, "/metadata/namespace", json!(namespace))?;
        let manifest = set(manifest, "/spec/kafka/bootstrapServers", json!("nothing:9092"))?;
        let policy = json!({"topic": "Delete", "table": "Delete"});
        test.apply(&set(manifest, "/spec/deletionPolicy", policy)?).await?;
        let pipelines = test.cluster.pipelines(&namespace);
        eventually(TAKEN_OVER, "the pipeline has something to delete", async || {
            let pipeline = pipelines.get(PIPELINE).await.whatever_context("failed to read the pipeline")?;
            Ok((!pipeline.finalizers().is_empty()).then_some(()).ok_or("no finalizer".to_owned()))
        })
        .await?;

        let deleted = namespaces.delete(&namespace, &DeleteParams::default()).await;
        deleted.whatever_context("failed to delete the namespace")?;
        eventually(Duration::from_secs(120), "the namespace is gone", async || {
            let left = namespaces.get_opt(&namespace).await.whatever_context("failed to read the namespace")?;
            Ok(left.map_or(Ok(()), |left| Err(format!("{:?}", left.status))))
        })
        .await
    })
    .await
}
