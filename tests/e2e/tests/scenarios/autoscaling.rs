//! Processors that follow what waits.

use std::time::{Duration, Instant};

use crds::{IoTPipeline, status::AutoscalingStatus, worker::Component};
use e2e::{
    fleet::Shares,
    manifest::set,
    scenario::{Scenario, scenario},
    wait::eventually,
};
use serde_json::json;
use snafu::{Report, Whatever};

/// Messages that wait when the processor comes: more than one that gets so little CPU takes in `targetDrain`.
const WAITING: u64 = 40_000;

#[tokio::test]
async fn what_waits_brings_more_processors_and_nothing_is_lost() -> Report<Whatever> {
    scenario("autoscaling", async |test: &Scenario| {
        let manifest = set(
            test.manifest()?,
            "/spec/processor",
            json!({
                "mode": "Advise", "replicas": 1, "minReplicas": 1, "maxReplicas": 3, "targetDrain": "5s",
                "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "100m"}},
            }),
        )?;
        let manifest = set(manifest, "/spec/kafka/topic/partitions", json!(6))?;
        let manifest = set(manifest, "/spec/suspend", json!("Processor"))?;
        test.apply(&manifest).await?;
        eventually(Duration::from_secs(60), "the bridge runs", async || {
            let bridges = test.workers(Component::Bridge).await?.len();
            Ok((bridges == 1).then_some(()).ok_or(format!("{bridges} bridges")))
        })
        .await?;
        let fleet = test.fleet(100, 2_000.0, None, Shares::NONE);
        test.published(&fleet, WAITING).await?;

        // Advice is given, and not taken.
        test.patch(json!({"spec": {"suspend": "None"}})).await?;
        test.wait_for("is advised to have three", |pipeline| {
            autoscaling(pipeline).is_some_and(|advice| advice.desired_replicas == 3)
        })
        .await?;
        assert_eq!(test.workers(Component::Processor).await?.len(), 1, "advice changes nothing");

        // Decided by the operator itself, and done at once.
        test.patch(json!({"spec": {"processor": {"mode": "BuiltIn"}}})).await?;
        let begin = Instant::now();
        eventually(Duration::from_secs(60), "there are three processors", async || {
            let processors = test.workers(Component::Processor).await?.len();
            Ok((processors == 3).then_some(()).ok_or(format!("{processors} processors")))
        })
        .await?;
        eprintln!("autoscaling: replicas_changed_s={:.1}", begin.elapsed().as_secs_f64());
        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

fn autoscaling(pipeline: &IoTPipeline) -> Option<&AutoscalingStatus> {
    pipeline.status.as_ref()?.processor.as_ref()?.autoscaling.as_ref()
}
