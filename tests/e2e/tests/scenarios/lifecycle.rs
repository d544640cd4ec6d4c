//! What is kept and what goes when a pipeline is deleted.

use std::{collections::BTreeSet, time::Duration};

use crds::{names::default_consumer_group, status::ConditionType};
use e2e::{
    fleet::Shares,
    manifest::set,
    scenario::{PIPELINE, Scenario, condition, scenario},
    wait::eventually,
};
use serde_json::json;
use snafu::{Report, Whatever};

#[tokio::test]
async fn a_pipeline_created_again_goes_on_where_it_stood() -> Report<Whatever> {
    scenario("retain", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        // The processor stands still, so that at the deletion there are records which are no rows yet.
        let fleet = test.fleet(50, 500.0, None, Shares { late: 0.02, repeated: 0.01, malformed: 0.01 });
        test.published(&fleet, 3_000).await?;
        test.patch(json!({"spec": {"suspend": "Processor"}})).await?;
        test.published(&fleet, 6_000).await?;
        let ledger = test.halt(fleet).await?;

        test.delete(PIPELINE).await?;
        assert_eq!(test.kafka.partitions(&test.topic()).await?, Some(4), "the topic is retained");
        let rows_at_deletion = test.table().count().await?;
        assert!(rows_at_deletion > 0, "the rows are retained");
        assert!(rows_at_deletion < 6_000, "all messages are rows already");

        test.start(&test.manifest()?).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

#[tokio::test]
async fn delete_takes_topic_and_table_and_nothing_else() -> Report<Whatever> {
    scenario("delete", async |test: &Scenario| {
        let manifest =
            set(test.manifest()?, "/spec/deletionPolicy", json!({"topic": "Delete", "table": "Delete"}))?;
        let pipeline = test.start(&manifest).await?;
        assert!(condition(&pipeline, ConditionType::Ready).is_some());
        let ledger =
            test.publish(20, 500.0, 2_000, Shares { late: 0.0, repeated: 0.0, malformed: 0.05 }).await?;
        test.drained(&ledger).await?;
        let neighbour_topic = format!("{}.neighbour", test.namespace);
        test.kafka.create(&neighbour_topic).await?;
        test.database.execute(&format!("CREATE TABLE {}.neighbour (value int)", test.schema())).await?;

        test.delete(PIPELINE).await?;
        assert_eq!(test.kafka.partitions(&test.topic()).await?, None, "the topic is gone");
        let left = test.table().neighbours().await?;
        assert_eq!(left, BTreeSet::from(["neighbour".to_owned()]), "tables of the schema");
        assert_eq!(test.kafka.partitions(&neighbour_topic).await?, Some(1), "another topic stays");
        test.kafka.delete(&neighbour_topic).await?;

        // A pipeline of the same name begins anew.
        test.start(&test.manifest()?).await?;
        let ledger = test.publish(20, 500.0, 500, Shares::NONE).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

#[tokio::test]
async fn each_layer_goes_or_stays_by_its_own_policy() -> Report<Whatever> {
    scenario("delete-layers", async |test: &Scenario| {
        let layers =
            json!({"topic": "Delete", "table": "Delete", "deadLetters": "Retain", "offsets": "Delete"});
        test.start(&set(test.manifest()?, "/spec/deletionPolicy", layers)?).await?;
        let ledger =
            test.publish(20, 500.0, 1_000, Shares { late: 0.0, repeated: 0.0, malformed: 0.1 }).await?;
        test.expect_delivered(&ledger, false).await?;
        let letters = test.table().letters().await?;
        assert!(!letters.is_empty(), "there are no dead letters");
        let group = default_consumer_group(&test.namespace, PIPELINE);
        eventually(Duration::from_secs(60), "positions are mirrored to Kafka", async || {
            let groups = test.kafka.groups().await?;
            Ok(groups.contains(&group).then_some(()).ok_or(format!("{group} is not in {groups:?}")))
        })
        .await?;

        test.delete(PIPELINE).await?;
        assert_eq!(test.kafka.partitions(&test.topic()).await?, None, "the topic");
        assert!(!test.kafka.groups().await?.contains(&group), "the consumer group {group} is still there");
        assert!(!test.table().neighbours().await?.contains("telemetry"), "the table is still there");
        assert_eq!(test.table().letters().await?, letters, "dead letters");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_pipeline_did_not_create_is_never_deleted() -> Report<Whatever> {
    scenario("not-owned", async |test: &Scenario| {
        test.kafka.create(&test.topic()).await?;
        test.database.execute(&format!("CREATE SCHEMA {}", test.schema())).await?;
        test.database.execute(&format!("CREATE TABLE {}.telemetry (value int)", test.schema())).await?;
        let manifest =
            set(test.manifest()?, "/spec/deletionPolicy", json!({"topic": "Delete", "table": "Delete"}))?;
        test.apply(&manifest).await?;
        test.wait_for("is looked at", |pipeline| {
            condition(pipeline, ConditionType::Ready).is_some_and(|ready| ready.status == "False")
        })
        .await?;

        test.delete(PIPELINE).await?;
        assert_eq!(test.kafka.partitions(&test.topic()).await?, Some(1), "the topic stays");
        assert!(test.table().neighbours().await?.contains("telemetry"), "the table stays");
        Ok(())
    })
    .await
}
