//! The number of processors: who decides it, and what is written because of it.

use std::time::Duration;

use serde_json::json;

use crate::world::{DEPLOYMENT, PIPELINE, World};

fn scaled(processor: &str) -> String {
    format!("{PIPELINE}  processor: {processor}\n")
}

fn replicas(world: &World) -> i64 {
    world.api.get(DEPLOYMENT)["spec"]["replicas"].as_i64().unwrap()
}

fn scale_by_hand(world: &World, replicas: i32) {
    world.api.change(DEPLOYMENT, |deployment| deployment["spec"]["replicas"] = json!(replicas));
}

/// A pipeline for which nothing comes, and an operator that has just started.
async fn without_processors() -> World {
    let world = World::at_rest(&scaled("{mode: BuiltIn, minReplicas: 0, maxReplicas: 3}")).await;
    scale_by_hand(&world, 0);
    world.forget();
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    world
}

#[tokio::test]
async fn what_comes_to_no_processor_starts_one() {
    // An operator that starts finds none, and changes nothing by that.
    let world = without_processors().await;
    assert_eq!((replicas(&world), world.condition("Ready").as_str()), (0, "True AsSpecified"));
    assert_eq!(
        world.message("ProcessorReady"),
        "none runs, because nothing comes; the first message starts one"
    );
    world.log();

    // 1234 records wait.
    assert_eq!(world.watch_load(Duration::from_millis(100)).await, 1);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 1);
    let autoscaling = &world.status()["processor"]["autoscaling"];
    assert_eq!((&autoscaling["desiredReplicas"], &autoscaling["reason"]), (&json!(1), &json!("Woken")));
    let log = world.log();
    let applied: Vec<_> = log.iter().filter(|entry| entry.starts_with("apply")).collect();
    assert_eq!(applied, ["apply deployments/line-processor", "apply iotpipelines/line/status"]);

    // At rest nothing is written, however often it is looked at.
    world.settle_workers();
    world.reconcile().await.unwrap();
    world.log();
    world.watch_load(Duration::from_millis(100)).await;
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn an_edit_that_is_refused_keeps_no_processor_from_starting() {
    let world = without_processors().await;
    world.edit(|spec| spec["processing"] = json!({"program": ".x = no_such_function()"}));
    world.reconcile().await.unwrap();
    assert_eq!((replicas(&world), world.condition("Ready").as_str()), (0, "False ProgramInvalid"));
    world.log();

    assert_eq!(world.watch_load(Duration::from_millis(100)).await, 1);
    world.reconcile().await.unwrap();
    assert_eq!((replicas(&world), world.log()), (1, vec!["merge deployments/line-processor".to_owned()]));
    world.settle_workers();
    world.reconcile().await.unwrap();
    world.log();
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn what_is_scaled_by_hand_is_scaled_back() {
    let world = World::at_rest(&scaled("{mode: BuiltIn, replicas: 2, maxReplicas: 3}")).await;
    assert_eq!(replicas(&world), 2, "those of the spec, at first");
    world.watch_load(Duration::from_millis(100)).await;
    world.reconcile().await.unwrap();
    scale_by_hand(&world, 3);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 2);
    world.log();
    world.edit(|spec| spec["processor"]["minReplicas"] = json!(3));
    world.reconcile().await.unwrap();
    world.watch_load(Duration::from_millis(100)).await;
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3, "the new bound holds");
    let log = world.log();
    assert!(log.contains(&"create events: AtMinimum".to_owned()), "it is told: {log:?}");
    world.edit(|spec| spec["suspend"] = json!("Processor"));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 0);
    assert_eq!(world.status()["processor"]["autoscaling"], json!(null));
    world.edit(|spec| spec["suspend"] = json!("None"));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3);
}

#[tokio::test]
async fn a_pipeline_that_is_only_scaled_stays_ready() {
    let world = World::at_rest(&scaled("{replicas: 1}")).await;
    for wanted in [3, 2] {
        world.edit(|spec| spec["processor"]["replicas"] = json!(wanted));
        world.reconcile().await.unwrap();
        assert_eq!((replicas(&world), world.condition("Ready").as_str()), (wanted, "True AsSpecified"));
        // The Deployment has not come to it yet.
        world.reconcile().await.unwrap();
        assert_eq!(world.condition("Ready"), "True AsSpecified", "{wanted}");
        world.settle_workers();
        world.reconcile().await.unwrap();
        assert_eq!(world.message("ProcessorReady"), format!("{wanted} of {wanted} ready"));
    }
    // Other pods are something else, and so is none.
    world.edit(|spec| {
        spec["processor"] = json!({"replicas": 3, "resources": {"limits": {"memory": "1Gi"}}});
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "False Progressing");
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "True AsSpecified");
    world.edit(|spec| spec["suspend"] = json!("Processor"));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "False Progressing");
}

#[tokio::test]
async fn advice_changes_nothing_but_the_status() {
    let world = World::at_rest(&scaled("{mode: Advise, replicas: 1, minReplicas: 2, maxReplicas: 3}")).await;
    assert_eq!(world.watch_load(Duration::from_millis(100)).await, 1);
    world.log();
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 1);
    assert_eq!(world.status()["processor"]["autoscaling"]["desiredReplicas"], json!(2));
    assert_eq!(world.log(), ["apply iotpipelines/line/status"]);
    world.edit(|spec| spec["processor"] = json!({"mode": "Fixed", "replicas": 1}));
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["processor"]["autoscaling"], json!(null));
}

#[tokio::test]
async fn what_another_scaler_writes_is_copied() {
    let world = World::at_rest(&scaled("{mode: External, replicas: 1}")).await;
    assert_eq!(world.watch_load(Duration::from_millis(100)).await, 0);
    for wanted in [3, 0, 2] {
        world.edit(|spec| spec["processor"]["replicas"] = json!(wanted));
        world.reconcile().await.unwrap();
        world.settle_workers();
        world.reconcile().await.unwrap();
        assert_eq!(replicas(&world), wanted);
        assert_eq!(world.condition("Ready"), "True AsSpecified");
    }
}
