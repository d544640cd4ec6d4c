//! An operator of another version: whose workers it replaces, and what it does about those that wait.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{DEPLOYMENT, PIPELINE, STATEFULSET, World};

fn images(world: &World) -> Vec<String> {
    let image = |key: &&str| {
        let containers = world.api.get(key)["spec"]["template"]["spec"]["containers"].clone();
        containers[0]["image"].as_str().unwrap().to_owned()
    };
    [STATEFULSET, DEPLOYMENT].iter().map(image).collect()
}

#[tokio::test]
async fn workers_wait_until_it_is_their_turn() {
    let mut world = World::at_rest(PIPELINE).await;
    world.upgrade("worker:2", true);
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["apply iotpipelines/line/status"]);
    assert_eq!(world.condition("Ready"), "True AsSpecified", "the older workers do their work");
    assert!(
        world.message("ProcessorReady").contains("another version"),
        "{}",
        world.message("ProcessorReady")
    );
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0], "it is said once");

    world.end_other_rollout();
    world.reconcile().await.unwrap();
    assert_eq!(images(&world), ["worker:2", "worker:2"]);
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.message("ProcessorReady"), "1 of 1 ready");
}

#[tokio::test]
async fn everything_else_is_kept_while_workers_wait() {
    let mut world =
        World::at_rest(&format!("{PIPELINE}  processor: {{mode: BuiltIn, maxReplicas: 3}}\n")).await;
    world.upgrade("worker:2", true);
    world.api.remove("services/line-processor");
    world.api.change(DEPLOYMENT, |deployment| deployment["spec"]["replicas"] = json!(3));
    world.watch_load(Duration::from_millis(100)).await;
    world.reconcile().await.unwrap();
    assert!(world.log().contains(&"apply services/line-processor".to_owned()));
    assert_eq!(images(&world), ["worker:1", "worker:1"]);

    // A workload that is gone has no workers of an older version to keep.
    world.api.remove(DEPLOYMENT);
    world.reconcile().await.unwrap();
    assert_eq!(images(&world), ["worker:1", "worker:2"]);
}

#[tokio::test]
async fn the_number_of_processors_follows_while_they_wait() {
    let mut world =
        World::at_rest(&format!("{PIPELINE}  processor: {{mode: BuiltIn, replicas: 2, maxReplicas: 3}}\n"))
            .await;
    world.watch_load(Duration::from_millis(100)).await;
    world.upgrade("worker:2", true);
    world.api.change(DEPLOYMENT, |deployment| deployment["spec"]["replicas"] = json!(1));
    world.settle_workers();
    world.reconcile().await.unwrap();
    let deployment = world.api.get(DEPLOYMENT);
    assert_eq!(deployment["spec"]["replicas"], json!(2));
    assert_eq!(images(&world), ["worker:1", "worker:1"]);
    assert!(world.condition("ProcessorReady").starts_with("True"), "the one that was there works");
}

#[tokio::test]
async fn one_that_does_not_want_its_turn_any_more_is_not_called() {
    for edit in [
        (|spec| spec["mode"] = json!("Observe")) as fn(&mut Value),
        |spec| spec["processing"] = json!({"program": ".x = no_such_function()"}),
        |spec| spec["mqtt"] = json!("not a block"),
    ] {
        let mut world = World::at_rest(PIPELINE).await;
        world.upgrade("worker:2", true);
        world.reconcile().await.unwrap();
        assert!(world.is_called());
        world.upgrade("worker:3", true);
        world.reconcile().await.unwrap();
        world.edit(edit);
        let _ = world.reconcile().await;
        assert!(!world.is_called());
    }
}

#[tokio::test]
async fn one_whose_stores_are_away_holds_no_place() {
    let world = World::at_rest(PIPELINE).await;
    world.api.change(DEPLOYMENT, |deployment| {
        let volumes = &mut deployment["spec"]["template"]["spec"]["volumes"];
        volumes[0]["configMap"]["name"] = json!("line-processor-of-another-version");
    });
    world.databases.set_down(true);
    world.reconcile().await.unwrap_err();
    assert!(world.admits_another());
}

#[tokio::test]
async fn an_edit_waits_for_nobody() {
    let mut world = World::at_rest(PIPELINE).await;
    world.upgrade("worker:2", true);
    world.reconcile().await.unwrap();
    world.edit(|spec| spec["mqtt"]["subscriptions"][0]["filter"] = json!("sites/+/telemetry"));
    world.reconcile().await.unwrap();
    assert_eq!(images(&world), ["worker:2", "worker:2"]);
}
