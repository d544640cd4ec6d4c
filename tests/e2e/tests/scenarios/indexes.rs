//! An index over rows that are there.

use std::time::Duration;

use crds::status::{ConditionType, Reason};
use e2e::{
    database::literal,
    fleet::Shares,
    scenario::{Scenario, condition, scenario},
    wait::eventually,
};
use serde_json::json;
use snafu::{Report, Whatever};

const INDEX: &str = "telemetry_line_time_desc_idx";
/// Longer than the operator waits before it looks again.
const MADE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn an_index_is_added_under_load_and_rows_keep_coming() -> Report<Whatever> {
    scenario("index", async |test: &Scenario| {
        let manifest = test.manifest()?;
        test.start(&manifest).await?;
        let fleet = test.fleet(100, 400.0, None, Shares { late: 0.02, repeated: 0.01, malformed: 0.01 });
        test.published(&fleet, 2_000).await?;

        // Over few rows an index is there at once; so it waits here for a session that has the lock of whoever makes one, as
        // an operator's that has been stopped meanwhile.
        let lock = format!(
            "SELECT pg_advisory_xact_lock(hashtextextended({}, 0))",
            literal(&format!("iotpipeline-index:{}.telemetry", test.schema()))
        );
        let waiting = async {
            test.patch(json!({"spec": {"timescale": {"indexes": [
                {"columns": ["device", "time DESC"]},
                {"columns": ["line", "time DESC"]},
            ]}}}))
            .await?;
            test.ready().await?;
            test.wait_for("says that an index is being made", |pipeline| {
                let table = condition(pipeline, ConditionType::TableReady);
                let is_told = table.is_some_and(|table| {
                    table.status == "True" && table.reason == Reason::IndexBuilding.to_string()
                });
                let plan = pipeline.status.as_ref().map(|status| status.plan.as_slice()).unwrap_or_default();
                is_told && plan.iter().any(|step| step.to == INDEX)
            })
            .await?;
            let rows = test.table().count().await?;
            eventually(Duration::from_secs(30), "more rows come", async || {
                let now = test.table().count().await?;
                Ok((now > rows + 1_000).then_some(()).ok_or(format!("{now} rows after {rows}")))
            })
            .await
        };
        test.database.hold(&lock, waiting).await?;

        let made = format!(
            "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass({}) AND indisvalid",
            literal(&format!("{}.{INDEX}", test.schema()))
        );
        eventually(MADE, "the index is there", async || {
            let made = test.database.number(&made).await?;
            Ok((made == 1).then_some(()).ok_or("it is not".to_owned()))
        })
        .await?;
        test.told("Changed", &format!("index set to {INDEX}")).await?;
        test.wait_for("says no more of an index", |pipeline| {
            condition(pipeline, ConditionType::TableReady)
                .is_some_and(|table| table.reason == Reason::AsSpecified.to_string())
        })
        .await?;
        let ledger = test.halt(fleet).await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}
