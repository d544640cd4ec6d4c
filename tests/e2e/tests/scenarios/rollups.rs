//! Rollups on the Apache-2 edition, where plain views stand in for continuous aggregates.

use std::time::Duration;

use crds::status::{ConditionType, Reason};
use e2e::{
    Result,
    database::literal,
    fleet::Shares,
    manifest::set,
    scenario::{PIPELINE, Scenario, condition, scenario},
    wait::eventually,
};
use serde_json::{Value, json};
use snafu::{Report, Whatever};

/// Longer than the operator waits before it looks again.
const REPAIRED: Duration = Duration::from_secs(120);

#[tokio::test]
async fn views_show_what_the_rows_come_to() -> Report<Whatever> {
    scenario("rollups", async |test: &Scenario| {
        let rollups = rollups(json!({"readings": "count(*)", "hottest": "max(temp_f)", "last_seq": "last(seq, time)"}));
        let mut manifest = set(test.manifest()?, "/spec/timescale/rollups", rollups)?;
        manifest = set(manifest, "/spec/deletionPolicy", json!({"table": "Delete"}))?;
        let pipeline = test.start(&manifest).await?;
        let table = condition(&pipeline, ConditionType::TableReady).cloned();
        let table = table.map(|table| (table.status, table.reason));
        assert_eq!(table, Some(("True".to_owned(), Reason::RollupsComputedWhenQueried.to_string())));
        assert_eq!(columns(test, "by_hour").await?, ["bucket", "device", "hottest", "last_seq", "readings"]);
        assert_eq!(columns(test, "by_day").await?, ["bucket", "device", "readings"]);

        let ledger = test.publish(20, 500.0, 1_000, Shares { late: 0.1, repeated: 0.0, malformed: 0.0 }).await?;
        test.expect_delivered(&ledger, false).await?;
        expect_figures(
            test,
            "by_hour",
            "SELECT time_bucket('1 hour', time), device, max(temp_f), last(seq, time), count(*) FROM telemetry",
        )
        .await?;
        expect_figures(test, "by_day", "SELECT time_bucket('1 day', time), device, count(*)::numeric FROM telemetry")
            .await?;

        // One that somebody drops comes back, and one that is to compute something else does.
        test.database.execute(&format!("DROP VIEW {}.by_day", test.schema())).await?;
        eventually(REPAIRED, "the view is there again", async || {
            let columns = columns(test, "by_day").await?;
            Ok((!columns.is_empty()).then_some(()).ok_or("there is none".to_owned()))
        })
        .await?;
        let other = json!({"readings": "count(*)", "coldest": "min(temp_f)"});
        test.patch(json!({"spec": {"timescale": {"rollups": self::rollups(other)}}})).await?;
        test.ready().await?;
        assert_eq!(columns(test, "by_hour").await?, ["bucket", "device", "coldest", "readings"]);
        expect_figures(
            test,
            "by_hour",
            "SELECT time_bucket('1 hour', time), device, min(temp_f), count(*) FROM telemetry",
        )
        .await?;
        expect_figures(test, "by_day", "SELECT time_bucket('1 day', time), device, count(*)::numeric FROM telemetry")
            .await?;

        test.delete(PIPELINE).await?;
        for view in ["by_hour", "by_day"] {
            assert_eq!(columns(test, view).await?, [""; 0], "{view} is still there");
        }
        assert!(!test.table().neighbours().await?.contains("telemetry"), "the table is still there");
        Ok(())
    })
    .await
}

/// One by hour, and one by day that is made from it.
fn rollups(by_hour: Value) -> Value {
    json!([
        {
            "name": "by_hour", "bucket": "1h", "groupBy": ["device"], "select": by_hour,
            "refresh": {"startOffset": "31d", "endOffset": "1h", "every": "30m"},
        },
        {
            "name": "by_day", "from": "by_hour", "bucket": "1d", "groupBy": ["device"],
            "select": {"readings": "sum(readings)"},
            "refresh": {"startOffset": "33d", "endOffset": "1d", "every": "1h"},
        },
    ])
}

/// The columns of a relation, in their order; none where there is no such relation.
async fn columns(test: &Scenario, relation: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT column_name::text FROM information_schema.columns WHERE table_schema = {} AND table_name = {} \
         ORDER BY ordinal_position",
        literal(&test.schema()),
        literal(relation)
    );
    let names: Vec<(String,)> = test.database.query(&sql).await?;
    Ok(names.into_iter().map(|name| name.0).collect())
}

/// Fails unless a view shows exactly what a query of the table's rows, by time and device, answers.
async fn expect_figures(test: &Scenario, view: &str, query: &str) -> Result<()> {
    let view = format!("SELECT * FROM {}.{view}", test.schema());
    let rows = format!(
        "{} GROUP BY 1, 2",
        query.replace("FROM telemetry", &format!("FROM {}", test.table().quoted()))
    );
    let differ =
        format!("SELECT count(*) FROM (({view} EXCEPT {rows}) UNION ALL ({rows} EXCEPT {view})) AS differ");
    assert_eq!(test.database.number(&differ).await?, 0, "{view} is not {rows}");
    assert!(test.database.number(&format!("SELECT count(*) FROM ({view}) AS shown")).await? > 0, "{view}");
    Ok(())
}
