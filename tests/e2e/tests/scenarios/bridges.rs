//! Several bridges on one shared subscription: they come and leave under load, and the broker keeps nothing of those that
//! left.

use std::time::{Duration, Instant};

use crds::{
    IoTPipeline,
    names::{bridge_client_id, default_client_id},
    worker::Component,
};
use e2e::{
    Result,
    fleet::{Ledger, Shares},
    manifest::set,
    mqtt,
    scenario::{PIPELINE, Scenario, scenario, scenario_alone},
};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use snafu::{OptionExt, Report, ResultExt, Whatever};

/// The cluster's name, as tests/e2e/install gives it to the chart.
const CLUSTER_NAME: &str = "local";

/// How often Mosquitto says how it is, and a little more.
const SAID_AGAIN: Duration = Duration::from_secs(12);

#[tokio::test]
async fn bridges_come_and_leave_under_load_and_the_broker_keeps_nothing_of_them() -> Report<Whatever> {
    scenario_alone("bridges", async |test: &Scenario| {
        tokio::time::sleep(SAID_AGAIN).await;
        let (dropped_before, away_before) = (dropped(test).await?, clients_away(test).await?);
        test.start(&shared(test, 1)?).await?;
        let fleet = test.fleet(200, 1_000.0, None, Shares::NONE);
        test.published(&fleet, 3_000).await?;

        let began = Instant::now();
        scale(test, 3).await?;
        test.wait_for("has three bridges", |pipeline| bridges(pipeline) == (3, Some(3))).await?;
        test.ready().await?;
        let came = began.elapsed();
        test.published(&fleet, fleet.progress().published() + 5_000).await?;
        for bridge in test.workers(Component::Bridge).await? {
            let pods = std::slice::from_ref(&bridge);
            let delivered =
                test.cluster.worker_counter(pods, "iotpipeline_bridge_messages_delivered_total").await?;
            assert!(delivered > 0, "{} has no share of the messages", bridge.name_any());
        }
        let stays = bridge(test, 0).await?.uid();

        let began = Instant::now();
        scale(test, 1).await?;
        test.wait_for("has one bridge", |pipeline| bridges(pipeline) == (1, Some(1))).await?;
        test.ready().await?;
        let left = began.elapsed();
        assert_eq!(bridge(test, 0).await?.uid(), stays, "the bridge that stays was not restarted");
        test.published(&fleet, fleet.progress().published() + 3_000).await?;

        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, true).await?;
        tokio::time::sleep(SAID_AGAIN).await;
        let dropped = dropped(test).await? - dropped_before;
        let orphans = clients_away(test).await?.saturating_sub(away_before);
        let repeated = repeated(test, &ledger).await?;
        eprintln!(
            "bridges: published={} lost=0 repeated={repeated} orphan_sessions={orphans} broker_dropped={dropped} \
             from_1_to_3_s={:.1} from_3_to_1_s={:.1}",
            ledger.entries.len(),
            came.as_secs_f64(),
            left.as_secs_f64()
        );
        assert_eq!((dropped, orphans), (0, 0), "messages dropped by the broker, and sessions that nobody has");
        expect_no_session(test, &[1, 2]).await
    })
    .await
}

#[tokio::test]
async fn a_session_whose_pod_was_deleted_by_force_is_passed_on_and_ended() -> Report<Whatever> {
    scenario("bridges-orphan", async |test: &Scenario| {
        test.start(&shared(test, 3)?).await?;
        let fleet = test.fleet(100, 500.0, None, Shares::NONE);
        test.published(&fleet, 2_000).await?;

        // All at once: the spec asks for one, the StatefulSet is scaled down by hand, and its pods get no time.
        scale(test, 1).await?;
        let statefulset = format!("{PIPELINE}-bridge");
        let by_hand = Patch::Merge(json!({"spec": {"replicas": 1}}));
        let scaled = test
            .cluster
            .api::<StatefulSet>(&test.namespace)
            .patch(&statefulset, &PatchParams::default(), &by_hand)
            .await;
        scaled.whatever_context("failed to scale the StatefulSet")?;
        for ordinal in [1, 2] {
            // It may be gone already.
            if let Ok(pod) = bridge(test, ordinal).await {
                test.cluster.remove_at_once(&pod).await.ok();
            }
        }
        test.wait_for("has one bridge", |pipeline| bridges(pipeline) == (1, Some(1))).await?;
        test.ready().await?;
        test.published(&fleet, fleet.progress().published() + 1_000).await?;

        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, true).await?;
        expect_no_session(test, &[1, 2]).await
    })
    .await
}

#[tokio::test]
async fn a_bridge_that_is_killed_goes_on_with_its_session() -> Report<Whatever> {
    scenario("bridges-killed", async |test: &Scenario| {
        test.start(&shared(test, 2)?).await?;
        let fleet = test.fleet(100, 500.0, None, Shares::NONE);
        test.published(&fleet, 1_000).await?;
        test.cluster.sigkill(&bridge(test, 1).await?, "iotpipeline-worker")?;
        test.published(&fleet, fleet.progress().published() + 1_000).await?;
        test.cluster.remove_at_once(&bridge(test, 0).await?).await?;
        test.published(&fleet, fleet.progress().published() + 1_000).await?;
        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, true).await
    })
    .await
}

#[tokio::test]
async fn one_bridge_becomes_several_and_one_again_under_load() -> Report<Whatever> {
    scenario("bridges-kinds", async |test: &Scenario| {
        let alone = test.manifest()?;
        test.start(&alone).await?;
        let fleet = test.fleet(100, 500.0, None, Shares::NONE);
        test.published(&fleet, 1_000).await?;

        test.apply(&shared(test, 2)?).await?;
        test.wait_for("has two bridges", |pipeline| bridges(pipeline) == (2, Some(2))).await?;
        test.ready().await?;
        test.published(&fleet, fleet.progress().published() + 2_000).await?;

        let alone =
            set(set(alone, "/spec/mqtt/session", json!("Single"))?, "/spec/bridge", json!({"replicas": 1}))?;
        test.apply(&alone).await?;
        test.wait_for("has one bridge, which shares nothing", |pipeline| bridges(pipeline) == (1, None))
            .await?;
        test.ready().await?;
        test.published(&fleet, fleet.progress().published() + 1_000).await?;

        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, true).await?;
        eprintln!("bridges-kinds: lost=0 repeated={}", repeated(test, &ledger).await?);
        expect_no_session(test, &[1]).await
    })
    .await
}

#[tokio::test]
async fn a_pipeline_that_goes_ends_all_sessions() -> Report<Whatever> {
    scenario("bridges-end", async |test: &Scenario| {
        test.start(&shared(test, 3)?).await?;
        let ledger = test.publish(50, 500.0, 1_000, Shares::NONE).await?;
        test.delete(PIPELINE).await?;
        let in_kafka = test.kafka.count(&test.topic()).await?;
        assert!(in_kafka >= ledger.entries.len() as u64, "{in_kafka} messages were passed on");
        expect_no_session(test, &[0, 1, 2]).await
    })
    .await
}

/// The pipeline with so many bridges that share.
fn shared(test: &Scenario, replicas: i32) -> Result<Value> {
    let manifest = set(test.manifest()?, "/spec/mqtt/session", json!("Shared"))?;
    set(manifest, "/spec/bridge", json!({"replicas": replicas}))
}

async fn scale(test: &Scenario, replicas: i32) -> Result<()> {
    test.patch(json!({"spec": {"bridge": {"replicas": replicas}}})).await.map(drop)
}

/// How many bridges there are, and how many sessions there may be.
fn bridges(pipeline: &IoTPipeline) -> (i32, Option<i32>) {
    let bridge = pipeline.status.as_ref().and_then(|status| status.bridge.as_ref());
    bridge.map_or((0, None), |bridge| (bridge.replicas, bridge.sessions))
}

async fn bridge(test: &Scenario, ordinal: u32) -> Result<k8s_openapi::api::core::v1::Pod> {
    let name = format!("{PIPELINE}-bridge-{ordinal}");
    let pods = test.workers(Component::Bridge).await?;
    pods.into_iter().find(|pod| pod.name_any() == name).whatever_context(format!("there is no pod {name}"))
}

/// How many records there are of messages that MQTT delivered again.
async fn repeated(test: &Scenario, ledger: &Ledger) -> Result<u64> {
    Ok(test.kafka.count(&test.topic()).await? - ledger.entries.len() as u64)
}

/// How many messages the broker has dropped because of its limits, since it started.
async fn dropped(test: &Scenario) -> Result<u64> {
    mqtt::system_value(&test.broker, "$SYS/broker/publish/messages/dropped").await
}

/// How many sessions the broker keeps of clients that are away.
async fn clients_away(test: &Scenario) -> Result<u64> {
    mqtt::system_value(&test.broker, "$SYS/broker/clients/disconnected").await
}

async fn expect_no_session(test: &Scenario, ordinals: &[u32]) -> Result<()> {
    let first = default_client_id(CLUSTER_NAME, &test.namespace, PIPELINE);
    for ordinal in ordinals {
        let client_id = bridge_client_id(&first, *ordinal);
        assert!(!mqtt::has_session(&test.broker, &client_id).await?, "the broker still keeps {client_id}");
    }
    Ok(())
}
