//! A topic and a table that somebody made by hand are taken over where the spec says so, and never deleted.

use crds::status::{ConditionType, Reason};
use e2e::{
    fleet::Shares,
    manifest::set,
    scenario::{PIPELINE, Scenario, condition, scenario},
};
use serde_json::json;
use snafu::{Report, Whatever};

#[tokio::test]
async fn what_was_made_by_hand_is_taken_over_and_stays() -> Report<Whatever> {
    scenario("adoption", async |test: &Scenario| {
        let schema = test.schema();
        test.kafka.create_with(&test.topic(), 4).await?;
        // Without the columns that tell where a row comes from, and with one that is theirs.
        for statement in [
            format!("CREATE SCHEMA {schema}"),
            format!(
                "CREATE TABLE {schema}.telemetry (time timestamptz NOT NULL, device text NOT NULL, seq bigint, \
                 line text, temp_f double precision, vibration double precision, battery double precision, \
                 theirs text DEFAULT 'untouched')"
            ),
            format!("SELECT create_hypertable('{schema}.telemetry', by_range('time', interval '3 days'))"),
        ] {
            test.database.execute(&statement).await?;
        }
        let everything = json!({"topic": "Delete", "table": "Delete", "deadLetters": "Delete", "offsets": "Delete"});
        test.apply(&set(test.manifest()?, "/spec/deletionPolicy", everything)?).await?;
        let refused = test
            .wait_for("refuses both", |pipeline| {
                let is_refused = |store, reason: Reason| {
                    condition(pipeline, store).is_some_and(|found| found.reason == reason.to_string())
                };
                is_refused(ConditionType::TopicReady, Reason::TopicNotOwned)
                    && is_refused(ConditionType::TableReady, Reason::TableNotOwned)
            })
            .await?;
        for store in [ConditionType::TopicReady, ConditionType::TableReady] {
            let message = condition(&refused, store).map(|found| found.message.clone()).unwrap_or_default();
            assert!(message.contains("adoptionPolicy: Adopt"), "{store}: {message}");
        }
        assert!(!test.table().neighbours().await?.contains("telemetry_dead_letters"), "made half");

        test.patch(json!({"spec": {"adoptionPolicy": "Adopt"}})).await?;
        test.ready().await?;
        for object in [format!("topic {}", test.topic()), format!("table {schema}.telemetry")] {
            test.told("Changed", &format!("{object}: ownership changed from nobody's to adopted")).await?;
        }
        let shares = Shares { late: 0.0, repeated: 0.0, malformed: 0.05 };
        let ledger = test.publish(20, 500.0, 1_000, shares).await?;
        test.expect_delivered(&ledger, false).await?;
        let rows = test.table().count().await?;
        let theirs = format!("SELECT count(*) FROM {schema}.telemetry WHERE theirs = 'untouched'");
        assert_eq!(test.database.number(&theirs).await?.unsigned_abs(), rows, "a column of theirs");

        test.delete(PIPELINE).await?;
        assert_eq!(test.kafka.count(&test.topic()).await?, 1_000, "the topic stays, with its records");
        assert_eq!(test.table().count().await?, rows, "the table stays, with its rows");
        let left = test.table().neighbours().await?;
        assert!(!left.contains("telemetry_dead_letters"), "the pipeline's own goes: {left:?}");
        Ok(())
    })
    .await
}
