//! Rows that would go wait for a person.

use std::time::Duration;

use crds::{status::Reason, worker::PipelineId};
use operator::{
    change::Approvals,
    pipeline::Table,
    timescale::{Edition, Retention, TablePlan, plan, retentions_in_force},
};

use super::{
    external::{external, their_table},
    support::{DAY, Test, wanted},
};

pub async fn a_shorter_time_waits_for_approval(test: &Test) {
    let keeping = |days: Option<u32>| {
        let mut table = test.table("readings");
        wanted(&mut table).drop_after = days.map(|days| days * DAY);
        table
    };
    test.bring_about(&keeping(Some(200))).await;
    // Nothing is there that could be deleted.
    assert_eq!(test.bring_about(&keeping(Some(90))).await.len(), 1);
    test.sql(&format!(
        "INSERT INTO {schema}.readings (time, device)
           SELECT date_trunc('day', now()) - day * interval '1 day' + interval '1 second', 'a' FROM generate_series(0, 79) AS day;
         ANALYZE {schema}.readings",
        schema = test.schema
    ))
    .await;
    assert_eq!(test.plan(&keeping(Some(90))).await, TablePlan::default());

    // All else of the spec is applied; rows stay as long as before.
    let mut shorter = keeping(Some(30));
    wanted(&mut shorter).chunk_interval = 2 * DAY;
    let held = test.plan(&shorter).await;
    assert_eq!(held.refusals.len(), 1);
    assert_eq!(held.refusals[0].reason, Reason::ApprovalRequired);
    let message = &held.refusals[0].message;
    assert!(
        message.contains("from 90 days to 30 days would delete 49 chunks with about 49 rows now"),
        "{message}"
    );
    assert!(
        message.contains("kubectl annotate --overwrite iotp p -n n iotpipeline.dev/approve="),
        "{message}"
    );
    assert_eq!(test.bring_about(&shorter).await.len(), 1, "the chunk interval");
    in_force(test, &shorter, None, 90 * DAY).await;

    // Somebody's hand is no approval, and what it did is undone.
    if test.edition == Edition::Community {
        test.sql(&format!("SELECT public.remove_retention_policy('{shorter}')")).await;
        assert_eq!(test.bring_about(&shorter).await.len(), 1);
        in_force(test, &shorter, None, 90 * DAY).await;
    }

    // The value of another change is none either.
    let approval = message.rsplit_once('=').unwrap().1;
    in_force(test, &keeping(Some(7)), Some(approval), 90 * DAY).await;
    approve(test, &shorter, approval).await;
    in_force(test, &shorter, None, 30 * DAY).await;
    assert_eq!(test.plan(&shorter).await, TablePlan::default());

    // Longer is applied at once, and so is for ever; from there on every time is shorter.
    assert_eq!(test.bring_about(&keeping(Some(60))).await.len(), 2, "and the chunk interval");
    assert_eq!(test.bring_about(&keeping(None)).await.len(), 1);
    let first = test.plan(&keeping(Some(365))).await;
    assert_eq!((first.steps.len(), first.refusals[0].reason), (0, Reason::ApprovalRequired), "{first:?}");
    assert!(
        first.refusals[0].message.contains("from for ever to 365 days would delete 0 chunks now"),
        "{first:?}"
    );
}

pub async fn dead_letters_have_a_retention_of_their_own(test: &Test) {
    let keeping = |days: Option<u32>| {
        let mut table = test.table("readings");
        wanted(&mut table).drop_after = Some(365 * DAY);
        table.dead_letters_drop_after = days.map(|days| days * DAY);
        table
    };
    test.bring_about(&keeping(None)).await;
    test.sql(&format!("INSERT INTO {} (time, device) VALUES ({AGO}, 'a')", keeping(None))).await;
    dead_letters_go(test, keeping).await;
    assert_eq!(
        test.number(&format!("SELECT count(*) FROM {}", keeping(None))).await,
        1,
        "rows have their own"
    );
}

pub async fn dead_letters_beside_a_table_of_somebody_else_go_too(test: &Test) {
    test.sql(&their_table(test.schema.as_str())).await;
    let keeping =
        |days: Option<u32>| Table { dead_letters_drop_after: days.map(|days| days * DAY), ..external(test) };
    test.bring_about(&keeping(None)).await;
    test.sql(&format!("INSERT INTO {} (time, device) VALUES ({AGO}, 'a')", keeping(None))).await;
    let before = test.observe(&keeping(None)).await.table;

    // Another pipeline that fills the table has no say, until the dead letters are handed over to it.
    let second = PipelineId { name: "second".into(), ..test.pipeline.clone() };
    let second = Test { pipeline: second, ..test.clone() };
    let refused = second.plan(&keeping(Some(60))).await;
    assert_eq!(
        (refused.steps.len(), refused.refusals[0].reason),
        (0, Reason::TableChangeRefused),
        "{refused:?}"
    );
    test.sql(refused.refusals[0].message.split_once("run: ").unwrap().1).await;
    dead_letters_go(&second, keeping).await;

    assert_eq!(test.observe(&keeping(None)).await.table, before);
    assert_eq!(test.number(&format!("SELECT count(*) FROM {}", keeping(None))).await, 1);
}

/// When a row was written that is old, but not as old as rows may become.
const AGO: &str = "now() - interval '200 days'";

/// Old dead letters go, once that is approved, and new ones stay; what somebody else's hand changes is mended.
async fn dead_letters_go(test: &Test, keeping: impl Fn(Option<u32>) -> Table) {
    let (table, dead_letters) = (keeping(Some(60)), format!("{}_dead_letters", keeping(None)));
    let write = |time: &str| {
        format!(
            "INSERT INTO {dead_letters} (time, reason, stage, error, topic, partition, \"offset\", payload_bytes, payload_sha256)
               VALUES ({time}, 'Empty', 'Decode', 'e', 't', 0, 1, 0, '\\x00');
             ANALYZE {dead_letters}"
        )
    };
    let old = format!("SELECT count(*) FROM {dead_letters} WHERE time < now() - interval '60 days'");
    let all = format!("SELECT count(*) FROM {dead_letters}");
    for time in ["now()", "now() - interval '100 days'", AGO] {
        test.sql(&write(time)).await;
    }

    let held = test.plan(&table).await;
    assert_eq!((held.steps.len(), held.refusals.len()), (0, 1), "{held:?}");
    assert_eq!(held.refusals[0].reason, Reason::ApprovalRequired);
    let message = &held.refusals[0].message;
    let numbers = format!(
        "table {dead_letters}: timescale.deadLetters.retention.dropAfter from for ever to 60 days would delete 2 chunks \
         with about 2 rows now"
    );
    assert!(message.starts_with(&numbers), "{message}");
    test.drop_expired(&table).await;
    assert_eq!(test.number(&all).await, 3, "dropped without approval");

    approve(test, &table, message.rsplit_once('=').unwrap().1).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    test.drop_expired(&table).await;
    assert_eq!([test.number(&old).await, test.number(&all).await], [0, 1]);

    // Somebody removes the policy.
    if test.edition == Edition::Community {
        test.sql(&format!("SELECT public.remove_retention_policy('{dead_letters}')")).await;
        assert_eq!(
            test.bring_about(&table).await,
            [format!("table {dead_letters}: retention set to 60 days")]
        );
    }
    test.sql(&write(AGO)).await;
    test.drop_expired(&table).await;
    assert_eq!([test.number(&old).await, test.number(&all).await], [0, 1]);

    // For ever again, which nobody needs to approve.
    assert_eq!(test.bring_about(&keeping(None)).await.len(), 1);
    test.sql(&write(AGO)).await;
    test.drop_expired(&keeping(None)).await;
    assert_eq!(test.number(&old).await, 1);
}

async fn approve(test: &Test, table: &Table, approval: &str) {
    let mut session = test.open().await;
    let observed = session.observe(table, None).await.unwrap();
    let plan = plan(table, &test.pipeline, &observed, &Approvals::new(0, Some(approval), &[]));
    assert_eq!(plan.refusals, []);
    session.apply(table, &plan).await.unwrap();
    session.close().await;
}

/// How long rows stay: by the server's policy, and by the operator's own hand.
async fn in_force(test: &Test, table: &Table, approval: Option<&str>, expected: Duration) {
    let observed = test.observe(table).await;
    let in_force = retentions_in_force(table, &test.pipeline, &observed, &Approvals::new(0, approval, &[]));
    assert_eq!(in_force["readings"], Retention::For(expected));
    if test.edition == Edition::Community {
        let policy = observed.table.unwrap().retention.unwrap();
        assert_eq!((policy.after, policy.scheduled), (Some(expected), true));
    }
}

#[tokio::test]
async fn apache2_retention_is_the_operators_own_work() {
    let test = Test::apache2().await;
    let mut table = test.table("readings");
    wanted(&mut table).drop_after = Some(30 * DAY);
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    test.sql(&format!(
        "INSERT INTO {}.readings (time, device) SELECT now() - day * interval '1 day', 'a' FROM generate_series(0, 99) AS day",
        test.schema
    ))
    .await;

    let mut session = test.open().await;
    let changes = session.drop_expired_chunks(&table.schema, "readings", 30 * DAY).await.unwrap();
    assert_eq!(changes[0].to_string(), format!("69 chunks of table {table} older than 30 days deleted"));
    assert_eq!(session.drop_expired_chunks(&table.schema, "readings", 30 * DAY).await.unwrap(), []);
    assert_eq!(session.drop_expired_chunks(&table.schema, "readings", 7 * DAY).await.unwrap().len(), 1);
    session.close().await;
    let left = test.number(&format!("SELECT count(*) FROM {}.readings", test.schema)).await;
    assert!((7..=8).contains(&left), "{left}");
    test.finish().await;
}

pub async fn a_native_policy_follows_the_spec(test: &Test) {
    let mut table = test.table("readings");
    let jobs = format!(
        "SELECT coalesce(sum(extract(epoch FROM (config ->> 'drop_after')::interval)), 0)::bigint / 86400 \
         FROM timescaledb_information.jobs WHERE hypertable_schema = '{}' AND scheduled",
        test.schema
    );
    wanted(&mut table).drop_after = Some(90 * DAY);
    test.bring_about(&table).await;
    assert_eq!(test.number(&jobs).await, 90);
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // The spec changes, and so does the policy: the server's own function would only warn.
    wanted(&mut table).drop_after = Some(30 * DAY);
    assert_eq!(
        test.bring_about(&table).await,
        [format!("table {table}: retention changed from 90 days (looked for every 1 hour) to 30 days")]
    );
    assert_eq!(test.number(&jobs).await, 30);
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // Somebody else's hand.
    test.sql(&format!(
        "SELECT public.alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs \
         WHERE hypertable_schema = '{}'",
        test.schema
    ))
    .await;
    assert_eq!(test.bring_about(&table).await.len(), 1);
    assert_eq!(test.number(&jobs).await, 30);

    wanted(&mut table).drop_after = None;
    assert_eq!(test.bring_about(&table).await.len(), 1);
    assert_eq!(test.number(&jobs).await, 0);
    assert_eq!(test.plan(&table).await, TablePlan::default());
}
