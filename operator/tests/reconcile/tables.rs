//! What becomes of changes of the table.

use serde_json::json;

use crate::world::{DEPLOYMENT, PIPELINE, World};

#[tokio::test]
async fn a_natural_key_that_rows_contradict_is_refused_and_not_tried_at_every_look() {
    let world = World::at_rest(&PIPELINE.replace("type: text}", "type: text, nullable: false}")).await;
    let configuration = || world.api.get(DEPLOYMENT)["spec"]["template"]["spec"]["volumes"].clone();
    let before = configuration();
    world.databases.set_repeats(true);
    world.edit(|spec| spec["timescale"]["uniqueBy"] = json!(["device", "time"]));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "False TableChangeRefused");
    let message = world.message("TableReady");
    assert!(message.contains("has rows with the same device, time"), "{message}");
    assert!(world.log().contains(&"database: index line_device_time_key made".to_owned()));
    assert_eq!(configuration(), before, "processors go on without the key");

    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "False TableChangeRefused");
    assert_eq!(world.log(), Vec::<String>::new());

    // A restart of the operator, or an edit, has it look again.
    world.databases.set_repeats(false);
    world.forget();
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
    assert_ne!(configuration(), before);
}

#[tokio::test]
async fn an_index_that_takes_long_stops_nothing_and_is_told_when_it_is_there() {
    let world = World::at_rest(PIPELINE).await;
    let barrier = world.databases.hold_indexes();
    world.edit(|spec| {
        spec["timescale"]["indexes"] = json!([{"columns": ["device"]}]);
        spec["processing"] = json!({"program": ".device = \"x\""});
    });
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(log.contains(&"apply deployments/line-processor".to_owned()), "{log:?}");
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True IndexBuilding");
    assert_eq!(world.condition("Ready"), "True AsSpecified");
    let planned = &world.status()["plan"][0];
    assert_eq!([&planned["to"], &planned["class"]], ["line_device_idx", "Disruptive"]);
    assert!(!world.log().iter().any(|entry| entry.contains("IndexBuilding")), "no trouble");
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0], "it is begun once");

    barrier.notify_one();
    world.reconcile().await.unwrap();
    let log = world.log();
    assert_eq!(log[..2], ["database: index line_device_idx made", "create events: Changed"], "{log:?}");
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
    assert_eq!(world.status()["plan"], json!(null));
}

#[tokio::test]
async fn an_index_that_waits_for_a_lock_stops_nothing_and_is_no_failure() {
    let world = World::at_rest(PIPELINE).await;
    world.databases.set_locked(true);
    world.edit(|spec| {
        spec["timescale"]["indexes"] = json!([{"columns": ["device"]}]);
        spec["processing"] = json!({"program": ".device = \"x\""});
    });
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(log.contains(&"apply deployments/line-processor".to_owned()), "{log:?}");
    assert_eq!(world.condition("TableReady"), "True IndexBuilding");
    // Nor does it queue for the lock again and again, with writers behind it.
    world.databases.set_locked(false);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True IndexBuilding");
    // Whoever edits the spec wants to see at once.
    world.edit(|spec| spec["processing"] = json!({"program": ".device = \"y\""}));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
}

#[tokio::test]
async fn an_index_that_is_there_between_two_looks_is_told_too() {
    let world = World::at_rest(PIPELINE).await;
    let barrier = world.databases.hold_indexes();
    world.edit(|spec| spec["timescale"]["indexes"] = json!([{"columns": ["device"]}]));
    world.reconcile().await.unwrap();
    barrier.notify_one();
    while !world.log().contains(&"database: index line_device_idx made".to_owned()) {
        tokio::task::yield_now().await;
    }
    world.reconcile().await.unwrap();
    assert_eq!(world.log()[0], "create events: Changed");
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
}

#[tokio::test]
async fn processors_are_told_of_a_natural_key_once_its_index_is_there() {
    let world = World::at_rest(&PIPELINE.replace("type: text}", "type: text, nullable: false}")).await;
    let configuration = || world.api.get(DEPLOYMENT)["spec"]["template"]["spec"]["volumes"].clone();
    let before = configuration();
    let barrier = world.databases.hold_indexes();
    world.edit(|spec| spec["timescale"]["uniqueBy"] = json!(["device", "time"]));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "False IndexBuilding");
    assert_eq!(configuration(), before);
    barrier.notify_one();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
    assert_ne!(configuration(), before);
}

#[tokio::test]
async fn a_columnstore_that_the_edition_does_not_have_is_told_once_and_stops_nothing() {
    let world = World::at_rest(PIPELINE).await;
    world.edit(|spec| {
        spec["timescale"]["columnstore"] = json!({"after": "7d", "segmentBy": ["device"]});
        spec["processing"] = json!({"program": ".device = \"x\""});
    });
    world.reconcile().await.unwrap();
    let log = world.log();
    assert!(log.contains(&"apply deployments/line-processor".to_owned()), "{log:?}");
    let told = |log: &[String]| log.iter().filter(|entry| entry.contains("ColumnstoreUnsupported")).count();
    assert_eq!(told(&log), 1, "{log:?}");
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True ColumnstoreUnsupported");
    let message = world.message("TableReady");
    assert!(message.contains("2.19.3 in database iot is of the Apache-2 edition"), "{message}");
    assert_eq!(world.condition("Ready"), "True AsSpecified");
    assert_eq!(world.status()["appliedGeneration"], world.status()["observedGeneration"]);
    world.log();
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);

    world.edit(|spec| drop(spec["timescale"].as_object_mut().unwrap().remove("columnstore")));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
}

#[tokio::test]
async fn chunks_that_do_not_suit_the_server_are_told_once_and_measured_rarely() {
    let world = World::at_rest(PIPELINE).await;
    let measured = world.databases.set_chunk_bytes(9 << 30);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
    assert_eq!(world.databases.set_chunk_bytes(9 << 30), measured, "not at every look");

    world.forget();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True ChunkIntervalAdvised");
    assert_eq!(world.condition("Ready"), "True AsSpecified");
    let message = world.message("TableReady");
    assert!(message.contains("about 9 GiB with their indexes at timescale.chunkInterval 1 day"), "{message}");
    let told = world.log().iter().filter(|entry| entry.contains("ChunkIntervalAdvised")).count();
    assert_eq!(told, 1);
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);

    // An edit may have followed it.
    world.databases.set_chunk_bytes(1 << 30);
    world.edit(|spec| spec["timescale"]["chunkInterval"] = json!("8h"));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
}
