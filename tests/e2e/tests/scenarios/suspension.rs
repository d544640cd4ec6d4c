//! Workers that are told to stand still, and to go on.

use std::time::Duration;

use crds::{
    status::{ConditionType, Reason},
    worker::Component,
};
use e2e::{
    Result,
    fleet::Shares,
    scenario::{Scenario, condition, scenario},
    wait::eventually,
};
use serde_json::json;
use snafu::{Report, Whatever};

#[tokio::test]
async fn a_suspended_pipeline_loses_nothing_and_catches_up() -> Report<Whatever> {
    scenario("suspend", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let fleet = test.fleet(50, 300.0, None, Shares { late: 0.02, repeated: 0.01, malformed: 0.01 });
        test.published(&fleet, 1_000).await?;

        // Database maintenance: messages gather in Kafka.
        suspend(test, "Processor", &[Component::Processor]).await?;
        let (rows, records) = (test.table().count().await?, test.kafka.count(&test.topic()).await?);
        test.published(&fleet, fleet.progress().published() + 2_000).await?;
        eventually(Duration::from_secs(30), "the bridge goes on", async || {
            let now = test.kafka.count(&test.topic()).await?;
            Ok((now > records + 1_500).then_some(()).ok_or(format!("{now} records after {records}")))
        })
        .await?;
        test.wait_for("reports the growing lag", |pipeline| {
            let lag = pipeline.status.as_ref().and_then(|status| status.lag.as_ref());
            lag.is_some_and(|lag| lag.messages > 1_500)
        })
        .await?;
        assert_eq!(test.table().count().await?, rows, "no row while the processor stands still");

        // Everything stands still: messages gather at the MQTT broker.
        suspend(test, "All", &[Component::Bridge, Component::Processor]).await?;
        let records = test.kafka.count(&test.topic()).await?;
        test.published(&fleet, fleet.progress().published() + 1_000).await?;
        assert_eq!(
            test.kafka.count(&test.topic()).await?,
            records,
            "no record while the bridge stands still"
        );

        test.patch(json!({"spec": {"suspend": "None"}})).await?;
        test.ready().await?;
        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

async fn suspend(test: &Scenario, what: &str, standing: &[Component]) -> Result<()> {
    test.patch(json!({"spec": {"suspend": what}})).await?;
    let suspended: &str = Reason::Suspended.into();
    test.wait_for(&format!("is suspended: {what}"), |pipeline| {
        condition(pipeline, ConditionType::Ready).is_some_and(|ready| ready.reason == suspended)
    })
    .await?;
    eventually(Duration::from_secs(60), "the suspended workers are gone", async || {
        let mut left = 0;
        for component in standing {
            left += test.workers(*component).await?.len();
        }
        Ok((left == 0).then_some(()).ok_or(format!("{left} pods")))
    })
    .await?;
    let all = [Component::Bridge, Component::Processor];
    for component in all.into_iter().filter(|component| !standing.contains(component)) {
        assert!(!test.workers(component).await?.is_empty(), "the {component} goes on");
    }
    Ok(())
}
