//! Workers that are killed in mid-stream lose nothing, and no Kafka record becomes rows twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crds::worker::Component;
use e2e::{
    Result,
    fleet::{Fleet, Shares},
    manifest::set,
    pods::restarts,
    scenario::{Scenario, scenario},
    wait::eventually,
};
use serde_json::json;
use snafu::{Report, Whatever};

const WORKER: &str = "iotpipeline-worker";

#[tokio::test]
async fn killed_processors_lose_nothing_and_repeat_nothing() -> Report<Whatever> {
    scenario("kill-processor", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let fleet = test.fleet(100, 500.0, None, Shares { late: 0.05, repeated: 0.01, malformed: 0.01 });
        for round in 0..4 {
            kill_one(test, &fleet, Component::Processor, round).await?;
        }
        // The last one was killed while the others had work to do; now the whole pod goes too.
        let pods = test.workers(Component::Processor).await?;
        test.cluster.remove_at_once(&pods[0]).await?;
        publish_more(test, &fleet, 2_000).await?;

        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

#[tokio::test]
async fn a_killed_bridge_loses_nothing() -> Report<Whatever> {
    scenario("kill-bridge", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let fleet = test.fleet(100, 500.0, None, Shares { late: 0.05, repeated: 0.01, malformed: 0.01 });
        for round in 0..2 {
            kill_one(test, &fleet, Component::Bridge, round).await?;
        }
        publish_more(test, &fleet, 2_000).await?;

        let ledger = test.halt(fleet).await?;
        // What the bridge had not acknowledged comes again: a new Kafka record, so a row of its own.
        test.expect_delivered(&ledger, true).await
    })
    .await
}

#[tokio::test]
async fn with_a_natural_key_a_killed_bridge_repeats_nothing_either() -> Report<Whatever> {
    scenario("natural-key", async |test: &Scenario| {
        let seq = json!({"name": "seq", "type": "bigint", "nullable": false});
        let manifest = set(test.manifest()?, "/spec/timescale/columns/2", seq)?;
        let manifest = set(manifest, "/spec/timescale/uniqueBy", json!(["device", "time", "seq"]))?;
        test.start(&manifest).await?;
        let fleet = test.fleet(100, 500.0, None, Shares { late: 0.05, repeated: 0.05, malformed: 0.0 });
        for round in 0..2 {
            kill_one(test, &fleet, Component::Bridge, round).await?;
        }
        publish_more(test, &fleet, 2_000).await?;

        let ledger = test.halt(fleet).await?;
        test.drained(&ledger).await?;
        let published: BTreeSet<_> = ledger.rows().into_keys().collect();
        let rows = test.table().rows().await?;
        assert!(rows.values().all(|times| *times == 1), "a reading has two rows");
        assert_eq!(rows.into_keys().collect::<BTreeSet<_>>(), published);
        assert_eq!(test.table().dead_letters_by_reason().await?, BTreeMap::new());

        // Each record is a row or was counted: those that devices sent twice, and those that the broker sent again.
        let records = test.kafka.ends(&test.topic()).await?.values().sum::<i64>().unsigned_abs();
        let processors = test.workers(Component::Processor).await?;
        let counted =
            test.cluster.worker_counter(&processors, "iotpipeline_processor_repeated_rows_total").await?;
        assert_eq!(counted, records - published.len() as u64);
        let sent_twice = ledger.entries.len() - published.len();
        assert!(sent_twice > 100 && counted >= sent_twice as u64, "{sent_twice} of {counted}");
        Ok(())
    })
    .await
}

/// Kills one of the workers while messages flow, and waits until the kubelet has started it again.
async fn kill_one(test: &Scenario, fleet: &Fleet, component: Component, round: usize) -> Result<()> {
    publish_more(test, fleet, 1_000).await?;
    let pods = test.workers(component).await?;
    let before = restarts(&pods);
    test.cluster.sigkill(&pods[round % pods.len()], WORKER)?;
    eventually(Duration::from_secs(90), "the killed container was started again", async || {
        let now = restarts(&test.workers(component).await?);
        Ok((now > before).then_some(()).ok_or(format!("{now} restarts")))
    })
    .await
}

async fn publish_more(test: &Scenario, fleet: &Fleet, messages: u64) -> Result<()> {
    test.published(fleet, fleet.progress().published() + messages).await
}
