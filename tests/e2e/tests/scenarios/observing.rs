//! Looking before anything changes.

use std::{collections::BTreeSet, time::Duration};

use crds::{
    IoTPipeline,
    names::PIPELINE_LABEL,
    status::{ChangeClass, Reason},
};
use e2e::{
    Result,
    fleet::Shares,
    manifest::set,
    scenario::{PIPELINE, Scenario, scenario},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, Service},
};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;
use snafu::{Report, ResultExt, Whatever};

/// Longer than the operator waits before it looks again.
const A_LOOK_OR_TWO: Duration = Duration::from_secs(90);

#[tokio::test]
async fn observe_changes_nothing_and_enforce_does_what_was_listed() -> Report<Whatever> {
    scenario("observe", async |test: &Scenario| {
        test.apply(&set(test.manifest()?, "/spec/mode", json!("Observe"))?).await?;
        let message = test.not_ready(Reason::Observing).await?;
        assert!(message.contains("status.plan"), "{message}");
        let listed = objects(&test.wait_for("lists what it would do", |_| true).await?);
        for object in [
            format!("schema {}", test.schema()),
            format!("table {}.telemetry", test.schema()),
            format!("topic {}", test.topic()),
            format!("StatefulSet {PIPELINE}-bridge"),
            format!("Deployment {PIPELINE}-processor"),
        ] {
            assert!(listed.contains(&object), "{object} in {listed:?}");
        }
        tokio::time::sleep(A_LOOK_OR_TWO).await;
        expect_nothing(test).await?;

        test.patch(json!({"spec": {"mode": "Enforce"}})).await?;
        let pipeline = test.ready().await?;
        assert_eq!(objects(&pipeline), BTreeSet::new());
        let ledger = test.publish(20, 500.0, 1_000, Shares::NONE).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

#[tokio::test]
async fn a_running_pipeline_is_left_as_it_is_while_it_observes() -> Report<Whatever> {
    scenario("observe-running", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let before = versions(test).await?;
        test.patch(json!({"spec": {
            "mode": "Observe",
            "kafka": {"topic": {"partitions": 6}},
            "mqtt": {"maxInFlight": 77},
            "processor": {"replicas": 3},
        }}))
        .await?;
        test.not_ready(Reason::Observing).await?;
        let pipeline = test.wait_for("lists what it would do", |_| true).await?;
        let plan = pipeline.status.as_ref().map(|status| status.plan.as_slice()).unwrap_or_default();
        for (object, field) in [
            (format!("topic {}", test.topic()), "partitions"),
            (format!("Deployment {PIPELINE}-processor"), "spec.replicas"),
        ] {
            let step = plan.iter().find(|step| step.object == object && step.field == field);
            assert_eq!(step.map(|step| step.class), Some(ChangeClass::Disruptive), "{object} in {plan:?}");
        }
        tokio::time::sleep(A_LOOK_OR_TWO).await;
        assert_eq!(test.kafka.partitions(&test.topic()).await?, Some(4), "partitions");
        assert_eq!(versions(test).await?, before);

        // Workers work all the while.
        let ledger = test.publish(20, 500.0, 1_000, Shares::NONE).await?;
        test.expect_delivered(&ledger, false).await?;

        test.patch(json!({"spec": {"mode": "Enforce"}})).await?;
        test.ready().await?;
        assert_eq!(test.kafka.partitions(&test.topic()).await?, Some(6), "partitions");
        Ok(())
    })
    .await
}

/// The objects that the plan names.
fn objects(pipeline: &IoTPipeline) -> BTreeSet<String> {
    let status = pipeline.status.clone().unwrap_or_default();
    status.plan.into_iter().map(|step| step.object).collect()
}

/// Fails where there is anything of the pipeline, in Kafka, in the database or in Kubernetes.
async fn expect_nothing(test: &Scenario) -> Result<()> {
    assert_eq!(test.kafka.partitions(&test.topic()).await?, None, "the topic");
    let schemas =
        format!("SELECT count(*) FROM information_schema.schemata WHERE schema_name = '{}'", test.schema());
    assert_eq!(test.database.number(&schemas).await?, 0, "the schema");
    assert_eq!(versions(test).await?, BTreeSet::new());
    let labelled = format!("{PIPELINE_LABEL}={PIPELINE}");
    assert!(test.cluster.pods(&test.namespace, &labelled).await?.is_empty(), "pods");
    let pipelines = test.cluster.pipelines(&test.namespace);
    let pipeline = pipelines.get(PIPELINE).await.whatever_context("failed to read the pipeline")?;
    assert!(pipeline.finalizers().is_empty(), "{:?}", pipeline.finalizers());
    Ok(())
}

/// The objects of the workers, with what changes whenever somebody changes what they ask for.
async fn versions(test: &Scenario) -> Result<BTreeSet<String>> {
    let of_pipeline = ListParams::default().labels(&format!("{PIPELINE_LABEL}={PIPELINE}"));
    let (cluster, namespace) = (&test.cluster, &test.namespace);
    let mut versions = BTreeSet::new();
    let failed = "failed to list the workers' objects";
    for deployment in
        cluster.api::<Deployment>(namespace).list(&of_pipeline).await.whatever_context(failed)?
    {
        versions.insert(format!("Deployment {} {:?}", deployment.name_any(), deployment.metadata.generation));
    }
    for set in cluster.api::<StatefulSet>(namespace).list(&of_pipeline).await.whatever_context(failed)? {
        versions.insert(format!("StatefulSet {} {:?}", set.name_any(), set.metadata.generation));
    }
    for map in cluster.api::<ConfigMap>(namespace).list(&of_pipeline).await.whatever_context(failed)? {
        versions.insert(format!("ConfigMap {} {:?}", map.name_any(), map.metadata.resource_version));
    }
    for service in cluster.api::<Service>(namespace).list(&of_pipeline).await.whatever_context(failed)? {
        versions.insert(format!("Service {} {:?}", service.name_any(), service.metadata.resource_version));
    }
    Ok(versions)
}
