//! Processors of which the operator decides how many there are. What load leads to which number is tried in a simulation
//! (`operator/tests/scaling`): here, that a decision is told and brought about.

use std::time::Duration;

use crds::{
    IoTPipeline,
    status::{AutoscalingReason, AutoscalingStatus},
    worker::Component,
};
use e2e::{
    fleet::Shares,
    manifest::set,
    scenario::{Scenario, scenario},
    wait::eventually,
};
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

fn autoscaling(pipeline: &IoTPipeline) -> Option<&AutoscalingStatus> {
    pipeline.status.as_ref()?.processor.as_ref()?.autoscaling.as_ref()
}
