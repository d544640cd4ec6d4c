//! Looking before anything changes, and what a person approves.

use serde_json::{Value, json};

use crate::world::{DEPLOYMENT, PIPELINE, STATEFULSET, World};

const OBSERVE: &str = "  mode: Observe\n";

fn observing() -> String {
    format!("{PIPELINE}{OBSERVE}")
}

/// The plan in the status, a line each.
fn planned(world: &World) -> Vec<String> {
    let text = |step: &Value, field: &str| step[field].as_str().unwrap_or("-").to_owned();
    let status = world.status();
    let steps = status["plan"].as_array().map(Vec::as_slice).unwrap_or_default();
    steps
        .iter()
        .map(|step| ["class", "object", "field", "from", "to"].map(|field| text(step, field)).join(" | "))
        .collect()
}

fn mode(world: &World, mode: &str) {
    world.edit(|spec| spec["mode"] = json!(mode));
}

fn annotate(world: &World, value: &str) {
    world.api.change("iotpipelines/line", |pipeline| {
        pipeline["metadata"]["annotations"] = json!({"iotpipeline.dev/approve": value});
    });
}

/// Without the hash in the names of ConfigMaps.
fn without_hash(step: &str) -> String {
    let words = step.split(' ').map(|word| match word.rsplit_once('-') {
        Some((stem, hash)) if hash.len() > 6 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("{stem}-*")
        }
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_would_be_made_is_listed_and_nothing_is_made() {
    let world = World::with(&observing());
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["apply iotpipelines/line/status"]);
    let plan: Vec<String> = planned(&world).iter().map(|step| without_hash(step)).collect();
    assert_eq!(
        plan,
        [
            "Safe | schema plant_7 | - | - | plant_7",
            "Safe | table plant_7.line | - | - | line",
            "Safe | table plant_7.line_dead_letters | - | - | line_dead_letters",
            "Safe | topic plant-7.line | - | - | plant-7.line",
            "Safe | ConfigMap line-bridge-* | - | - | line-bridge-*",
            "Safe | Service line-bridge | - | - | line-bridge",
            "Safe | NetworkPolicy line-bridge | - | - | line-bridge",
            "Safe | PodDisruptionBudget line-bridge | - | - | line-bridge",
            "Safe | StatefulSet line-bridge | - | - | line-bridge",
            "Safe | ConfigMap line-processor-* | - | - | line-processor-*",
            "Safe | Service line-processor | - | - | line-processor",
            "Safe | NetworkPolicy line-processor | - | - | line-processor",
            "Safe | PodDisruptionBudget line-processor | - | - | line-processor",
            "Safe | Deployment line-processor | - | - | line-processor",
        ]
    );
    for condition in ["Ready", "TopicReady", "TableReady", "BridgeReady", "ProcessorReady"] {
        assert_eq!(world.condition(condition), "False Observing");
    }
    assert!(world.message("TableReady").starts_with("3 changes wait"), "{}", world.message("TableReady"));
    assert_eq!(world.status()["appliedGeneration"], json!(null));
    assert_eq!(world.api.get("iotpipelines/line")["metadata"]["finalizers"], json!(null));
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0], "nothing new to say");

    mode(&world, "Enforce");
    world.reconcile().await.unwrap();
    let log = world.log();
    for made in [
        "database: plant_7.line made",
        "kafka: plant-7.line created",
        "apply statefulsets/line-bridge",
        "apply deployments/line-processor",
    ] {
        assert!(log.contains(&made.to_owned()), "{made} in {log:?}");
    }
    assert_eq!(planned(&world), [""; 0]);
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), "True AsSpecified");
}

#[tokio::test]
async fn drift_and_edits_are_listed_and_stay() {
    let world = World::at_rest(PIPELINE).await;
    mode(&world, "Observe");
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["apply iotpipelines/line/status"]);
    assert_eq!(planned(&world), [""; 0]);
    assert_eq!(world.condition("Ready"), "True AsSpecified", "as the spec says");
    assert_eq!(world.status()["appliedGeneration"], 1);

    world.api.change(DEPLOYMENT, |deployment| deployment["spec"]["replicas"] = json!(7));
    world.api.remove("services/line-bridge");
    world.edit(|spec| {
        spec["kafka"]["topic"]["partitions"] = json!(6);
        spec["timescale"]["chunkInterval"] = json!("12h");
        spec["mqtt"]["maxInFlight"] = json!(500);
    });
    world.log();
    for expected in [&["create events: NotReady", "apply iotpipelines/line/status"][..], &[]] {
        world.reconcile().await.unwrap();
        assert_eq!(world.log(), expected);
    }
    let plan: Vec<String> = planned(&world).iter().map(|step| without_hash(step)).collect();
    assert_eq!(
        plan,
        [
            "Safe | table plant_7.line | chunk interval | 1 day | 12 hours",
            "Disruptive | topic plant-7.line | partitions | 3 | 6",
            "Safe | ConfigMap line-bridge-* | - | - | line-bridge-*",
            "Safe | Service line-bridge | - | - | line-bridge",
            "Disruptive | StatefulSet line-bridge | spec.template.spec.volumes[config].configMap.name | line-bridge-* | \
             line-bridge-*",
            "Disruptive | Deployment line-processor | spec.replicas | 7 | 1",
        ]
    );
    assert_eq!(world.status()["topic"]["partitions"], 3);
    assert_eq!(world.status()["appliedGeneration"], 1);
    assert_eq!(world.api.get(DEPLOYMENT)["spec"]["replicas"], 7);
    assert_eq!(world.condition("TopicReady"), "False Observing");
}

#[tokio::test]
async fn what_is_wrong_is_told_and_what_is_not_known_is_not_guessed() {
    let world = World::with(&observing());
    world.kafka.make_topic(&[]);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TopicReady"), "False TopicNotOwned");
    assert_eq!(world.condition("TableReady"), "False Observing");
    assert_eq!(world.condition("Ready"), "False TopicNotOwned");
    assert!(!planned(&world).iter().any(|step| step.contains("StatefulSet")), "the topic is not ours");
    let before = planned(&world);
    world.databases.set_down(true);
    world.reconcile().await.unwrap_err();
    assert_eq!(world.condition("TableReady"), "False DatabaseUnreachable");
    assert_eq!(planned(&world), before);
    assert_eq!(world.api.get(STATEFULSET), json!(null));
}

#[tokio::test]
async fn a_topic_that_would_not_grow_either_way_says_so() {
    let world = World::at_rest(PIPELINE).await;
    world.edit(|spec| {
        spec["kafka"]["topic"]["partitions"] = json!(6);
        spec["mode"] = json!("Observe");
        spec.as_object_mut().unwrap().remove("mqtt");
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TopicReady"), "False TopicChangeRefused");
    assert!(planned(&world).contains(&"Disruptive | topic plant-7.line | partitions | 3 | 6".to_owned()));
}

#[tokio::test]
async fn a_topic_is_neither_taken_from_others_nor_left_to_them() {
    let world = World::at_rest(PIPELINE).await;
    mode(&world, "Observe");
    world.reconcile().await.unwrap();
    assert!(world.is_topic_managed(), "as before");
    world.forget();
    world.reconcile().await.unwrap();
    assert!(!world.is_topic_managed(), "an operator that has only seen it observe knows no manager");
}

#[tokio::test]
async fn a_pipeline_that_only_observes_goes_and_leaves_everything() {
    let policy = "  deletionPolicy: {topic: Delete, table: Delete}\n";
    let world = World::at_rest(&format!("{PIPELINE}{policy}")).await;
    world.report(json!({"subscriptions": [{"filter": "plants/+/telemetry", "qos": 1, "grantedQos": 1}]}));
    mode(&world, "Observe");
    world.reconcile().await.unwrap();
    world.delete();
    world.log();
    world.reconcile().await.unwrap();
    assert_eq!(
        world.log(),
        ["create events: SessionLeft", "create events: Retained", "merge iotpipelines/line"]
    );
    assert_eq!(world.api.get("iotpipelines/line"), json!(null));
}

/// A pipeline at rest whose retention of 90 days is edited to 30.
async fn with_a_shorter_retention() -> World {
    let world = World::with(PIPELINE);
    world.edit(|spec| spec["timescale"]["retention"] = json!({"dropAfter": "90d"}));
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    retain(&world, "30d");
    world.reconcile().await.unwrap();
    world
}

fn retain(world: &World, drop_after: &str) {
    world.edit(|spec| spec["timescale"]["retention"] = json!({"dropAfter": drop_after}));
}

fn hash(world: &World) -> String {
    world.status()["plan"][0]["approval"].as_str().unwrap().to_owned()
}

const HELD: &str = "Destructive | table plant_7.line | timescale.retention.dropAfter | 90 days | 30 days";

#[tokio::test]
async fn what_waits_for_approval_is_listed_with_its_hash_until_it_is_approved() {
    let world = with_a_shorter_retention().await;
    assert_eq!(planned(&world), [HELD]);
    let hash = hash(&world);
    assert!(world.message("TableReady").ends_with(&format!("iotpipeline.dev/approve={hash}")));
    annotate(&world, &hash);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True AsSpecified");
    assert_eq!((planned(&world), world.status()["usedApprovals"].clone()), (vec![], json!([hash])));
}

#[tokio::test]
async fn an_approval_is_of_the_generation_that_was_read() {
    let world = with_a_shorter_retention().await;
    annotate(&world, &hash(&world));
    world.edit(|spec| spec["processor"] = json!({"replicas": 2}));
    world.reconcile().await.unwrap();
    assert_eq!(planned(&world), [HELD]);
}

#[tokio::test]
async fn a_used_approval_lets_nothing_through_again() {
    let world = with_a_shorter_retention().await;
    let first = hash(&world);
    annotate(&world, &first);
    world.reconcile().await.unwrap();
    assert_eq!(planned(&world), [""; 0]);

    // Undone by hand: the very same change, in the same generation.
    world.databases.set_retention(90);
    world.reconcile().await.unwrap();
    assert_eq!(planned(&world), [HELD]);
    assert_eq!(world.condition("TableReady"), "False ApprovalRequired");
    let second = hash(&world);
    assert_ne!(second, first);
    annotate(&world, &second);
    world.reconcile().await.unwrap();
    assert_eq!((planned(&world), world.status()["usedApprovals"].clone()), (vec![], json!([first, second])));

    // By an edit and back.
    for (drop_after, plan) in [("90d", vec![]), ("30d", vec![HELD.to_owned()])] {
        retain(&world, drop_after);
        world.reconcile().await.unwrap();
        assert_eq!(planned(&world), plan, "{drop_after}");
    }
}

#[tokio::test]
async fn an_approval_is_not_used_up_while_the_table_cannot_be_looked_at() {
    let world = with_a_shorter_retention().await;
    let hash = hash(&world);
    annotate(&world, &hash);
    world.databases.set_down(true);
    world.reconcile().await.unwrap_err();
    assert_eq!(planned(&world), [HELD], "what is not known stays as it was");
    assert_eq!(world.status()["usedApprovals"], json!(null));
    world.databases.set_down(false);
    mode(&world, "Observe");
    world.reconcile().await.unwrap();
    assert_eq!(planned(&world), [HELD]);
    assert_eq!(world.status()["plan"][0]["approval"], json!(null), "nothing is to be approved now");
    assert_eq!(world.status()["usedApprovals"], json!(null));
}
