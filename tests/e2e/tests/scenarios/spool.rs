//! What a bridge keeps on its disk while Kafka takes nothing, and what becomes of it when the spool leaves the spec,
//! when its volume is lost and when the pipeline is deleted.
//!
//! Kafka takes nothing of one topic, whichever pod sends it, and serves everybody else. All of Kafka goes away in the
//! fault `kafka-away-with-spool`.

use std::time::Duration;

use crds::{
    IoTPipeline,
    names::spool_claim,
    status::{ConditionType, Reason},
    worker::Component,
};
use e2e::{
    Result,
    fleet::{Ledger, Shares},
    manifest::set,
    scenario::{PIPELINE, Scenario, condition, scenario, spooled},
    volume::{self, ROOMY},
    wait::eventually,
};
use futures::future::try_join;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::{Value, json};
use snafu::{OptionExt, Report, ResultExt, Whatever};

/// How long pods, claims and volumes may take to go and to come, and messages to become rows.
const PATIENCE: Duration = Duration::from_secs(180);

/// How many messages are in the spool before something happens to it. The two digits of the status say it exactly.
const SPOOLED: u64 = 500;

/// What the condition of a bridge says that empties a spool which left the spec.
const LEFT_THE_SPEC: &str = "The spool left the spec";

#[tokio::test]
async fn a_spool_that_leaves_the_spec_is_emptied_before_its_volume_goes() -> Report<Whatever> {
    scenario("spool-leaves", async |test: &Scenario| {
        test.start(&pipeline_with_spool(test).await?).await?;
        let fleet = test.fleet(20, 100.0, None, Shares::NONE);
        test.published(&fleet, 500).await?;
        kafka_takes_nothing(test).await?;
        test.published(&fleet, fleet.progress().published() + 500).await?;
        test.wait_for("is Ready, with messages in its spool", |pipeline| {
            spooled(pipeline) > Some(0)
                && says(pipeline, ConditionType::Ready).0 == "True"
                && says(pipeline, ConditionType::BridgeReady) == ("True", "Spooling")
        })
        .await?;

        test.patch(json!({"spec": {"mqtt": {"spool": null}}})).await?;
        test.wait_for("is not Ready, because it empties its spool", |pipeline| {
            let ready = condition(pipeline, ConditionType::Ready);
            says(pipeline, ConditionType::Ready) == ("False", "Spooling")
                && ready.is_some_and(|ready| ready.message.contains(LEFT_THE_SPEC))
        })
        .await?;
        // These wait at the MQTT broker.
        test.published(&fleet, fleet.progress().published() + 300).await?;
        assert!(
            claim(test).await?.is_some(),
            "the volume is gone, and Kafka has taken nothing of what was on it"
        );

        kafka_takes_everything(test).await?;
        claim_is_gone(test).await?;
        test.wait_for("is Ready without a spool", |pipeline| {
            spooled(pipeline).is_none() && says(pipeline, ConditionType::Ready).0 == "True"
        })
        .await?;
        let ledger = test.halt(fleet).await?;
        each_is_one_row(test, &ledger).await?;
        assert_eq!(test.events("SpoolLost").await?, [""; 0]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_loss_of_a_spools_volume_is_told_and_the_bridge_goes_on_with_another() -> Report<Whatever> {
    scenario("spool-lost", async |test: &Scenario| {
        test.start(&pipeline_with_spool(test).await?).await?;
        fill_spool(test).await?;
        let lost = claim(test).await?.whatever_context("the spool has no volume")?;
        let deleted = claims(test).delete(&lost.name_any(), &DeleteParams::default()).await;
        deleted.whatever_context("failed to delete the spool's claim")?;
        // While a pod uses it, Kubernetes keeps it.
        let bridges = test.workers(Component::Bridge).await?;
        let bridge = bridges.first().whatever_context("there is no bridge")?;
        test.cluster.remove_in_order(bridge).await?;
        eventually(PATIENCE, "the operator has made another claim", async || {
            let another = claim(test).await?.filter(|another| another.uid() != lost.uid());
            Ok(another.map(|_| ()).ok_or("it has not".to_owned()))
        })
        .await?;
        test.told("SpoolLost", &format!("about {SPOOLED} messages")).await?;

        volume::remove(test).await?;
        // Kubernetes lets go of the first volume, which has the same name, only now.
        eventually(PATIENCE, "there is another volume", async || volume::make(test, ROOMY).await.map(Ok))
            .await?;
        kafka_takes_everything(test).await?;
        test.wait_for("is Ready, with an empty spool", |pipeline| {
            spooled(pipeline) == Some(0) && says(pipeline, ConditionType::Ready).0 == "True"
        })
        .await?;
        // The first ones are as lost as the Event says, and only they.
        let ledger = test.publish(20, 200.0, 300, Shares::NONE).await?;
        each_is_one_row(test, &ledger).await
    })
    .await
}

#[tokio::test]
async fn a_deleted_pipeline_passes_on_what_its_spool_holds() -> Report<Whatever> {
    scenario("spool-passed-on", async |test: &Scenario| {
        test.start(&pipeline_with_spool(test).await?).await?;
        fill_spool(test).await?;
        let kafka_comes_back = async {
            test.wait_for("is deleted, and its retiring bridge holds messages", |pipeline| {
                let pending: &str = Reason::CleanupPending.into();
                condition(pipeline, ConditionType::Ready).is_some_and(|ready| {
                    ready.reason == pending && ready.message.contains("messages are in the spool")
                })
            })
            .await?;
            kafka_takes_everything(test).await
        };
        try_join(test.delete(PIPELINE), kafka_comes_back).await?;
        test.told("SessionEnded", &format!("{SPOOLED} messages were passed on")).await?;
        assert_eq!(test.kafka.count(&test.topic()).await?, SPOOLED, "messages in Kafka");
        claim_is_gone(test).await
    })
    .await
}

#[tokio::test]
async fn what_is_left_in_the_spool_of_a_deleted_pipeline_is_counted() -> Report<Whatever> {
    scenario("spool-left", async |test: &Scenario| {
        test.start(&pipeline_with_spool(test).await?).await?;
        fill_spool(test).await?;
        test.delete(PIPELINE).await?;
        let left = format!("0 messages were passed on, {SPOOLED} more were on their way to Kafka");
        test.told("SessionLeft", &left).await?;
        assert_eq!(test.kafka.count(&test.topic()).await?, 0, "messages in Kafka");
        claim_is_gone(test).await
    })
    .await
}

/// The pipeline with a spool and a natural key, so that what MQTT delivers twice is one row.
async fn pipeline_with_spool(test: &Scenario) -> Result<Value> {
    volume::make(test, ROOMY).await?;
    let manifest = volume::with_spool(test, ROOMY, test.manifest()?)?;
    let seq = json!({"name": "seq", "type": "bigint", "nullable": false});
    let manifest = set(manifest, "/spec/timescale/columns/2", seq)?;
    let manifest = set(manifest, "/spec/timescale/uniqueBy", json!(["device", "time", "seq"]))?;
    // A session that nobody ends shall not stay at the broker for long.
    set(manifest, "/spec/mqtt/sessionExpiry", json!("10m"))
}

/// Has Kafka take nothing, and publishes [`SPOOLED`] messages, which all come into the spool.
async fn fill_spool(test: &Scenario) -> Result<()> {
    kafka_takes_nothing(test).await?;
    let fleet = test.fleet(20, 200.0, Some(SPOOLED), Shares::NONE);
    fleet.finish().await.whatever_context("failed to publish")?;
    test.wait_for("has all messages in its spool", |pipeline| {
        spooled(pipeline) == i64::try_from(SPOOLED).ok()
    })
    .await?;
    Ok(())
}

/// The setting of a topic that says how old a record may be when it arrives, milliseconds; each is a few old. The
/// operator does not manage it.
const OLDEST: &str = "message.timestamp.before.max.ms";

async fn kafka_takes_nothing(test: &Scenario) -> Result<()> {
    test.kafka.set(&test.topic(), &[(OLDEST, "0")]).await
}

async fn kafka_takes_everything(test: &Scenario) -> Result<()> {
    test.kafka.set(&test.topic(), &[(OLDEST, &i64::MAX.to_string())]).await
}

/// Status and reason of a condition, where it tells of the newest spec.
fn says(pipeline: &IoTPipeline, of: ConditionType) -> (&str, &str) {
    let newest = pipeline.metadata.generation;
    let condition = condition(pipeline, of).filter(|condition| condition.observed_generation == newest);
    condition.map_or(("", ""), |condition| (condition.status.as_str(), condition.reason.as_str()))
}

async fn claim(test: &Scenario) -> Result<Option<PersistentVolumeClaim>> {
    let claim = claims(test).get_opt(&spool_claim(PIPELINE)).await;
    claim.whatever_context("failed to read the spool's claim")
}

fn claims(test: &Scenario) -> Api<PersistentVolumeClaim> {
    test.cluster.api(&test.namespace)
}

async fn claim_is_gone(test: &Scenario) -> Result<()> {
    eventually(PATIENCE, "the spool's claim is gone", async || {
        Ok(claim(test).await?.map_or(Ok(()), |claim| Err(format!("it is there: {:?}", claim.status))))
    })
    .await
}

/// Waits until there are as many rows as messages, and fails unless each message is one of them.
async fn each_is_one_row(test: &Scenario, ledger: &Ledger) -> Result<()> {
    let wanted = ledger.entries.len() as u64;
    eventually(PATIENCE, &format!("{wanted} messages are rows"), async || {
        let rows = test.table().count().await?;
        Ok((rows == wanted).then_some(()).ok_or(format!("{rows} rows")))
    })
    .await?;
    test.expect_rows(ledger, false).await
}
