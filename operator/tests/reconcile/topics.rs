//! Topics that somebody else manages, and topics that grow.

use serde_json::{Value, json};

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

/// A pipeline at rest of which the topic, which has 1,234 records, is to have more partitions.
async fn growing(spec: impl FnOnce(&mut Value)) -> World {
    let world = World::at_rest(PIPELINE).await;
    world.report(json!({}));
    world.put_processor(true);
    world.databases.set_position(1_000);
    world.edit(|pipeline| {
        pipeline["kafka"]["topic"]["partitions"] = json!(6);
        spec(pipeline);
    });
    world.reconcile().await.unwrap();
    world
}

fn bridges(world: &World) -> Value {
    world.api.get(STATEFULSET)["spec"]["replicas"].clone()
}

fn has_grown(world: &World) -> bool {
    world.log().contains(&"kafka: plant-7.line has 6 partitions".to_owned())
}

#[tokio::test]
async fn a_topic_grows_once_the_bridge_holds_and_everything_is_rows() {
    let world = growing(|_| ()).await;
    assert_eq!(bridges(&world), 0);
    assert_eq!(world.condition("TopicReady"), "False TopicGrowing");
    assert_eq!(world.status()["topic"]["partitions"], 3);
    let waiting = json!({
        "object": "topic plant-7.line", "field": "partitions", "from": "3", "to": "6", "class": "Disruptive",
    });
    assert_eq!(world.status()["plan"], json!([waiting]));

    // It may still pass something on.
    world.databases.set_position(1_234);
    world.reconcile().await.unwrap();
    assert!(!has_grown(&world), "the bridge is still there");
    world.api.remove("pods/line-bridge-0");
    world.settle_workers();
    world.databases.set_position(1_233);
    world.reconcile().await.unwrap();
    assert_eq!((bridges(&world), has_grown(&world)), (json!(0), false), "a record is no row yet");
    assert_eq!(world.condition("BridgeReady"), "False TopicGrowing");

    world.databases.set_position(1_234);
    world.reconcile().await.unwrap();
    assert_eq!((bridges(&world), has_grown(&world)), (json!(1), true));
    assert_eq!(world.condition("TopicReady"), "True AsSpecified");
    assert_eq!(world.status()["topic"]["partitions"], 6);
    assert_eq!(world.status()["plan"], json!(null));
}

#[tokio::test]
async fn a_topic_grows_at_once_where_keys_may_change_places() {
    let world = growing(|spec| spec["kafka"]["topic"]["allowReorder"] = json!(true)).await;
    assert_eq!((bridges(&world), has_grown(&world)), (json!(1), true));
    assert_eq!(world.condition("TopicReady"), "True AsSpecified");
}

#[tokio::test]
async fn the_bridge_goes_on_where_nobody_makes_rows_of_a_topic_that_is_to_grow() {
    let world = growing(|_| ()).await;
    assert_eq!(bridges(&world), 0);
    world.put_processor(false);
    world.reconcile().await.unwrap();
    assert_eq!((bridges(&world), has_grown(&world)), (json!(1), false));
    assert_eq!(world.condition("TopicReady"), "False TopicGrowing");
    let message = world.message("TopicReady");
    assert!(message.contains("no processor") && message.contains("allowReorder"), "{message}");
}

#[tokio::test]
async fn a_topic_that_others_fill_grows_only_where_keys_may_change_places() {
    let world = growing(|spec| {
        spec.as_object_mut().unwrap().remove("mqtt");
    })
    .await;
    assert!(!has_grown(&world));
    assert_eq!(world.condition("TopicReady"), "False TopicChangeRefused");
    world.edit(|spec| spec["kafka"]["topic"]["allowReorder"] = json!(true));
    world.reconcile().await.unwrap();
    assert!(has_grown(&world));
}

#[tokio::test]
async fn an_edit_of_the_bridge_does_not_keep_a_topic_from_growing() {
    let world = growing(|spec| spec["mqtt"]["maxInFlight"] = json!(500)).await;
    assert_eq!(bridges(&world), 0);
    world.api.remove("pods/line-bridge-0");
    world.settle_workers();
    world.databases.set_position(1_234);
    world.reconcile().await.unwrap();
    assert_eq!((bridges(&world), has_grown(&world)), (json!(1), true));
}

#[tokio::test]
async fn no_topic_is_adopted_that_another_pipeline_may_have() {
    let world = World::with(&format!("{PIPELINE}  adoptionPolicy: Adopt\n"));
    world.kafka.make_topic(&[]);
    world.let_another_be_unknown();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TopicReady"), "False ResourceConflict");
    assert!(world.message("TopicReady").contains("the IoTPipeline other in namespace plant-8"));
    world.look_at_another();
    world.log();
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(log.contains(&"database: topic plant-7.line adopted".to_owned()), "{log:?}");
}

#[tokio::test]
async fn a_topic_of_nobody_is_adopted_where_the_spec_says_so_and_stays_when_the_pipeline_goes() {
    let policy = "  deletionPolicy: {topic: Delete}\n  adoptionPolicy: Adopt\n";
    let world = World::with(&format!("{PIPELINE}{policy}").replace("partitions: 3", "partitions: 12"));
    world.kafka.make_topic(&[("retention.ms", "1000"), ("max.message.bytes", "9000000")]);
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(log.contains(&"database: topic plant-7.line adopted".to_owned()), "{log:?}");
    assert!(log.contains(&"kafka: plant-7.line has {\"retention.ms\": \"604800000\"}".to_owned()), "{log:?}");
    assert!(
        world.message("TopicReady").contains("replicationFactor is 1"),
        "{}",
        world.message("TopicReady")
    );
    world.reconcile().await.unwrap();
    assert!(!world.log().iter().any(|entry| entry.contains("adopted")), "once");

    world.delete();
    world.reconcile().await.unwrap();
    world.report(json!({"retirement": {"ended": true, "passedOn": 12, "inFlight": 0}}));
    world.reconcile().await.unwrap();
    world.api.remove("pods/line-bridge-0");
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(log.contains(&"create events: Retained".to_owned()), "{log:?}");
    assert!(!log.iter().any(|entry| entry.starts_with("kafka")), "{log:?}");
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
}
