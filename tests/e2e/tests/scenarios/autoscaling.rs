//! Workers of which the operator decides how many there are. What load leads to which number of processors is tried in a
//! simulation (`operator/tests/scaling`), and of bridges in unit tests: here, that a decision is told and brought about.

use std::time::Duration;

use crds::{
    IoTPipeline,
    status::{AutoscalingReason, AutoscalingStatus, BridgeAutoscalingStatus, ConditionType},
    worker::Component,
};
use e2e::{
    fleet::Shares,
    manifest::set,
    scale::bridges::{bridges, end, shared},
    scenario::{Scenario, condition, scenario},
    wait::eventually,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use snafu::{Report, Whatever};

#[tokio::test]
async fn advice_is_only_told_and_a_decision_is_brought_about_under_load() -> Report<Whatever> {
    scenario("autoscaling", async |test: &Scenario| {
        let processor = json!({"mode": "Advise", "replicas": 1, "minReplicas": 2, "maxReplicas": 4});
        test.start(&set(test.manifest()?, "/spec/processor", processor)?).await?;
        let fleet = test.fleet(100, 400.0, None, Shares::NONE);
        test.wait_for("is advised to have two", |pipeline| {
            autoscaling(pipeline).is_some_and(|advice| {
                (advice.desired_replicas, advice.reason) == (2, AutoscalingReason::AtMinimum)
            })
        })
        .await?;
        test.published(&fleet, 1_000).await?;
        assert_eq!(test.workers(Component::Processor).await?.len(), 1, "advice changes nothing");

        test.patch(json!({"spec": {"processor": {"mode": "BuiltIn"}}})).await?;
        eventually(Duration::from_secs(60), "there are two processors", async || {
            let processors = test.workers(Component::Processor).await?.len();
            Ok((processors == 2).then_some(()).ok_or(format!("{processors} processors")))
        })
        .await?;
        test.ready().await?;
        test.published(&fleet, fleet.progress().published() + 1_000).await?;
        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

#[tokio::test]
async fn the_bridges_are_as_many_as_the_rate_needs_and_the_bounds_allow() -> Report<Whatever> {
    scenario("autoscaling-bridges", async |test: &Scenario| {
        let bridge = json!({"mode": "BuiltIn", "maxReplicas": 3, "targetRate": 200});
        let started = test.start(&set(shared(test, 1)?, "/spec/bridge", bridge)?).await?;
        let fleet = test.fleet(100, 500.0, None, Shares::NONE);
        test.wait_for("has three bridges", |pipeline| bridges(pipeline) == (3, Some(3))).await?;
        test.wait_for("says what comes", |pipeline| {
            bridge_autoscaling(pipeline).is_some_and(|said| {
                (said.desired_replicas, said.reason) == (3, AutoscalingReason::AsNeeded)
                    && said.message_rate.is_some_and(|rate| (400..=600).contains(&rate))
            })
        })
        .await?;

        // Fewer by the rate alone would take ten minutes without need of them.
        test.patch(json!({"spec": {"bridge": {"maxReplicas": 1}}})).await?;
        let scaled = test
            .wait_for("has one bridge and says why", |pipeline| {
                let reason = bridge_autoscaling(pipeline).map(|said| said.reason);
                bridges(pipeline) == (1, Some(1)) && reason == Some(AutoscalingReason::AtMaximum)
            })
            .await?;
        assert_eq!(ready_since(&started), ready_since(&scaled), "it was Ready all the time");
        end(test, fleet, &[1, 2]).await
    })
    .await
}

fn ready_since(pipeline: &IoTPipeline) -> Option<&Time> {
    let ready = condition(pipeline, ConditionType::Ready).filter(|ready| ready.status == "True");
    ready.map(|ready| &ready.last_transition_time)
}

fn bridge_autoscaling(pipeline: &IoTPipeline) -> Option<&BridgeAutoscalingStatus> {
    pipeline.status.as_ref()?.bridge.as_ref()?.autoscaling.as_ref()
}

fn autoscaling(pipeline: &IoTPipeline) -> Option<&AutoscalingStatus> {
    pipeline.status.as_ref()?.processor.as_ref()?.autoscaling.as_ref()
}
