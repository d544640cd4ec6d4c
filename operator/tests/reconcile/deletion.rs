//! How a pipeline goes: its MQTT session is ended first, and nothing holds it for long.

use std::time::Duration;

use serde_json::json;

use crate::world::{DEPLOYMENT, PIPELINE, STATEFULSET, World};

const DELETE: &str = "  deletionPolicy: {topic: Delete, table: Delete}\n";

#[tokio::test]
async fn the_session_is_ended_before_a_pipeline_goes() {
    let world = World::at_rest(PIPELINE).await;
    world.delete();
    world.reconcile().await.unwrap();
    assert_eq!(
        world.log(),
        [
            "apply configmaps/line-bridge-*",
            "merge statefulsets/line-bridge",
            "apply iotpipelines/line/status"
        ]
    );
    assert_eq!(world.bridge_configuration()["retire"], true);
    assert_eq!(world.condition("Ready"), "False CleanupPending");
    let message = world.message("Ready");
    assert!(message.contains("MQTT session test-plant-7-line at mqtt://mosquitto.mqtt:1883"), "{message}");

    world.report(json!({"retirement": {"ended": false, "passedOn": 5, "inFlight": 7}}));
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(!log.iter().any(|entry| entry.starts_with("delete") || entry.contains("configmaps")), "{log:?}");
    assert_ne!(world.api.get(DEPLOYMENT), json!(null), "the processor goes on");

    world.report(json!({"retirement": {"ended": true, "passedOn": 12, "inFlight": 0}}));
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["create events: SessionEnded", "merge iotpipelines/line"]);
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
}

#[tokio::test]
async fn a_suspended_bridge_is_woken_to_end_its_session() {
    let world = World::at_rest(&format!("{PIPELINE}  suspend: All\n")).await;
    assert_eq!(world.api.get(STATEFULSET)["spec"]["replicas"], 0);
    world.delete();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.get(STATEFULSET)["spec"]["replicas"], 1);
}

#[tokio::test]
async fn an_invalid_spec_does_not_keep_the_session_from_being_ended() {
    let world = World::at_rest(PIPELINE).await;
    world.edit(|spec| spec["mqtt"]["maxPacketSize"] = json!("1Gi"));
    world.api.remove("secrets/tsdb-app");
    world.delete();
    world.reconcile().await.unwrap();
    assert_eq!(world.bridge_configuration()["retire"], true);
}

#[tokio::test]
async fn a_session_that_does_not_end_is_given_up_and_told_of() {
    let retirement = json!({"retirement": {"ended": false, "passedOn": 5, "inFlight": 7}});
    let nothing_runs = (None, Duration::from_secs(121));
    for (report, patience) in [nothing_runs, (Some(retirement), Duration::from_secs(61))] {
        let world = World::at_rest(PIPELINE).await;
        world.delete();
        world.reconcile().await.unwrap();
        if let Some(report) = report {
            world.report(report);
            world.reconcile().await.unwrap();
        }
        world.pass_time(patience - Duration::from_secs(2));
        world.reconcile().await.unwrap();
        world.log();
        world.pass_time(Duration::from_secs(2));
        world.reconcile().await.unwrap();
        assert_eq!(world.log(), ["create events: SessionLeft", "merge iotpipelines/line"]);
        assert_eq!(world.api.get("iotpipelines/line"), json!(null));
    }
}

#[tokio::test]
async fn a_session_that_was_given_up_does_not_keep_the_stores_from_being_deleted() {
    let world = World::at_rest(&format!("{PIPELINE}{DELETE}")).await;
    world.delete();
    world.reconcile().await.unwrap();
    world.pass_time(Duration::from_secs(121));
    for _ in 0..2 {
        world.reconcile().await.unwrap();
    }
    let log = world.log();
    assert!(log.contains(&"kafka: plant-7.line deleted".to_owned()), "{log:?}");
    assert_eq!(log.iter().filter(|entry| entry.contains("SessionLeft")).count(), 1, "{log:?}");
}

#[tokio::test]
async fn a_pod_that_is_not_the_bridges_cannot_say_that_the_session_has_ended() {
    let world = World::at_rest(PIPELINE).await;
    world.delete();
    world.reconcile().await.unwrap();
    world.report(json!({"retirement": {"ended": true, "passedOn": 0, "inFlight": 0}}));
    world.api.change("pods/line-bridge-0", |pod| pod["metadata"]["ownerReferences"] = json!([]));
    world.reconcile().await.unwrap();
    assert_ne!(world.api.get("iotpipelines/line"), json!(null));
}

#[tokio::test]
async fn a_bridge_that_was_deleted_first_leaves_its_session() {
    let world = World::at_rest(PIPELINE).await;
    let filter = "plants/+/telemetry";
    world.report(json!({"subscriptions": [{"filter": filter, "grantedQos": 1}]}));
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["bridge"]["filters"], json!([filter]));
    world.log();
    world.delete();
    world.api.remove(STATEFULSET);
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["create events: SessionLeft", "merge iotpipelines/line"]);
}

#[tokio::test]
async fn a_pipeline_whose_bridge_never_was_goes_at_once() {
    let world = World::with(PIPELINE);
    world.databases.set_down(true);
    world.reconcile().await.unwrap_err();
    world.log();
    world.delete();
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["merge iotpipelines/line"]);
}

#[tokio::test]
async fn the_annotation_skips_the_session_too() {
    let world = World::at_rest(PIPELINE).await;
    world.delete();
    world.api.change("iotpipelines/line", |pipeline| {
        pipeline["metadata"]["annotations"] = json!({"iotpipeline.dev/skip-cleanup": "true"});
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["create events: CleanupAbandoned", "merge iotpipelines/line"]);
}

#[tokio::test]
async fn a_namespace_that_goes_is_not_held_while_kafka_and_the_database_are_down() {
    for policy in ["", DELETE] {
        let world = World::at_rest(&format!("{PIPELINE}{policy}")).await;
        world.kafka.set_down(true);
        world.databases.set_down(true);
        world.delete_namespace();
        for _ in 0..2 {
            if world.api.get("iotpipelines/line") != json!(null) {
                world.reconcile().await.unwrap();
            }
        }
        assert_eq!(world.api.get("iotpipelines/line"), json!(null), "{policy}");
        let log = world.log();
        assert!(!log.iter().any(|entry| entry.starts_with("apply configmaps")), "no new pod: {log:?}");
    }
}

#[tokio::test]
async fn a_namespace_that_goes_is_not_held_by_a_secret_that_went_first() {
    let world = World::at_rest(&format!("{PIPELINE}{DELETE}")).await;
    world.api.remove("secrets/tsdb-app");
    world.delete_namespace();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
}

#[tokio::test]
async fn each_layer_goes_as_its_policy_says() {
    let all = [
        "kafka: plant-7.line deleted",
        "kafka: group iotp.plant-7.line deleted",
        "database: plant_7.line deleted",
        "database: plant_7.line_dead_letters deleted",
    ];
    for (policy, gone) in [
        ("topic: Delete", &[0][..]),
        ("offsets: Delete", &[1]),
        ("table: Delete", &[2, 3]),
        ("table: Delete, deadLetters: Retain", &[2]),
        ("deadLetters: Delete", &[3]),
        ("topic: Delete, table: Delete, offsets: Delete", &[0, 1, 2, 3]),
        ("deadLetters: Retain", &[]),
    ] {
        let world = World::at_rest(&format!("{PIPELINE}  deletionPolicy: {{{policy}}}\n")).await;
        world.delete();
        world.reconcile().await.unwrap();
        world.report(json!({"retirement": {"ended": true, "passedOn": 12, "inFlight": 0}}));
        world.reconcile().await.unwrap();
        world.api.remove("pods/line-bridge-0");
        if !gone.is_empty() {
            world.reconcile().await.unwrap();
        }
        let log = world.log();
        for (index, entry) in all.iter().enumerate() {
            assert_eq!(
                log.contains(&(*entry).to_owned()),
                gone.contains(&index),
                "{policy}: {entry}: {log:?}"
            );
        }
        assert_eq!(world.api.get("iotpipelines/line"), json!(null), "{policy}");
    }
}

#[tokio::test]
async fn an_operator_that_is_installed_anew_and_pipelines_that_are_restored_delete_nothing() {
    let policy = "  deletionPolicy: {topic: Delete, table: Delete, offsets: Delete}\n";
    let world = World::at_rest(&format!("{PIPELINE}{policy}")).await;
    world.forget();
    world.reconcile().await.unwrap();
    // From a backup of the cluster: the same names, other UIDs, no status.
    world.forget();
    world.api.change("iotpipelines/line", |pipeline| {
        pipeline["metadata"]["uid"] = json!("9a3c");
        pipeline["metadata"]["generation"] = json!(1);
        pipeline["metadata"].as_object_mut().unwrap().remove("finalizers");
        pipeline.as_object_mut().unwrap().remove("status");
    });
    for _ in 0..3 {
        world.reconcile().await.unwrap();
    }
    let log = world.log();
    let stores = log.iter().filter(|entry| entry.starts_with("kafka:") || entry.starts_with("database:"));
    assert_eq!(stores.collect::<Vec<_>>(), [""; 0], "topic and table are as they were");
    assert_eq!(world.condition("TopicReady"), "True AsSpecified");
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
}
