//! Several bridges on one shared subscription: they come and leave under load, and the broker keeps nothing of those that
//! left.

use e2e::{
    Result,
    fleet::{Ledger, Shares},
    manifest::set,
    scale::bridges::{bridge, bridges, end, expect_no_session, prove, scale_bridges, shared},
    scenario::{PIPELINE, Scenario, scenario, scenario_alone},
};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use snafu::{Report, ResultExt, Whatever};

#[tokio::test]
async fn bridges_come_and_leave_under_load_and_the_broker_keeps_nothing_of_them() -> Report<Whatever> {
    scenario_alone("bridges", async |test: &Scenario| {
        let figures = prove(test).await?;
        assert_eq!((figures.lost, figures.duplicated), (0, 0));
        Ok(())
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
        scale_bridges(test, 1).await?;
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
        end(test, fleet, &[1, 2]).await
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
        eprintln!("bridges-kinds: repeated={}", repeated(test, &ledger).await?);
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

/// How many records there are of messages that MQTT delivered again.
async fn repeated(test: &Scenario, ledger: &Ledger) -> Result<u64> {
    Ok(test.kafka.count(&test.topic()).await? - ledger.entries.len() as u64)
}
