//! Reconciliation against an API server, a Kafka and a database that live in this process: what is written, in
//! which order, and above all what is not.

#[cfg(test)]
mod api_server;
#[cfg(test)]
mod bridge;
#[cfg(test)]
mod bridges;
#[cfg(test)]
mod deletion;
#[cfg(test)]
mod observing;
#[cfg(test)]
mod processor;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod rollouts;
#[cfg(test)]
mod rollups;
#[cfg(test)]
mod scaling;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod topics;
#[cfg(test)]
mod world;

use std::{env, fs, os::unix::fs::symlink, process};

use kube::runtime::controller::Action;
use serde_json::json;

use crate::world::{BRIDGE, COMPILER, DEPLOYMENT, PIPELINE, STATEFULSET, World};

#[tokio::test]
async fn a_new_pipeline_gets_its_stores_before_its_workers() {
    let world = World::with(PIPELINE);
    world.reconcile().await.unwrap();
    assert_eq!(
        world.log(),
        [
            "merge iotpipelines/line",
            "database: plant_7.line made",
            "database: topic plant-7.line claimed",
            "kafka: plant-7.line created",
            "apply configmaps/line-bridge-*",
            "apply services/line-bridge",
            "apply networkpolicies/line-bridge",
            "apply poddisruptionbudgets/line-bridge",
            "apply statefulsets/line-bridge",
            "apply configmaps/line-processor-*",
            "apply services/line-processor",
            "apply networkpolicies/line-processor",
            "apply poddisruptionbudgets/line-processor",
            "apply deployments/line-processor",
            // The schema, the table, its dead letters, the topic.
            "create events: Changed",
            "create events: Changed",
            "create events: Changed",
            "create events: Changed",
            "apply iotpipelines/line/status",
        ]
    );
    assert_eq!(world.status()["appliedGeneration"], 1);
    assert_eq!(world.condition("Ready"), "False Progressing");
}

#[tokio::test]
async fn nothing_is_written_at_rest() {
    let world = World::at_rest(PIPELINE).await;
    assert_eq!(world.condition("Ready"), "True AsSpecified");
    for _ in 0..3 {
        world.reconcile().await.unwrap();
    }
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn what_is_at_rest_waits_for_others_and_an_edit_does_not() {
    let world = World::at_rest(PIPELINE).await;
    world.api.remove(DEPLOYMENT);
    world.let_others_come_first();
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);

    world.edit(|spec| spec["processor"] = json!({"replicas": 2}));
    world.reconcile().await.unwrap();
    assert_eq!(world.api.get(DEPLOYMENT)["spec"]["replicas"], 2);
}

#[tokio::test]
async fn drift_is_repaired_even_while_kafka_and_the_database_are_down() {
    let world = World::at_rest(PIPELINE).await;
    world.kafka.set_down(true);
    world.databases.set_down(true);
    world.api.change(DEPLOYMENT, |deployment| deployment["spec"]["replicas"] = json!(7));
    world.api.change(STATEFULSET, |statefulset| {
        statefulset["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil:1");
    });
    world.api.remove("services/line-bridge");
    world.api.told();
    world.reconcile().await.unwrap_err();
    let log = world.log();
    let told = world.api.told();
    for repaired in [
        "Service line-bridge created",
        "Deployment line-processor: spec.replicas changed from 7 to 1",
        "StatefulSet line-bridge: spec.template.spec.containers[worker].image changed from evil:1 to ",
    ] {
        assert!(told.iter().any(|note| note.starts_with(repaired)), "{repaired} in {told:?}");
    }
    for repaired in
        ["apply services/line-bridge", "apply statefulsets/line-bridge", "apply deployments/line-processor"]
    {
        assert!(log.iter().any(|entry| entry == repaired), "{repaired} in {log:?}");
    }
    assert_eq!(world.api.get(DEPLOYMENT)["spec"]["replicas"], 1);
}

#[tokio::test]
async fn what_an_edit_changes_is_not_told_as_somebody_elses_work() {
    let world = World::at_rest(PIPELINE).await;
    world.api.told();
    world.edit(|spec| {
        spec["processor"] = json!({"replicas": 3});
        spec["processing"] = json!({"program": ".device = \"x\""});
    });
    world.reconcile().await.unwrap();
    assert!(world.log().contains(&"apply deployments/line-processor".to_owned()));
    let told = world.api.told();
    assert!(!told.iter().any(|note| note.contains("line-processor")), "{told:?}");

    // What somebody deletes is.
    world.settle_workers();
    world.reconcile().await.unwrap();
    world.api.remove(STATEFULSET);
    world.api.told();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.told().iter().filter(|note| *note == "StatefulSet line-bridge created").count(), 1);
}

#[tokio::test]
async fn running_workers_stay_while_stores_are_down_and_the_conditions_say_so() {
    let world = World::at_rest(PIPELINE).await;
    world.kafka.set_down(true);
    world.databases.set_down(true);
    let error = world.reconcile().await.unwrap_err();
    assert_eq!(error.category(), "database");
    assert_eq!(world.condition("TableReady"), "False DatabaseUnreachable");
    assert_eq!(world.condition("TopicReady"), "False KafkaUnreachable");
    assert_eq!(world.condition("BridgeReady"), "True AsSpecified");
    assert_eq!(world.condition("Ready"), "False KafkaUnreachable");
    assert_eq!(world.status()["table"]["edition"], "Apache2", "what is not known now stays as it was");
    // Said once; tried again, it is no news.
    world.log();
    world.reconcile().await.unwrap_err();
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn the_first_workers_wait_for_the_stores() {
    let world = World::with(PIPELINE);
    world.databases.set_down(true);
    world.reconcile().await.unwrap_err();
    assert_eq!(world.api.get(STATEFULSET), json!(null));
    assert_eq!(world.api.get(DEPLOYMENT), json!(null));
    assert_eq!(world.condition("BridgeReady"), "False Pending");
    assert_eq!(world.status()["appliedGeneration"], json!(null));
    world.databases.set_down(false);
    world.reconcile().await.unwrap();
    assert_ne!(world.api.get(STATEFULSET), json!(null));
}

#[tokio::test]
async fn a_changed_configuration_waits_for_the_table_that_it_needs() {
    let world = World::at_rest(PIPELINE).await;
    world.databases.set_down(true);
    world.edit(|spec| spec["processing"] = json!({"program": ".device = \"x\""}));
    world.reconcile().await.unwrap_err();
    assert!(!world.log().iter().any(|entry| entry.starts_with("apply deployments")));
    assert_eq!(world.status()["observedGeneration"], 2);
    assert_eq!(world.status()["appliedGeneration"], 1);
    world.databases.set_down(false);
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(log.contains(&"apply deployments/line-processor".to_owned()), "{log:?}");
    assert!(
        !log.contains(&"apply statefulsets/line-bridge".to_owned()),
        "the program is not the bridge's: {log:?}"
    );
    assert_eq!(world.status()["appliedGeneration"], 2);
}

#[tokio::test]
async fn an_old_configuration_goes_after_the_roll_that_replaced_it() {
    let world = World::at_rest(PIPELINE).await;
    world.edit(|spec| spec["processing"] = json!({"program": ".device = \"x\""}));
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    assert!(!world.log().iter().any(|entry| entry.starts_with("delete")), "pods may still need it");
    world.settle_workers();
    world.reconcile().await.unwrap();
    let deleted: Vec<_> = world.log().into_iter().filter(|entry| entry.starts_with("delete")).collect();
    assert_eq!(deleted, ["delete configmaps/line-processor-*"]);
}

#[tokio::test]
async fn a_program_is_compiled_once() {
    let compiler = env::temp_dir().join(format!("compiler-{}", process::id()));
    symlink(COMPILER, &compiler).unwrap();
    let world = World::with_compiler(PIPELINE, &compiler);
    world.edit(|spec| spec["processing"] = json!({"program": ".device = \"x\""}));
    world.reconcile().await.unwrap();
    fs::remove_file(&compiler).unwrap();
    world.edit(|spec| spec["processor"] = json!({"replicas": 3}));
    world.reconcile().await.unwrap();
    let judged = world.api.get("iotpipelines/line")["spec"].clone();
    for (field, value) in [("processing", json!({"program": ".device = \"y\""})), ("mqtt", json!(null))] {
        world.edit(|spec| {
            *spec = judged.clone();
            spec[field] = value;
        });
        assert_eq!(world.reconcile().await.unwrap_err().category(), "judge", "{field}");
    }
}

#[tokio::test]
async fn an_invalid_edit_leaves_everything_as_it_is() {
    let world = World::at_rest(PIPELINE).await;
    world.edit(|spec| spec["processing"] = json!({"program": ".x = no_such_function()"}));
    let action = world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["create events: ProgramInvalid", "apply iotpipelines/line/status"]);
    assert_eq!(world.condition("Ready"), "False ProgramInvalid");
    assert_eq!(world.condition("BridgeReady"), "True AsSpecified");
    assert_eq!(world.status()["observedGeneration"], 2);
    assert_eq!(world.status()["appliedGeneration"], 1);
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);

    assert_ne!(action, Action::await_change(), "what somebody writes into the status sends no event");
    world.api.change("iotpipelines/line", |pipeline| pipeline["status"]["conditions"] = json!([]));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "False ProgramInvalid");
}

#[tokio::test]
async fn a_missing_secret_is_looked_for_again() {
    let world = World::at_rest(PIPELINE).await;
    world.api.remove("secrets/tsdb-app");
    let action = world.reconcile().await.unwrap();
    assert_ne!(action, Action::await_change());
    assert_eq!(world.condition("Ready"), "False SecretMissing");
}

#[tokio::test]
async fn a_refused_change_of_the_topic_does_not_hold_the_rest() {
    let world = World::at_rest(PIPELINE).await;
    world.edit(|spec| {
        spec["kafka"]["topic"]["partitions"] = json!(1);
        spec["processor"] = json!({"replicas": 2});
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TopicReady"), "False TopicChangeRefused");
    assert_eq!(world.status()["topic"]["partitions"], 3);
    assert_eq!(world.api.get(DEPLOYMENT)["spec"]["replicas"], 2);
}

#[tokio::test]
async fn a_refused_change_of_the_table_leaves_the_processor_on_what_fits() {
    let world = World::at_rest(PIPELINE).await;
    let before = world.api.get(DEPLOYMENT);
    world.edit(|spec| spec["timescale"]["columns"][1]["type"] = json!("bigint"));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "False TableChangeRefused");
    assert_eq!(world.api.get(DEPLOYMENT), before);
    assert_eq!(world.status()["appliedGeneration"], 1);
}

#[tokio::test]
async fn what_belongs_to_somebody_else_is_not_taken_over() {
    let world = World::with(PIPELINE);
    world.api.put(
        STATEFULSET,
        json!({"metadata": {"name": "line-bridge", "uid": "theirs"}, "spec": {"replicas": 3}}),
    );
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("BridgeReady"), "False ResourceConflict");
    assert_eq!(world.api.get(STATEFULSET)["spec"]["replicas"], 3);
    assert_ne!(world.api.get(DEPLOYMENT), json!(null), "the other worker does not mind");
}

#[tokio::test]
async fn suspending_scales_to_nothing_and_says_so() {
    let world = World::at_rest(PIPELINE).await;
    world.edit(|spec| spec["suspend"] = json!("Processor"));
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.get(DEPLOYMENT)["spec"]["replicas"], 0);
    assert_eq!(world.api.get(STATEFULSET)["spec"]["replicas"], 1);
    assert_eq!(world.condition("ProcessorReady"), "False Suspended");
    assert_eq!(world.condition("Ready"), "False Suspended");
}

#[tokio::test]
async fn what_a_pod_reports_is_in_the_condition() {
    let world = World::at_rest(PIPELINE).await;
    world.api.change(STATEFULSET, |statefulset| statefulset["status"]["readyReplicas"] = json!(0));
    world.api.put(
        "pods/line-bridge-0",
        json!({
            "metadata": {"name": "line-bridge-0", "labels": BRIDGE.labels()},
            "status": {"phase": "Pending", "containerStatuses": [{
                "name": "worker", "image": "worker:1", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff"}},
            }]},
        }),
    );
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("BridgeReady"), "False WorkersNotReady");
    assert!(
        world.message("Ready").contains("pod line-bridge-0: ImagePullBackOff"),
        "{}",
        world.message("Ready")
    );
}

#[tokio::test]
async fn a_bridge_whose_node_does_not_answer_makes_room_for_another() {
    let world = World::at_rest(PIPELINE).await;
    let put = |owner: &str, due_seconds_ago: i64, reason: &str| {
        let due = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(due_seconds_ago);
        world.api.put(
            "pods/line-bridge-0",
            json!({
                "metadata": {
                    "name": "line-bridge-0", "namespace": "plant-7", "uid": "p", "labels": BRIDGE.labels(),
                    "deletionTimestamp": due.to_string(), "deletionGracePeriodSeconds": 45,
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "x", "uid": owner}],
                },
                "spec": {"nodeName": "node-1", "containers": []},
                "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]},
            }),
        );
    };
    let (ours, given_up, evicted) =
        ("uid-of-statefulsets/line-bridge", "DeletionByTaintManager", "EvictionByEvictionAPI");
    let is_removed = || world.log().contains(&"delete pods/line-bridge-0".to_owned());
    for (owner, due_seconds_ago, reason) in
        [(ours, 5, evicted), (ours, -40, given_up), ("uid-of-somebody", 60, given_up)]
    {
        put(owner, due_seconds_ago, reason);
        world.reconcile().await.unwrap();
        assert!(!is_removed(), "in time, or not ours: {owner}, {due_seconds_ago}, {reason}");
    }
    for (due_seconds_ago, reason) in [(60, evicted), (-30, given_up)] {
        put(ours, due_seconds_ago, reason);
        world.reconcile().await.unwrap();
        assert!(is_removed(), "{due_seconds_ago}, {reason}");
    }
}

#[tokio::test]
async fn deletion_stops_the_workers_then_deletes_topic_and_table() {
    let world = World::deleted_after_rest().await;
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(
        world.log(),
        [
            "create events: SessionEnded",
            "delete statefulsets/line-bridge",
            "delete deployments/line-processor",
            "apply iotpipelines/line/status",
        ]
    );
    assert_eq!(world.condition("Ready"), "False CleanupPending");
    world.api.remove("pods/line-bridge-0");
    world.reconcile().await.unwrap();
    assert_eq!(
        world.log(),
        [
            "kafka: plant-7.line deleted",
            "database: topic plant-7.line released",
            "database: plant_7.line_dead_letters deleted",
            "database: plant_7.line deleted",
            "create events: Changed",
            "create events: Changed",
            "create events: Changed",
            "merge iotpipelines/line",
        ]
    );
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
}

#[tokio::test]
async fn a_deletion_that_cannot_succeed_is_let_go_by_annotation() {
    let world = World::deleted_after_rest().await;
    world.databases.set_down(true);
    world.reconcile().await.unwrap();
    world.api.remove("pods/line-bridge-0");
    let error = world.reconcile().await.unwrap_err();
    assert_eq!(error.category(), "clean_up");
    world.log();
    world.api.change("iotpipelines/line", |pipeline| {
        pipeline["metadata"]["annotations"] = json!({"iotpipeline.dev/skip-cleanup": "true"});
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["create events: CleanupAbandoned", "merge iotpipelines/line"]);
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
}

#[tokio::test]
async fn a_topic_that_another_pipeline_made_survives() {
    let world = World::deleted_after_rest().await;
    world.databases.give_topic_to("other");
    world.reconcile().await.unwrap();
    world.api.remove("pods/line-bridge-0");
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(!log.iter().any(|entry| entry.starts_with("kafka")), "{log:?}");
    assert!(log.contains(&"create events: TopicNotOwned".to_owned()), "{log:?}");
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_reported_and_stops_nothing() {
    let world = World::with(PIPELINE);
    world.edit(|spec| spec["mqtt"] = json!("not a block"));
    let error = world.reconcile().await.unwrap_err();
    assert_eq!(error.category(), "read_pipeline");
    assert_eq!(world.log(), ["create events: InvalidSpec"]);
    // What is said again is counted, also after a restart.
    for count in [2, 3] {
        world.forget();
        world.reconcile().await.unwrap_err();
        assert_eq!(world.log(), [format!("count events: InvalidSpec {count}")]);
    }
}

#[tokio::test]
async fn lag_is_reported_and_read_once_a_minute() {
    let world = World::at_rest(PIPELINE).await;
    assert_eq!(world.status()["lag"]["messages"], 1200, "two digits of 1,234");
    let reads = world.kafka.watermark_reads();
    world.reconcile().await.unwrap();
    assert_eq!(world.kafka.watermark_reads(), reads);
}
