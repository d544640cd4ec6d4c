//! Rows that would go wait for a person.

use std::time::Duration;

use crds::status::Reason;
use operator::{
    pipeline::Table,
    timescale::{Edition, Retention, TablePlan, plan, retention_in_force},
};

use super::support::{DAY, Test, wanted};

#[tokio::test]
async fn apache2_approval() {
    Test::apache2().await.run(a_shorter_time_waits_for_approval).await;
}

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

async fn approve(test: &Test, table: &Table, approval: &str) {
    let mut session = test.open().await;
    let observed = session.observe(table, None).await.unwrap();
    let plan = plan(table, &test.pipeline, &observed, Some(approval));
    assert_eq!(plan.refusals, []);
    session.apply(table, &plan).await.unwrap();
    session.close().await;
}

/// How long rows stay: by the server's policy, and by the operator's own hand.
async fn in_force(test: &Test, table: &Table, approval: Option<&str>, expected: Duration) {
    let observed = test.observe(table).await;
    assert_eq!(retention_in_force(table, &observed, approval), Retention::For(expected));
    if test.edition == Edition::Community {
        let policy = observed.table.unwrap().retention.unwrap();
        assert_eq!((policy.drop_after, policy.scheduled), (Some(expected), true));
    }
}
