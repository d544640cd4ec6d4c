//! What rollups keep alive, and how they end: rows that one needs stay, what is not the operator's stays, and what is goes
//! with the table.

use std::time::Duration;

use crds::status::Reason;
use operator::{
    change::Approvals,
    timescale::{TablePlan, plan},
};

use super::{
    rollup_support::{HOURS, by_hour, delete, fill, fill_before, ident, run_refresh, with_rollups},
    support::{ALL, DAY, Test, wanted},
};

pub async fn rows_that_a_rollup_needs_stay(test: &Test) {
    let mut table = with_rollups(test);
    let schema = &test.schema;
    fill_before(test, &table).await;
    test.bring_about(&table).await;
    let before = test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_hour")).await;

    // A rollup that is made in the same edit is filled before the rows go, whatever was approved.
    let mut both = table.clone();
    wanted(&mut both).drop_after = Some(5 * DAY);
    let mut more = by_hour();
    more.name = ident("more");
    wanted(&mut both).rollups.push(more);
    let observed = test.observe(&both).await;
    let waits = plan(&both, &test.pipeline, &observed, &Approvals::default());
    let waits_for = "waits: rollup more is not made yet, and needs the rows first";
    assert!(waits.refusals[0].message.contains(waits_for), "{waits:?}");
    assert_eq!(waits.refusals[0].reason, Reason::RollupBehind);
    let hash = Approvals::default().hash(&waits.held[0]);
    let approved = Approvals::new(0, Some(&hash), &[]);
    let still = plan(&both, &test.pipeline, &observed, &approved);
    assert_eq!(still.held, waits.held);
    assert!(
        still
            .steps
            .iter()
            .all(|step| !step.sql.contains("add_retention_policy('\"test_") || step.sql.contains("more"))
    );

    // Rows that came while the refresh did not run, and are old enough to go.
    let pause = |scheduled| {
        format!(
            "SELECT public.alter_job(job_id, scheduled => {scheduled}) FROM timescaledb_information.jobs \
             WHERE hypertable_schema = '{schema}' AND hypertable_name = 'by_hour' AND proc_name LIKE '%refresh%'"
        )
    };
    test.sql(&pause(false)).await;
    test.sql(&format!("INSERT INTO {table} (time, device, temperature) VALUES (now(), 'late', 5)")).await;
    wanted(&mut table).drop_after = Some(Duration::from_secs(1));
    let waits = test.plan(&table).await;
    assert_eq!(waits.refusals[0].reason, Reason::RollupBehind);
    assert!(waits.refusals[0].message.contains("rollup by_hour is refreshed up to"), "{waits:?}");

    // One that left the spec would erase what it has.
    wanted(&mut table).drop_after = Some(2 * DAY);
    wanted(&mut table).rollups.clear();
    let waits = test.plan(&table).await;
    assert_eq!(waits.refusals[0].reason, Reason::RollupBehind, "{waits:?}");
    assert!(waits.refusals[0].message.contains("as far back as 3 days"), "{waits:?}");
    assert_eq!(waits.notes[0].reason, Reason::RollupsLeft);

    // Where nothing stands against it, it waits for a person alone; then rows go, and aggregates stay.
    let mut table = with_rollups(test);
    test.bring_about(&table).await;
    wanted(&mut table).drop_after = Some(4 * DAY);
    let waits = test.plan(&table).await;
    assert_eq!(waits.refusals[0].reason, Reason::ApprovalRequired, "{waits:?}");
    let approved = Approvals::new(0, Some(&Approvals::default().hash(&waits.held[0])), &[]);
    let approved = plan(&table, &test.pipeline, &test.observe(&table).await, &approved);
    let mut session = test.open().await;
    session.apply(&table, &approved).await.unwrap();
    session.close().await;
    test.drop_expired(&table).await;
    let left = test.number(&format!("SELECT count(*) FROM {table}")).await;
    assert!(left < HOURS / 2, "{left}");
    for name in ["by_hour", "by_day"] {
        run_refresh(test, name).await;
    }
    let after = test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_hour")).await;
    assert_eq!(after, before + 1);
}

pub async fn what_is_not_ours_is_left(test: &Test) {
    let table = with_rollups(test);
    let schema = &test.schema;
    let mut plain = table.clone();
    wanted(&mut plain).rollups.clear();
    test.bring_about(&plain).await;
    test.sql(&format!("CREATE VIEW {schema}.by_hour AS SELECT 1 AS x")).await;
    let refused = test.plan(&table).await;
    assert_eq!(refused.refusals.len(), 1, "{refused:?}");
    assert_eq!(refused.refusals[0].reason, Reason::RollupRefused);
    assert!(refused.refusals[0].message.contains("this pipeline did not make it"), "{refused:?}");
    assert_eq!(refused.steps, []);
    test.sql(&format!("DROP VIEW {schema}.by_hour")).await;
    test.bring_about(&table).await;

    // Another in its place.
    test.sql(&format!("DROP MATERIALIZED VIEW {schema}.by_day")).await;
    test.sql(&format!("CREATE VIEW {schema}.by_day AS SELECT * FROM {schema}.by_hour")).await;
    let refused = test.plan(&table).await;
    assert!(refused.refusals[0].message.contains("somebody put another in its place"), "{refused:?}");

    // What leaves the spec stays, and the SQL that drops it is told; where it was run nothing is left of it.
    let left = test.plan(&plain).await;
    assert_eq!(left.steps, []);
    assert_eq!(left.notes[0].reason, Reason::RollupsLeft);
    let (_, sql) = left.notes[0].message.split_once("run: ").unwrap();
    for statement in sql.split_inclusive(';') {
        test.sql(statement).await;
    }
    assert_eq!(test.bring_about(&plain).await, Vec::<String>::new());
    assert_eq!(test.plan(&plain).await, TablePlan::default());
}

pub async fn rollups_go_with_their_table(test: &Test) {
    let table = with_rollups(test);
    let schema = &test.schema;
    test.bring_about(&table).await;
    fill(test, &table).await;
    // A view of somebody's own is not dropped along.
    test.sql(&format!("CREATE VIEW {schema}.mine AS SELECT * FROM {schema}.by_day")).await;
    let mut session = test.open().await;
    let error = session.delete_table(&table, &test.pipeline, ALL).await.unwrap_err();
    session.close().await;
    assert!(
        error.to_string().contains("something else depends on it, such as a view; drop that first"),
        "{error}"
    );
    test.sql(&format!("DROP VIEW {schema}.mine")).await;
    delete(test, &table, &["by_day", "by_hour"]).await;
}
