//! What the MQTT broker keeps for a pipeline goes when the spec no longer asks for it.

use std::time::Duration;

use crds::names::default_client_id;
use e2e::{
    Result,
    fleet::Shares,
    manifest::set,
    mqtt,
    scenario::{PIPELINE, Scenario, scenario},
    wait::eventually,
};
use serde_json::json;
use snafu::{Report, Whatever};

/// The cluster's name, as tests/e2e/install gives it to the chart.
const CLUSTER_NAME: &str = "local";

#[tokio::test]
async fn a_filter_that_leaves_the_spec_is_unsubscribed() -> Report<Whatever> {
    scenario("unsubscribe", async |test: &Scenario| {
        let alarms = json!({"filter": format!("{}/+/alarms", test.namespace), "qos": 1});
        let manifest = test.manifest()?;
        test.start(&set(manifest.clone(), "/spec/mqtt/subscriptions/-", alarms)?).await?;
        say(test, "alarms", 0).await?;
        expect_rows(test, 1).await?;

        test.start(&manifest).await?;
        // The session is the same, and the broker would still send alarms into it.
        say(test, "alarms", 1).await?;
        say(test, "telemetry", 2).await?;
        expect_rows(test, 2).await?;
        let alarms = format!("SELECT count(*) FROM {} WHERE seq = 1", test.table().quoted());
        assert_eq!(test.database.number(&alarms).await?, 0, "an alarm came through");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_deleted_pipeline_passes_on_what_its_session_holds_and_ends_it() -> Report<Whatever> {
    scenario("end-session", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let client_id = default_client_id(CLUSTER_NAME, &test.namespace, PIPELINE);
        // While it is suspended, messages gather in the session.
        test.patch(json!({"spec": {"suspend": "All"}})).await?;
        test.wait_for("has no bridge", |pipeline| {
            let bridge = pipeline.status.as_ref().and_then(|status| status.bridge.as_ref());
            bridge.is_some_and(|bridge| bridge.replicas == 0)
        })
        .await?;
        let ledger = test.publish(20, 500.0, 500, Shares::NONE).await?;

        test.delete(PIPELINE).await?;
        let in_kafka = test.kafka.count(&test.topic()).await?;
        assert_eq!(in_kafka, ledger.entries.len() as u64, "messages that were passed on");
        assert!(!mqtt::has_session(&test.broker, &client_id).await?, "the broker still keeps {client_id}");
        Ok(())
    })
    .await
}

async fn say(test: &Scenario, what: &str, number: u32) -> Result<()> {
    let topic = format!("{}/line-1/{what}", test.namespace);
    let payload = format!(r#"{{"device":"d","ts":"{}","temp_f":1,"seq":{number}}}"#, jiff::Timestamp::now());
    let client_id = format!("{}-publisher", test.namespace);
    mqtt::publish(&test.broker, &client_id, &[(topic, payload.into_bytes())]).await
}

async fn expect_rows(test: &Scenario, wanted: u64) -> Result<()> {
    eventually(Duration::from_secs(60), "the messages are rows", async || {
        let found = test.table().count().await?;
        Ok((found == wanted).then_some(()).ok_or(format!("{found} of {wanted} rows")))
    })
    .await
}
