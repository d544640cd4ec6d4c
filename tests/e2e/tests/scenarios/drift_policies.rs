//! Policies that somebody changed by hand are repaired. The cluster's own TimescaleDB has none, so this asks one of the
//! Community edition.

use crds::status::ConditionType;
use e2e::{
    Result,
    community::Community,
    database::literal,
    manifest::set,
    scenario::{PIPELINE, Scenario, condition, scenario},
};
use serde_json::json;
use snafu::{Report, Whatever};

use super::drift::repaired;

/// The Secret that names the server.
const SECRET: &str = "community";

#[tokio::test]
async fn policies_that_were_changed_by_hand_are_repaired_and_told() -> Report<Whatever> {
    scenario("policies", async |test: &Scenario| {
        let community = Community::start(&test.cluster).await?;
        community.make_secret(&test.cluster, &test.namespace, SECRET).await?;
        let policies = Policies { test, community };
        policies.begin().await?;
        let table = format!("table {}.telemetry: ", test.schema());
        let rollup = format!("rollup {}.by_hour: ", test.schema());
        let [telemetry, by_hour] =
            ["telemetry", "by_hour"].map(|name| literal(&format!("{}.{name}", test.schema())));
        for (drift, sql, told) in [
            (
                "retention policy deleted",
                format!("SELECT remove_retention_policy({telemetry})"),
                format!("{table}retention set to 90 days"),
            ),
            (
                "retention policy altered",
                policies.alter("telemetry", "policy_retention", &setting("drop_after", "400 days")),
                format!("{table}retention changed from 400 days (looked for every 1 hour) to 90 days"),
            ),
            (
                "columnstore policy deleted",
                format!("CALL remove_columnstore_policy({telemetry})"),
                format!("{table}columnstore after set to 30 days"),
            ),
            (
                "columnstore policy altered",
                policies.alter("telemetry", "policy_compression", &setting("compress_after", "60 days")),
                format!("{table}columnstore after changed from 60 days (looked for every 12 hours) to 30 days"),
            ),
            (
                "refresh policy of a rollup deleted",
                format!("SELECT remove_continuous_aggregate_policy({by_hour})"),
                format!("{rollup}refresh set to 3 days to 1 hour ago every 30 minutes"),
            ),
            (
                "refresh policy of a rollup paused",
                policies.alter("by_hour", "policy_refresh_continuous_aggregate", "scheduled => false"),
                format!(
                    "{rollup}refresh changed from 3 days to 1 hour ago every 30 minutes, paused to 3 days to 1 hour ago \
                     every 30 minutes"
                ),
            ),
        ] {
            policies.changed(drift, &sql, &told).await?;
        }
        // The server goes with this scenario, and the pipeline's deletion asks it.
        test.delete(PIPELINE).await
    })
    .await
}

struct Policies<'a> {
    test: &'a Scenario,
    community: Community,
}

impl Policies<'_> {
    /// Makes the table with all of its policies.
    async fn begin(&self) -> Result<()> {
        let mut manifest = self.test.manifest()?;
        for (pointer, value) in [
            // A worker would keep the server's one session for itself.
            ("/spec/suspend", json!("All")),
            ("/spec/timescale/secretRef/name", json!(SECRET)),
            ("/spec/timescale/columnstore", json!({"after": "30d", "segmentBy": ["device"]})),
            (
                "/spec/timescale/rollups",
                json!([{
                    "name": "by_hour", "bucket": "1h", "groupBy": ["device"], "select": {"readings": "count(*)"},
                    "refresh": {"startOffset": "3d", "endOffset": "1h", "every": "30m"},
                }]),
            ),
        ] {
            manifest = set(manifest, pointer, value)?;
        }
        self.test.apply(&manifest).await?;
        self.test
            .wait_for("has its table", |pipeline| {
                condition(pipeline, ConditionType::TableReady).is_some_and(|table| table.status == "True")
            })
            .await?;
        // A rollup has its policy once it is filled with rows up to the present.
        let rows = format!(
            "INSERT INTO {} (time, device) SELECT now() - hour * interval '1 hour', 'a' FROM generate_series(0, 5) AS hour",
            self.test.table().quoted()
        );
        self.community.execute(&rows).await?;
        repaired("the policies are made", async || {
            let jobs = self.jobs().await?;
            Ok((jobs.lines().count() == 3).then_some(()).ok_or(jobs))
        })
        .await
    }

    /// Somebody changes a policy; all of them become what they were.
    async fn changed(&self, drift: &str, sql: &str, told: &str) -> Result<()> {
        let before = self.jobs().await?;
        self.community.execute(sql).await?;
        repaired(drift, async || {
            let now = self.jobs().await?;
            Ok((now == before).then_some(()).ok_or(now))
        })
        .await?;
        self.test.told("Changed", told).await
    }

    /// The SQL that alters a policy.
    fn alter(&self, relation: &str, procedure: &str, change: &str) -> String {
        format!(
            "SELECT alter_job(job_id, {change}) FROM timescaledb_information.jobs \
             WHERE hypertable_schema = {} AND hypertable_name = {} AND proc_name = {}",
            literal(&self.test.schema()),
            literal(relation),
            literal(procedure)
        )
    }

    /// All policies of the pipeline's table, dead letters and rollup, a line each.
    async fn jobs(&self) -> Result<String> {
        let sql = format!(
            "SELECT coalesce(string_agg(concat_ws(' ', hypertable_name, proc_name, schedule_interval, scheduled, config), \
               E'\\n' ORDER BY hypertable_name, proc_name), '') \
             FROM timescaledb_information.jobs WHERE hypertable_schema = {}",
            literal(&self.test.schema())
        );
        self.community.text(&sql).await
    }
}

/// A change of one setting of a policy.
fn setting(name: &str, value: &str) -> String {
    format!(
        "config => jsonb_set(config, {}, to_jsonb({}::text))",
        literal(&format!("{{{name}}}")),
        literal(value)
    )
}
