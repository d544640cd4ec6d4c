//! The bridge: what it is told of filters that left, and pipelines that have none.

use serde_json::{Value, json};

use crate::world::{PIPELINE, STATEFULSET, World};

fn subscriptions(filters: &[&str]) -> Value {
    filters.iter().map(|filter| json!({"filter": filter, "qos": 1})).collect()
}

#[tokio::test]
async fn a_filter_that_leaves_is_unsubscribed_and_rolls_the_bridge_once() {
    let world = World::at_rest(PIPELINE).await;
    assert_eq!(world.bridge_configuration()["unsubscribe"], json!([]));
    world.edit(|spec| spec["mqtt"]["subscriptions"] = subscriptions(&["plants/#"]));
    world.reconcile().await.unwrap();
    assert_eq!(world.bridge_configuration()["unsubscribe"], json!(["plants/+/telemetry"]));
    // The old configuration goes after the roll; what is told stays.
    for _ in 0..3 {
        world.settle_workers();
        world.reconcile().await.unwrap();
    }
    world.log();
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);
    assert_eq!(world.bridge_configuration()["unsubscribe"], json!(["plants/+/telemetry"]));

    world.edit(|spec| spec["mqtt"]["subscriptions"] = subscriptions(&["plants/+/telemetry", "sites/#"]));
    world.reconcile().await.unwrap();
    assert_eq!(world.bridge_configuration()["unsubscribe"], json!(["plants/#"]));
}

#[tokio::test]
async fn a_bridge_whose_configuration_is_lost_gets_a_new_one() {
    let world = World::at_rest(PIPELINE).await;
    let is_lost = |key: &String| key.starts_with("configmaps/line-bridge-");
    let lost = world.api.keys().into_iter().find(is_lost).unwrap();
    world.api.remove(&lost);
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["apply configmaps/line-bridge-*", "create events: Changed"]);
    assert_eq!(world.bridge_configuration()["unsubscribe"], json!([]));
}

#[tokio::test]
async fn filters_are_reported_only_as_far_as_they_were_asked_for() {
    let world = World::at_rest(PIPELINE).await;
    world.report(json!({"subscriptions": [
        {"filter": "plants/+/telemetry", "grantedQos": 1},
        {"filter": "invented\u{1b}[31m", "grantedQos": 1},
    ]}));
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["bridge"]["filters"], json!(["plants/+/telemetry"]));
}

/// The pipeline without `mqtt`: something else fills its topic.
fn without_mqtt() -> String {
    let (head, rest) = PIPELINE.split_once("  mqtt:\n").unwrap();
    let (_, tail) = rest.split_once("  kafka:\n").unwrap();
    format!("{head}  kafka:\n{tail}")
}

#[tokio::test]
async fn a_pipeline_without_mqtt_has_no_bridge_and_says_nothing_of_one() {
    let world = World::at_rest(&without_mqtt()).await;
    assert_eq!(world.condition("Ready"), "True AsSpecified");
    assert_eq!(world.api.get(STATEFULSET), json!(null));
    let bridges: Vec<_> = world.api.keys().into_iter().filter(|key| key.contains("line-bridge")).collect();
    assert_eq!(bridges, [""; 0]);
    let status = world.status();
    assert_eq!(status["bridge"], json!(null));
    let types: Vec<_> =
        status["conditions"].as_array().unwrap().iter().map(|condition| &condition["type"]).collect();
    assert_eq!(types, ["Ready", "TopicReady", "TableReady", "ProcessorReady", "PoliciesHealthy"]);
    assert_eq!(status["appliedGeneration"], 1);
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn a_pipeline_that_leaves_nothing_has_no_finalizer_and_one_that_deletes_has() {
    let world = World::at_rest(&without_mqtt()).await;
    let finalizers = || world.api.get("iotpipelines/line")["metadata"]["finalizers"].clone();
    assert_eq!(finalizers(), json!(null));
    world.edit(|spec| spec["deletionPolicy"] = json!({"table": "Delete"}));
    world.reconcile().await.unwrap();
    assert_eq!(finalizers(), json!(["iotpipeline.dev/cleanup"]));
    world.edit(|spec| spec["deletionPolicy"] = json!({}));
    world.reconcile().await.unwrap();
    assert_eq!(finalizers(), json!([]));
}
