//! Topics that somebody else manages.

use serde_json::json;

use crate::world::{DEPLOYMENT, PIPELINE, STATEFULSET, World};

fn external() -> String {
    PIPELINE.replace("partitions: 3, replicationFactor: 1", "management: External")
}

fn assert_topic_untouched(world: &World) {
    let log = world.log();
    let touches = |entry: &&String| entry.starts_with("kafka:") || entry.starts_with("database: topic");
    assert_eq!(log.iter().find(touches), None, "{log:?}");
}

#[tokio::test]
async fn workers_wait_for_an_external_topic_and_nobody_makes_it() {
    let world = World::with(&external());
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TopicReady"), "False TopicMissing");
    assert_eq!(world.api.get(STATEFULSET), json!(null));
    assert_eq!(world.api.get(DEPLOYMENT), json!(null));
    assert_topic_untouched(&world);

    world.kafka.make_topic(&[("cleanup.policy", "delete"), ("max.message.bytes", "9000000")]);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TopicReady"), "True AsSpecified");
    assert_eq!(world.status()["topic"], json!({"name": "plant-7.line", "partitions": 12}));
    assert_ne!(world.api.get(STATEFULSET), json!(null));
    assert_ne!(world.api.get(DEPLOYMENT), json!(null));
    assert_topic_untouched(&world);
}

#[tokio::test]
async fn an_external_topic_that_does_not_serve_any_more_stops_rolls_only() {
    let world = World::with(&external());
    world.kafka.make_topic(&[]);
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "True AsSpecified");

    world.kafka.make_topic(&[("cleanup.policy", "compact")]);
    let before = world.api.get(DEPLOYMENT);
    world.edit(|spec| spec["processing"] = json!({"program": ".device = \"x\""}));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TopicReady"), "False TopicUnfit");
    assert!(world.message("Ready").contains("cleanup.policy=delete"), "{}", world.message("Ready"));
    assert_eq!(world.api.get(DEPLOYMENT), before);
    assert_eq!(world.status()["appliedGeneration"], 1);
    assert_topic_untouched(&world);
}

#[tokio::test]
async fn an_external_topic_is_judged_without_the_database() {
    let world = World::with(&external());
    world.kafka.make_topic(&[]);
    world.databases.set_down(true);
    world.reconcile().await.unwrap_err();
    assert_eq!(world.condition("TopicReady"), "True AsSpecified");
}

#[tokio::test]
async fn a_topic_that_another_pipeline_manages_is_neither_made_nor_claimed() {
    let world = World::with(PIPELINE);
    world.let_another_manage_the_topic();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TopicReady"), "False ResourceConflict");
    let message = world.message("TopicReady");
    assert!(message.contains("IoTPipeline other in namespace plant-8"), "{message}");
    assert_eq!(world.api.get(DEPLOYMENT), json!(null));
    assert_topic_untouched(&world);
}

#[tokio::test]
async fn a_topic_that_another_pipeline_manages_survives_the_deletion() {
    let world = World::deleted_after_rest().await;
    // A restarted operator that has met the other one first.
    world.forget();
    world.let_another_manage_the_topic();
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    world.api.remove("pods/line-bridge-0");
    world.reconcile().await.unwrap();
    assert_topic_untouched(&world);
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
}
