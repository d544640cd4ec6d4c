//! Topics and tables of somebody else are used and never altered, claimed or deleted.

use std::time::Duration;

use crds::{IoTPipeline, worker::Component};
use e2e::{
    fleet::Shares,
    manifest::set,
    scenario::{PIPELINE, Scenario, scenario},
    wait::eventually,
};
use serde_json::{Value, json};
use snafu::{Report, ResultExt, Whatever};

#[tokio::test]
async fn any_number_of_pipelines_read_a_topic_that_others_fill() -> Report<Whatever> {
    scenario("reader", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        test.apply(&test.reader("reader")?).await?;
        let settings = test.kafka.settings(&test.topic()).await?;

        let ledger = test.publish(50, 500.0, 3_000, Shares::NONE).await?;
        test.drained(&ledger).await?;
        let second = format!("SELECT count(*) FROM {}.reader", test.schema());
        eventually(Duration::from_secs(120), "the reader has every message", async || {
            let rows = test.database.number(&second).await?;
            Ok((rows == 3_000).then_some(()).ok_or(format!("{rows} rows")))
        })
        .await?;
        test.expect_rows(&ledger, false).await?;

        // It has no bridge and says nothing of one.
        let object: IoTPipeline = test
            .cluster
            .pipelines(&test.namespace)
            .get("reader")
            .await
            .whatever_context("failed to read the pipeline")?;
        let status = object.status.unwrap_or_default();
        assert_eq!(status.bridge, None);
        assert!(status.conditions.iter().all(|condition| condition.type_ != "BridgeReady"), "{status:?}");
        assert_eq!(test.workers(Component::Bridge).await?.len(), 1, "bridges");

        test.delete("reader").await?;
        assert_eq!(test.kafka.partitions(&test.topic()).await?, Some(4), "the topic stays");
        assert_eq!(test.kafka.settings(&test.topic()).await?, settings, "as it was");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_table_of_somebody_else_is_filled_and_otherwise_left_alone() -> Report<Whatever> {
    scenario("their-table", async |test: &Scenario| {
        let schema = test.schema();
        let create = [
            format!("CREATE SCHEMA {schema}"),
            format!(
                "CREATE TABLE {schema}.telemetry (time timestamptz NOT NULL, device text NOT NULL, seq bigint, \
                 line text, temp_f double precision, vibration double precision, battery double precision, \
                 kafka_partition integer, kafka_offset bigint, extra jsonb, theirs text DEFAULT 'untouched')"
            ),
            format!("SELECT create_hypertable('{schema}.telemetry', by_range('time', interval '3 days'))"),
        ];
        for statement in create {
            test.database.execute(&statement).await?;
        }
        let describe = format!(
            "SELECT string_agg(attname || ' ' || atttypid::regtype::text || ' ' || attnotnull::text, ',' ORDER BY attnum) \
             FROM pg_attribute WHERE attrelid = '{schema}.telemetry'::regclass AND attnum > 0"
        );
        let before: Vec<(String,)> = test.database.query(&describe).await?;
        let mut manifest = test.manifest()?;
        for (pointer, value) in [
            ("/spec/timescale/management", json!("External")),
            ("/spec/timescale/chunkInterval", Value::Null),
            ("/spec/timescale/indexes", Value::Null),
            ("/spec/timescale/retention", Value::Null),
        ] {
            manifest = set(manifest, pointer, value)?;
        }
        test.start(&manifest).await?;
        let ledger = test.publish(50, 500.0, 2_000, Shares { late: 0.0, repeated: 0.0, malformed: 0.05 }).await?;
        test.expect_delivered(&ledger, false).await?;

        test.delete(PIPELINE).await?;
        let after: Vec<(String,)> = test.database.query(&describe).await?;
        assert_eq!(after, before, "the table's columns");
        let rows = test.table().count().await?;
        assert!(rows > 1_800, "the rows stay: {rows}");
        let theirs = format!("SELECT count(*) FROM {schema}.telemetry WHERE theirs = 'untouched'");
        assert_eq!(test.database.number(&theirs).await?.unsigned_abs(), rows);
        Ok(())
    })
    .await
}
