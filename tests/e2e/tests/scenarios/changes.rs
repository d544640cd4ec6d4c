//! Edits while messages flow.

use std::time::Duration;

use crds::{status::Reason, worker::Component};
use e2e::{
    fleet::Shares,
    manifest::set,
    scenario::{Scenario, scenario},
    wait::eventually,
};
use kube::ResourceExt;
use serde_json::json;
use snafu::{Report, Whatever};

#[tokio::test]
async fn program_columns_and_replicas_change_under_load() -> Report<Whatever> {
    scenario("change", async |test: &Scenario| {
        let manifest = test.manifest()?;
        test.start(&manifest).await?;
        let table = test.table().quoted();
        let fleet = test.fleet(100, 400.0, None, Shares::NONE);
        test.published(&fleet, 2_000).await?;

        let program = manifest["spec"]["processing"]["program"].as_str().unwrap_or_default();
        let with_column = set(manifest.clone(), "/spec/timescale/columns/-", json!({"name": "shift", "type": "text"}))?;
        test.patch(json!({"spec": {
            "processing": {"program": format!("{program}.shift = \"night\"\n")},
            "timescale": {"columns": with_column["spec"]["timescale"]["columns"]},
            "processor": {"replicas": 3},
        }}))
        .await?;
        let pipeline = test.ready().await?;
        let processor = pipeline.status.and_then(|status| status.processor);
        assert_eq!(processor.map(|processor| processor.ready_replicas), Some(3));
        // One with the old program may still end its last batch: Kubernetes no longer counts a pod that shall go.
        let processors = test.workers(Component::Processor).await?;
        assert_eq!(processors.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count(), 3);
        let published = fleet.progress().published();
        test.published(&fleet, published + 2_000).await?;

        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, false).await?;
        let newest = format!(
            "SELECT count(*) FROM {table} WHERE shift = 'night' AND time > (SELECT max(time) FROM {table}) - interval '2 s'"
        );
        let unset = format!(
            "SELECT count(*) FROM {table} WHERE shift IS NULL AND time > (SELECT max(time) FROM {table}) - interval '2 s'"
        );
        assert!(test.database.number(&newest).await? > 0, "the new program writes the new column");
        assert_eq!(test.database.number(&unset).await?, 0, "the old program is gone");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_invalid_edit_changes_nothing_that_runs() -> Report<Whatever> {
    scenario("invalid-edit", async |test: &Scenario| {
        let before = test.start(&test.manifest()?).await?;
        let names = async || {
            let mut names = Vec::new();
            for component in [Component::Bridge, Component::Processor] {
                names.extend(test.workers(component).await?.iter().map(|pod| (pod.name_any(), pod.uid())));
            }
            names.sort();
            e2e::Result::Ok(names)
        };
        let pods_before = names().await?;
        let fleet = test.fleet(50, 200.0, None, Shares::NONE);
        test.published(&fleet, 500).await?;

        test.patch(json!({"spec": {"processing": {"program": ".line = upcase(.line)\n"}}})).await?;
        let message = test.not_ready(Reason::ProgramInvalid).await?;
        assert!(message.contains("error[E") && message.contains("upcase(.line)"), "{message}");

        // Rows keep coming, by the same pods with the same configuration.
        let rows = test.table().count().await?;
        eventually(Duration::from_secs(30), "more rows come", async || {
            let now = test.table().count().await?;
            Ok((now > rows + 500).then_some(()).ok_or(format!("{now} rows after {rows}")))
        })
        .await?;
        assert_eq!(names().await?, pods_before);
        let status = test.wait_for("still exists", |_| true).await?.status.unwrap_or_default();
        assert_eq!(status.applied_generation, before.metadata.generation);
        assert_eq!(status.observed_generation, before.metadata.generation.map(|generation| generation + 1));

        // The next valid edit is taken.
        test.apply(&test.manifest()?).await?;
        test.ready().await?;
        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

#[tokio::test]
async fn a_topic_grows_under_load_and_each_device_stays_in_order() -> Report<Whatever> {
    scenario("grow", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let fleet = test.fleet(100, 400.0, None, Shares::NONE);
        test.published(&fleet, 2_000).await?;

        test.patch(json!({"spec": {"kafka": {"topic": {"partitions": 8}}}})).await?;
        test.not_ready(Reason::TopicGrowing).await?;
        test.ready().await?;
        assert_eq!(test.kafka.partitions(&test.topic()).await?, Some(8));
        let published = fleet.progress().published();
        test.published(&fleet, published + 2_000).await?;

        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, false).await?;
        // A device's later messages may be in a partition that was not there before; then all earlier ones are rows of
        // transactions before theirs.
        let devices = async |which: &str| {
            let table = test.table().quoted();
            let sql = format!(
                "SELECT count(*) FROM (SELECT max(xmin::text::bigint) FILTER (WHERE kafka_partition < 4) AS last_before, \
                 min(xmin::text::bigint) FILTER (WHERE kafka_partition >= 4) AS first_after FROM {table} \
                 GROUP BY device) AS devices WHERE {which}"
            );
            test.database.number(&sql).await
        };
        assert!(devices("first_after IS NOT NULL").await? > 0, "no device has messages in new partitions");
        assert_eq!(devices("last_before >= first_after").await?, 0, "devices with messages that were overtaken");
        Ok(())
    })
    .await
}
