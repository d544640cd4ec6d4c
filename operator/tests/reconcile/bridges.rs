//! Several bridges on one shared subscription: how they come, leave, and what is left of them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{PIPELINE, STATEFULSET, World};

fn shared(replicas: i32) -> String {
    let shared = PIPELINE.replacen("  mqtt:\n", "  mqtt:\n    session: Shared\n", 1);
    format!("{shared}  bridge: {{replicas: {replicas}}}\n")
}

fn scale(world: &World, replicas: i32) {
    world.edit(|spec| spec["bridge"]["replicas"] = json!(replicas));
}

/// How many bridges there are, and from which ordinal on they leave.
fn staff(world: &World) -> (Value, Value, Value) {
    let statefulset = world.api.get(STATEFULSET);
    let partition = &statefulset["spec"]["updateStrategy"]["rollingUpdate"]["partition"];
    let replicas = &statefulset["spec"]["replicas"];
    (replicas.clone(), world.bridge_configuration()["shared"]["retireFrom"].clone(), partition.clone())
}

fn ended() -> Value {
    json!({"retirement": {"ended": true, "passedOn": 12, "inFlight": 0}})
}

/// The bridges run; what they say of a retirement is said by a test.
async fn settle(world: &World) {
    world.settle_workers();
    world.reconcile().await.unwrap();
}

#[tokio::test]
async fn sessions_are_noted_before_bridges_may_begin_them() {
    let world = World::with(&shared(3));
    world.reconcile().await.unwrap();
    let log = world.log();
    assert_eq!(log[..2], ["merge iotpipelines/line", "apply iotpipelines/line/status"]);
    settle(&world).await;
    let status = world.status();
    assert_eq!((&status["bridge"]["sessions"], &status["bridge"]["replicas"]), (&json!(3), &json!(3)));
    assert_eq!(staff(&world), (json!(3), json!(null), json!(null)));
    let config = world.bridge_configuration();
    assert_eq!(config["subscriptions"][0]["filter"], "$share/test-plant-7-line/plants/+/telemetry");
    world.log();
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn bridges_that_leave_keep_their_pods_until_their_sessions_have_ended() {
    let world = World::at_rest(&shared(3)).await;
    scale(&world, 1);
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(3), json!(1), json!(1)), "the one that stays is not rolled");
    assert_eq!(world.condition("BridgeReady"), "True BridgesLeaving");
    world.api.change(STATEFULSET, |bridges| {
        bridges["status"] = json!({"replicas": 3, "updatedReplicas": 1, "readyReplicas": 1});
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("BridgeReady"), "True BridgesLeaving", "those that leave start anew");
    settle(&world).await;
    assert_eq!(world.condition("BridgeReady"), "True BridgesLeaving");
    assert_eq!(world.condition("Ready"), "True AsSpecified");

    // The operator is another one from here on.
    world.forget();
    world.report_of_bridge(1, json!({"retirement": {"ended": false, "passedOn": 5, "inFlight": 7}}));
    world.report_of_bridge(2, ended());
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(3), json!(1), json!(1)));
    assert!(world.message("BridgeReady").ends_with("; 1 not done yet"), "{}", world.message("BridgeReady"));

    world.report_of_bridge(1, ended());
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(1), json!(null), json!(null)));
    assert_eq!(world.status()["bridge"]["sessions"], 1);
    assert!(world.condition("BridgeReady").starts_with("True "));
    world.api.remove("pods/line-bridge-1");
    world.api.remove("pods/line-bridge-2");
    world.api.change(STATEFULSET, |bridges| {
        bridges["status"] = json!({"replicas": 2, "updatedReplicas": 1, "readyReplicas": 2});
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("BridgeReady"), "True AsSpecified", "one that has left still goes");
    settle(&world).await;
    assert_eq!(world.condition("BridgeReady"), "True AsSpecified");
    world.log();
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn the_operator_decides_how_many_bridges_there_are() {
    let scaled = shared(2).replace("{replicas: 2}", "{mode: BuiltIn, replicas: 2, maxReplicas: 4}");
    let world = World::at_rest(&scaled).await;
    assert_eq!(staff(&world).0, 2, "those of the spec, at first");
    let watch = async || world.watch_load(Duration::from_millis(100)).await;
    let received = |ordinals: u32| {
        (0..ordinals).for_each(|ordinal| world.report_of_bridge(ordinal, json!({"received": 7})));
    };
    let decided = |world: &World| world.status()["bridge"]["autoscaling"].clone();
    watch().await;
    world.reconcile().await.unwrap();
    assert_eq!(decided(&world)["reason"], "CoolingDown", "the pods are not there yet");
    received(2);
    world.reconcile().await.unwrap();
    // Each that is seen first may have been away.
    assert_eq!((watch().await, watch().await), (0, 0), "nothing is decided");
    world.reconcile().await.unwrap();
    assert_eq!(decided(&world)["reason"], "Measuring");

    world.edit(|spec| spec["bridge"]["minReplicas"] = json!(3));
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(3), json!(null), json!(null)));
    assert_eq!(world.status()["bridge"]["sessions"], 3);
    settle(&world).await;
    received(3);
    watch().await;
    settle(&world).await;
    assert_eq!(decided(&world)["desiredReplicas"], 3);

    // What was decided is brought about like an edit: those that leave end their sessions first.
    world.edit(|spec| {
        spec["bridge"]["minReplicas"] = json!(1);
        spec["bridge"]["maxReplicas"] = json!(1);
    });
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(3), json!(1), json!(1)));
    watch().await;
    settle(&world).await;
    assert_eq!(
        (&decided(&world)["desiredReplicas"], &decided(&world)["reason"]),
        (&json!(1), &json!("AtMaximum"))
    );
    for ordinal in [1, 2] {
        world.report_of_bridge(ordinal, ended());
    }
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(1), json!(null), json!(null)));

    // Whoever changes the number by hand has changed nothing, and a mode without decisions tells none.
    world.edit(|spec| spec["bridge"]["replicas"] = json!(3));
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world).0, 1);
    world.edit(|spec| spec["bridge"] = json!({"replicas": 1}));
    settle(&world).await;
    assert_eq!(decided(&world), json!(null));
}

#[tokio::test]
async fn bridges_that_are_wanted_again_go_on() {
    let world = World::at_rest(&shared(3)).await;
    scale(&world, 1);
    world.reconcile().await.unwrap();
    scale(&world, 4);
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(4), json!(null), json!(null)));
    assert_eq!(world.status()["bridge"]["sessions"], 4);
}

#[tokio::test]
async fn a_session_whose_bridge_was_removed_by_hand_gets_one_that_ends_it() {
    // The pods were deleted by force while the StatefulSet asked for fewer.
    let world = World::at_rest(&shared(3)).await;
    scale(&world, 1);
    world.api.change(STATEFULSET, |statefulset| statefulset["spec"]["replicas"] = json!(1));
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world).0, json!(3));
    // The StatefulSet was deleted.
    world.api.remove(STATEFULSET);
    world.forget();
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(3), json!(1), json!(1)));
}

#[tokio::test]
async fn a_bridge_that_claims_to_have_left_is_asked_only_if_it_is_one() {
    let world = World::at_rest(&shared(2)).await;
    scale(&world, 1);
    world.reconcile().await.unwrap();
    world.report_of_bridge(1, ended());
    world.api.change("pods/line-bridge-1", |pod| pod["metadata"]["ownerReferences"] = json!([]));
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world).0, json!(2));
}

#[tokio::test]
async fn what_was_not_written_is_not_noted_as_done() {
    let world = World::at_rest(&shared(2)).await;
    scale(&world, 1);
    world.reconcile().await.unwrap();
    world.report_of_bridge(1, ended());
    world.kafka.set_down(true);
    world.reconcile().await.unwrap_err();
    assert_eq!((staff(&world).0, &world.status()["bridge"]["sessions"]), (json!(2), &json!(2)));
    world.kafka.set_down(false);
    world.reconcile().await.unwrap();
    assert_eq!((staff(&world).0, &world.status()["bridge"]["sessions"]), (json!(1), &json!(1)));
}

#[tokio::test]
async fn the_last_step_of_an_edit_waits_for_no_turn() {
    let mut world = World::at_rest(&shared(2)).await;
    scale(&world, 1);
    world.reconcile().await.unwrap();
    settle(&world).await;
    // Another pipeline's workers are being replaced.
    world.upgrade("worker:1", true);
    world.report_of_bridge(1, ended());
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(1), json!(null), json!(null)));

    let with_spool = PIPELINE.replacen("  mqtt:\n", "  mqtt:\n    spool: {size: 64Mi}\n", 1);
    let mut world = World::at_rest(&with_spool).await;
    world.edit(|spec| spec["mqtt"]["spool"] = json!(null));
    world.reconcile().await.unwrap();
    settle(&world).await;
    world.upgrade("worker:1", true);
    world.report(json!({"spool": {"messages": 0, "bytes": 0, "closing": true}}));
    world.reconcile().await.unwrap();
    assert_eq!(world.bridge_configuration()["spool"], json!(null));
}

#[tokio::test]
async fn a_number_of_sessions_that_was_noted_meanwhile_is_taken_back() {
    let world = World::at_rest(&shared(2)).await;
    world.edit(|spec| {
        spec["mqtt"]["session"] = json!("Single");
        spec["bridge"] = json!({"replicas": 1});
    });
    world.reconcile().await.unwrap();
    // The status is lost, but for what is written anyway.
    world.api.change("iotpipelines/line", |pipeline| pipeline["status"]["bridge"]["sessions"] = json!(null));
    world.report_of_bridge(1, ended());
    world.reconcile().await.unwrap();
    assert_eq!((staff(&world).0, &world.status()["bridge"]["sessions"]), (json!(1), &json!(null)));
}

#[tokio::test]
async fn one_bridge_becomes_several_and_one_again() {
    let world = World::at_rest(PIPELINE).await;
    assert_eq!(world.status()["bridge"]["sessions"], json!(null));
    let own = json!("plants/+/telemetry");
    let group = json!("$share/test-plant-7-line/plants/+/telemetry");
    world.edit(|spec| {
        spec["mqtt"]["session"] = json!("Shared");
        spec["bridge"] = json!({"replicas": 2});
    });
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world).0, json!(1), "nobody joins while the first one has all messages");
    let config = world.bridge_configuration();
    assert_eq!((&config["subscriptions"][0]["filter"], &config["unsubscribe"]), (&group, &json!([own])));
    settle(&world).await;
    assert_eq!(staff(&world).0, json!(2));
    settle(&world).await;
    assert_eq!(world.condition("Ready"), "True AsSpecified");

    world.edit(|spec| {
        spec["mqtt"]["session"] = json!("Single");
        spec["bridge"] = json!({"replicas": 1});
    });
    world.reconcile().await.unwrap();
    assert_eq!(staff(&world), (json!(2), json!(1), json!(1)));
    world.report_of_bridge(1, ended());
    world.reconcile().await.unwrap();
    let config = world.bridge_configuration();
    assert_eq!((&config["subscriptions"][0]["filter"], &config["unsubscribe"]), (&own, &json!([group])));
    assert_eq!((staff(&world).0, &config["shared"]), (json!(1), &json!(null)));
    assert_eq!(world.status()["bridge"]["sessions"], json!(null));
}

#[tokio::test]
async fn each_session_is_ended_before_a_pipeline_goes() {
    let world = World::at_rest(&shared(3)).await;
    scale(&world, 2);
    world.reconcile().await.unwrap();
    world.delete();
    world.reconcile().await.unwrap();
    assert_eq!(world.bridge_configuration()["retire"], true);
    assert_eq!(staff(&world).0, json!(3));
    let message = world.message("Ready");
    assert!(
        message
            .contains("MQTT sessions test-plant-7-line, test-plant-7-line_1 to test-plant-7-line_2 at mqtt:"),
        "{message}"
    );
    for ordinal in 0..3 {
        assert_ne!(world.api.get("iotpipelines/line"), json!(null), "{ordinal} have ended");
        world.report_of_bridge(ordinal, ended());
        world.reconcile().await.unwrap();
    }
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
    assert!(world.api.told().iter().any(|note| note.contains("36 messages were passed on")));
}

#[tokio::test]
async fn several_bridges_need_to_share() {
    let world = World::with(&format!("{PIPELINE}  bridge: {{replicas: 2}}\n"));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "False InvalidSpec");
    let message = world.message("Ready");
    assert!(message.contains("set mqtt.session to Shared"), "{message}");
}
