//! How rows and dead letters go.

use serde_json::json;

use crate::world::{PIPELINE, World};

#[tokio::test]
async fn expired_chunks_are_dropped_by_the_operator_where_there_are_no_policies() {
    let world = World::with(PIPELINE);
    world.edit(|spec| {
        spec["timescale"]["retention"] = json!({"dropAfter": "90d"});
        spec["timescale"]["deadLetters"] = json!({"retention": {"dropAfter": "14d"}});
    });
    world.reconcile().await.unwrap();
    world.log();
    world.reconcile().await.unwrap();
    let log = world.log();
    for dropped in ["line older than 90", "line_dead_letters older than 14"] {
        assert!(log.contains(&format!("database: chunks of {dropped} days dropped")), "{log:?}");
    }
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0], "not due again for an hour");
}

#[tokio::test]
async fn rows_that_would_go_wait_for_the_annotation_and_workers_do_not() {
    let world = World::with(PIPELINE);
    world.edit(|spec| spec["timescale"]["retention"] = json!({"dropAfter": "90d"}));
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "True AsSpecified");
    world.log();

    world.edit(|spec| {
        spec["timescale"]["retention"] = json!({"dropAfter": "30d"});
        spec["processing"] = json!({"program": ".device = \"x\""});
    });
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(log.contains(&"apply deployments/line-processor".to_owned()), "{log:?}");
    assert!(!log.iter().any(|entry| entry.starts_with("database:")), "{log:?}");
    assert_eq!(world.condition("TableReady"), "False ApprovalRequired");
    assert_eq!(world.condition("Ready"), "False ApprovalRequired");
    assert_eq!(world.condition("ProcessorReady"), "True AsSpecified");
    assert_eq!(world.condition("BridgeReady"), "True AsSpecified");
    assert_eq!(world.status()["appliedGeneration"], world.status()["observedGeneration"]);

    let message = world.message("TableReady");
    let annotate = |value: &str| {
        world.api.change("iotpipelines/line", |pipeline| {
            pipeline["metadata"]["annotations"] = json!({"iotpipeline.dev/approve": value});
        });
    };
    annotate("000000000000");
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "False ApprovalRequired");
    annotate(message.rsplit_once("iotpipeline.dev/approve=").unwrap().1);
    world.reconcile().await.unwrap();
    assert!(world.log().contains(&"database: plant_7.line made".to_owned()));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "True AsSpecified");
}

#[tokio::test]
async fn records_that_would_go_wait_for_the_annotation_unless_there_are_none() {
    for is_empty in [false, true] {
        let world = World::at_rest(PIPELINE).await;
        world.kafka.set_empty(is_empty);
        world.edit(|spec| {
            spec["kafka"]["topic"]["retention"] = json!("1h");
            spec["processing"] = json!({"program": ".device = \"x\""});
        });
        world.reconcile().await.unwrap();
        world.settle_workers();
        let altered = "kafka: plant-7.line has {\"retention.ms\": \"3600000\"}".to_owned();
        let log = world.log();
        assert!(log.contains(&"apply deployments/line-processor".to_owned()), "{log:?}");
        assert_eq!(log.contains(&altered), is_empty, "{log:?}");
        world.reconcile().await.unwrap();
        if is_empty {
            assert_eq!(world.condition("Ready"), "True AsSpecified");
            continue;
        }
        assert_eq!(world.condition("TopicReady"), "False ApprovalRequired");
        assert_eq!(world.condition("ProcessorReady"), "True AsSpecified");
        let planned = world.status()["plan"][0].clone();
        assert_eq!([&planned["field"], &planned["class"]], ["retention.ms", "Destructive"]);

        let message = world.message("TopicReady");
        let hash = message.rsplit_once("iotpipeline.dev/approve=").unwrap().1;
        assert_eq!(planned["approval"], hash);
        world.api.change("iotpipelines/line", |pipeline| {
            pipeline["metadata"]["annotations"] = json!({"iotpipeline.dev/approve": hash});
        });
        world.log();
        // Kafka is away at first: the approval is not lost by that.
        world.kafka.set_down(true);
        world.reconcile().await.unwrap_err();
        assert_eq!(world.status()["usedApprovals"], json!(null));
        world.kafka.set_down(false);
        world.reconcile().await.unwrap();
        assert!(world.log().contains(&altered));
        assert_eq!(world.status()["usedApprovals"], json!([hash]));
        world.reconcile().await.unwrap();
        assert_eq!(world.condition("Ready"), "True AsSpecified");
    }
}
