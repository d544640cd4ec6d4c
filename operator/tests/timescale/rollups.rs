//! Rollups: continuous aggregates, and the views that stand in for them.

use std::time::Duration;

use crds::{
    pipeline::ColumnType,
    status::{ChangeClass, Reason},
};
use operator::{
    change::Approvals,
    pipeline::{
        Aggregate, Column, Columnstore, Function, Pick, Refresh, Rollup, SortOrder, SqlIdent, Table,
        ValueType,
    },
    timescale::{RollupMarker, TablePlan, ViewKind, plan},
};

use super::support::{ALL, DAY, Test, wanted};

const HOUR: Duration = Duration::from_secs(3600);

/// The hours and devices of `fill`.
const HOURS: i64 = 20 * 24;

#[tokio::test]
async fn apache2_rollups() {
    let test = Test::apache2().await;
    let table = with_rollups(&test);
    fill_before(&test, &table).await;
    let made = test.bring_about(&table).await;
    assert_eq!(
        rollup_changes(&made),
        ["{}.by_hour created", "{}.by_day created"].map(|change| named(&test, change))
    );
    // It is told, and otherwise nothing is left to do.
    let rest = test.plan(&table).await;
    assert_eq!(rest.notes[0].reason, Reason::RollupsComputedWhenQueried);
    assert_eq!(TablePlan { notes: Vec::new(), ..rest }, TablePlan::default());
    assert_eq!(kinds(&test, &table).await, ["by_hour View", "by_day View"]);
    let schema = &test.schema;
    assert_eq!(test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_hour")).await, HOURS);
    assert_eq!(test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_day")).await, HOURS);

    // What it computes changes at once, because nothing is kept; who may read it still may.
    test.sql(&format!("GRANT SELECT ON {schema}.by_hour TO PUBLIC")).await;
    let mut changed = table.clone();
    rollup(&mut changed, 0).select[0].1 = Aggregate::Of(Function::Min, ident("temperature"));
    let changes = test.bring_about(&changed).await;
    assert!(
        changes[0].starts_with(&format!("rollup {schema}.by_hour: definition changed from")),
        "{changes:?}"
    );
    assert_eq!(changes[1..], [format!("rollup {schema}.by_day: source set to made anew")]);
    assert!(test.observe(&changed).await.rollups[0].view.as_ref().unwrap().readers.contains(&None));
    assert_eq!(
        test.number(&format!("SELECT count(*) FROM {schema}.by_hour WHERE top = bottom")).await,
        HOURS
    );

    // A view that was dropped by hand is made again.
    test.sql(&format!("DROP VIEW {schema}.by_day")).await;
    assert_eq!(test.bring_about(&changed).await, [format!("rollup {schema}.by_day created")]);
    delete(&test, &changed, &["by_day", "by_hour"]).await;
    test.finish().await;
}

pub async fn a_rollup_is_made_filled_and_kept(test: &Test) {
    let table = with_rollups(test);
    let schema = &test.schema;
    fill_before(test, &table).await;
    let made = test.bring_about(&table).await;
    assert_eq!(
        rollup_changes(&made),
        [
            "{}.by_hour created",
            "{}.by_hour: columnstore set to segments by device, ordered by bucket DESC",
            "{}.by_hour: retention set to 100 days",
            "{}.by_day created",
            "{}.by_hour: refresh set to 3 days to 1 hour ago every 30 minutes",
            "{}.by_hour: columnstore after set to 10 days",
            "{}.by_day: refresh set to 10 days to 1 hour ago every 1 hour",
        ]
        .map(|change| named(test, change))
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());
    assert_eq!(kinds(test, &table).await, ["by_hour ContinuousAggregate", "by_day ContinuousAggregate"]);

    // All of the history is kept in it, and not only what the policy would have refreshed.
    let kept = |name: &'static str| async move {
        let sql = format!(
            "SELECT materialization_hypertable_name::text FROM timescaledb_information.continuous_aggregates \
             WHERE view_schema = '{schema}' AND view_name = '{name}'"
        );
        let mut connection = test.connect().await;
        let materialized: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        drop(connection);
        test.number(&format!("SELECT sum(rows)::bigint FROM _timescaledb_internal.{materialized}")).await
    };
    assert!(kept("by_hour").await >= HOURS - 3);
    assert!(kept("by_day").await >= HOURS - 48);
    assert_eq!(test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_hour")).await, HOURS);
    assert_eq!(
        test.number(&format!(
            "SELECT count(*) FROM {schema}.by_hour WHERE top = latest AND device IS NOT NULL"
        ))
        .await,
        HOURS
    );

    // New rows show at once in the one, and once they are refreshed in the other.
    test.sql(&format!("INSERT INTO {table} (time, device, temperature) VALUES (now(), 'new', 5)")).await;
    let new = |name| format!("SELECT count(*) FROM {schema}.{name} WHERE device = 'new'");
    assert_eq!((test.number(&new("by_hour")).await, test.number(&new("by_day")).await), (1, 0));
    test.sql(&format!(
        "INSERT INTO {table} (time, device, temperature) VALUES (now() - INTERVAL '2 days', 'new', 5)"
    ))
    .await;
    run_refresh(test, "by_hour").await;
    run_refresh(test, "by_day").await;
    assert_eq!((test.number(&new("by_hour")).await, test.number(&new("by_day")).await), (2, 1));
}

pub async fn every_field_changes_by_itself(test: &Test) {
    let mut table = with_rollups(test);
    fill_before(test, &table).await;
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    type Edit = fn(&mut Rollup);
    let edits: [(Edit, &str); 10] = [
        (|rollup| rollup.materialized_only = true, "materializedOnly changed from false to true"),
        (
            |rollup| rollup.refresh.start_offset = 4 * DAY,
            "refresh changed from 3 days to 1 hour ago every 30 minutes to 4 days to 1 hour ago every 30 minutes",
        ),
        (
            |rollup| rollup.refresh.end_offset = 2 * HOUR,
            "refresh changed from 4 days to 1 hour ago every 30 minutes to 4 days to 2 hours ago every 30 minutes",
        ),
        (
            |rollup| rollup.refresh.every = HOUR,
            "refresh changed from 4 days to 2 hours ago every 30 minutes to 4 days to 2 hours ago every 1 hour",
        ),
        (
            |rollup| rollup.drop_after = Some(200 * DAY),
            "retention changed from 100 days (looked for every 1 hour) to 200 days",
        ),
        (
            |rollup| rollup.columnstore.as_mut().unwrap().after = 20 * DAY,
            "columnstore after changed from 10 days (looked for every 12 hours) to 20 days",
        ),
        (
            |rollup| rollup.columnstore.as_mut().unwrap().segment_by.clear(),
            "columnstore changed from segments by device, ordered by bucket DESC to ordered by bucket DESC",
        ),
        (
            |rollup| {
                rollup
                    .columnstore
                    .as_mut()
                    .unwrap()
                    .order_by
                    .insert(0, (ident("device"), SortOrder::Ascending))
            },
            "columnstore changed from ordered by bucket DESC to ordered by device, bucket DESC",
        ),
        (
            |rollup| rollup.columnstore = None,
            "columnstore after removed (was 20 days (looked for every 12 hours))",
        ),
        (|rollup| rollup.drop_after = None, "retention removed (was 200 days (looked for every 1 hour))"),
    ];
    for (edit, told) in edits {
        edit(rollup(&mut table, 0));
        assert_eq!(test.bring_about(&table).await, [format!("rollup {}.by_hour: {told}", test.schema)]);
        assert_eq!(test.plan(&table).await, TablePlan::default(), "{told}");
    }
    // A shorter retention waits for a person.
    rollup(&mut table, 0).drop_after = Some(15 * DAY);
    let waits = test.plan(&table).await;
    assert_eq!((waits.steps.len(), waits.held.len()), (0, 1), "{waits:?}");
    assert!(
        waits.refusals[0].message.contains("retention.dropAfter from for ever to 15 days would delete"),
        "{waits:?}"
    );
    rollup(&mut table, 0).drop_after = None;

    // A new column, and a new rollup over it, in one edit.
    let column = Column { name: ident("vibration"), column_type: ColumnType::Integer, nullable: true };
    table.columns.push(column);
    let mut added = by_hour();
    added.name = ident("vibrations");
    let sum = Aggregate::Of(Function::Sum, ident("vibration"));
    added.select = vec![(ident("total"), sum, ValueType::Column(ColumnType::Bigint))];
    wanted(&mut table).rollups.push(added);
    let changes = test.bring_about(&table).await;
    assert_eq!(
        changes[..2],
        [
            format!("table {table}: column vibration set to integer"),
            format!("rollup {}.vibrations created", test.schema),
        ]
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());
}

pub async fn what_somebody_changed_is_mended(test: &Test) {
    let table = with_rollups(test);
    let schema = &test.schema;
    fill_before(test, &table).await;
    test.bring_about(&table).await;
    let by_hour = format!("'{schema}.by_hour'::regclass");
    for (sql, mended) in [
        (
            format!("SELECT public.remove_continuous_aggregate_policy({by_hour})"),
            "refresh set to 3 days to 1 hour ago every 30 minutes",
        ),
        (
            format!(
                "SELECT public.alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs \
                 WHERE hypertable_schema = '{schema}' AND hypertable_name = 'by_hour' AND proc_name LIKE '%refresh%'"
            ),
            "refresh changed from 3 days to 1 hour ago every 30 minutes, paused to 3 days to 1 hour ago every 30 minutes",
        ),
        (format!("SELECT public.remove_retention_policy({by_hour})"), "retention set to 100 days"),
        (format!("CALL public.remove_columnstore_policy({by_hour})"), "columnstore after set to 10 days"),
        (
            format!("ALTER MATERIALIZED VIEW {schema}.by_hour SET (timescaledb.materialized_only = true)"),
            "materializedOnly changed from true to false",
        ),
    ] {
        test.sql(&sql).await;
        assert_eq!(test.bring_about(&table).await, [format!("rollup {schema}.by_hour: {mended}")], "{sql}");
        assert_eq!(test.plan(&table).await, TablePlan::default());
    }
    // A view that was dropped by hand is made and filled anew, with those that were made from it.
    test.sql(&format!("DROP MATERIALIZED VIEW {schema}.by_day")).await;
    let made = test.bring_about(&table).await;
    assert_eq!(made[0], format!("rollup {schema}.by_day created"));
    assert!(test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_day")).await >= HOURS - 48);
    assert_eq!(test.plan(&table).await, TablePlan::default());
}

pub async fn a_plain_view_becomes_the_real_thing(test: &Test) {
    let table = with_rollups(test);
    let schema = &test.schema;
    fill_before(test, &table).await;
    // As the operator makes them on the Apache-2 edition.
    let mut observed = test.observe(&table).await;
    observed.extension.installed.as_mut().unwrap().edition = operator::timescale::Edition::Apache2;
    let views = plan(&table, &test.pipeline, &observed, &Approvals::default());
    assert_eq!(views.notes[0].reason, Reason::RollupsComputedWhenQueried);
    let mut session = test.open().await;
    session.apply(&table, &views).await.unwrap();
    session.close().await;
    assert_eq!(kinds(test, &table).await, ["by_hour View", "by_day View"]);
    test.sql(&format!("GRANT SELECT ON {schema}.by_day TO pg_monitor")).await;
    let computed = test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_day")).await;

    let changes = test.bring_about(&table).await;
    for name in ["by_hour", "by_day"] {
        let change = format!("rollup {schema}.{name}: kind changed from View to ContinuousAggregate");
        assert!(changes.contains(&change), "{changes:?}");
    }
    assert_eq!(kinds(test, &table).await, ["by_hour ContinuousAggregate", "by_day ContinuousAggregate"]);
    let view = test.observe(&table).await.rollups[1].view.clone().unwrap();
    assert_eq!(view.readers, [Some("pg_monitor".to_owned())]);
    assert_eq!(test.plan(&table).await, TablePlan::default());
    let kept = test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_day")).await;
    assert!((computed - 48..=computed).contains(&kept), "{kept} of {computed}");
}

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

pub async fn what_is_computed_changes_by_approval_alone(test: &Test) {
    let mut table = with_rollups(test);
    let schema = &test.schema;
    // Where it has nothing yet, at once.
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await.fills.len(), 2);
    rollup(&mut table, 1).bucket = 2 * DAY;
    let changes = test.bring_about(&table).await;
    assert!(
        changes[0].starts_with(&format!("rollup {schema}.by_day: definition changed from SELECT")),
        "{changes:?}"
    );
    rollup(&mut table, 1).bucket = DAY;
    fill(test, &table).await;
    test.sql(&format!("DROP MATERIALIZED VIEW {schema}.by_day")).await;
    test.bring_about(&table).await;

    // Each part of it.
    let unchanged = table.clone();
    type Edit = fn(&mut Rollup);
    let edits: [Edit; 3] = [
        |rollup| rollup.bucket = 2 * HOUR,
        |rollup| rollup.select.truncate(3),
        |rollup| rollup.time_column = ident("hour"),
    ];
    for edit in edits {
        let mut table = unchanged.clone();
        // Made anew with the other, so it must fit.
        wanted(&mut table).rollups.truncate(1);
        edit(rollup(&mut table, 0));
        let waits = test.plan(&table).await;
        // The other one is still made from it.
        assert_eq!(waits.held.len(), 1, "{waits:?}");
        assert_eq!(waits.held[0].class, ChangeClass::Destructive);
        assert_eq!(waits.refusals[0].reason, Reason::ApprovalRequired);
        assert_eq!(waits.steps, []);
    }
    let mut table = unchanged;
    rollup(&mut table, 0).group_by.clear();
    rollup(&mut table, 0).columnstore = None;
    rollup(&mut table, 1).group_by.clear();
    let observed = test.observe(&table).await;
    let waits = plan(&table, &test.pipeline, &observed, &Approvals::default());
    assert_eq!(waits.held.len(), 1, "{waits:?}");
    let hash = Approvals::default().hash(&waits.held[0]);
    let approved = plan(&table, &test.pipeline, &observed, &Approvals::new(0, Some(&hash), &[]));
    // What is made from it is made anew with it.
    assert_eq!(approved.refusals, []);
    let mut session = test.open().await;
    session.apply(&table, &approved).await.unwrap();
    session.close().await;
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    assert!(
        test.number(&format!("SELECT sum(rows)::bigint FROM {}.by_day", test.schema)).await >= HOURS - 48
    );
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

async fn delete(test: &Test, table: &Table, rollups: &[&str]) {
    let mut session = test.open().await;
    let deleted = session.delete_table(table, &test.pipeline, ALL).await.unwrap();
    session.close().await;
    let mut expected = vec![format!("table {table}_dead_letters deleted")];
    expected.extend(rollups.iter().map(|name| format!("rollup {}.{name} deleted", test.schema)));
    expected.push(format!("table {table} deleted"));
    assert_eq!(deleted.changes.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    let left = format!(
        "SELECT count(*) FROM pg_class WHERE relnamespace = '{}'::regnamespace AND relkind IN ('r', 'v')",
        test.schema
    );
    assert_eq!(test.number(&left).await, 0);
}

fn ident(name: &str) -> SqlIdent {
    SqlIdent::parse(name).unwrap()
}

/// Hourly values of each device, kept long and packed.
pub fn by_hour() -> Rollup {
    let double = ValueType::Column(ColumnType::DoublePrecision);
    let of = |function| Aggregate::Of(function, ident("temperature"));
    Rollup {
        name: ident("by_hour"),
        from: None,
        source_time: ident("time"),
        bucket: HOUR,
        time_column: ident("bucket"),
        group_by: vec![(ident("device"), ValueType::Column(ColumnType::Text))],
        select: vec![
            (ident("bottom"), of(Function::Avg), double),
            (ident("rows"), Aggregate::CountRows, ValueType::Column(ColumnType::Bigint)),
            (ident("top"), of(Function::Max), double),
            (ident("latest"), Aggregate::Picked(Pick::Last, ident("temperature"), ident("time")), double),
        ],
        materialized_only: false,
        refresh: Refresh { start_offset: 3 * DAY, end_offset: HOUR, every: HOUR / 2 },
        drop_after: Some(100 * DAY),
        columnstore: Some(Columnstore {
            after: 10 * DAY,
            segment_by: vec![ident("device")],
            order_by: vec![(ident("bucket"), SortOrder::Descending)],
            max_late: None,
        }),
    }
}

/// A table with hourly values, and daily ones made from them that show only once they are refreshed.
fn with_rollups(test: &Test) -> Table {
    let mut table = test.table("readings");
    let by_day = Rollup {
        name: ident("by_day"),
        from: Some(ident("by_hour")),
        source_time: ident("bucket"),
        bucket: DAY,
        select: vec![
            (ident("rows"), Aggregate::Of(Function::Sum, ident("rows")), ValueType::Numeric),
            (
                ident("top"),
                Aggregate::Of(Function::Max, ident("top")),
                ValueType::Column(ColumnType::DoublePrecision),
            ),
        ],
        materialized_only: true,
        refresh: Refresh { start_offset: 10 * DAY, end_offset: HOUR, every: HOUR },
        drop_after: None,
        columnstore: None,
        ..by_hour()
    };
    wanted(&mut table).rollups = vec![by_hour(), by_day];
    table
}

fn rollup(table: &mut Table, index: usize) -> &mut Rollup {
    &mut wanted(table).rollups[index]
}

/// A row an hour for twenty days up to an hour ago.
async fn fill(test: &Test, table: &Table) {
    test.sql(&format!(
        "INSERT INTO {table} (time, device, temperature) \
         SELECT now() - hour * INTERVAL '1 hour', 'd' || hour % 3, hour FROM generate_series(1, {HOURS}) AS hour"
    ))
    .await;
}

/// The table without its rollups, and rows in it.
async fn fill_before(test: &Test, table: &Table) {
    let mut plain = table.clone();
    wanted(&mut plain).rollups.clear();
    test.bring_about(&plain).await;
    fill(test, &plain).await;
}

async fn run_refresh(test: &Test, rollup: &str) {
    let job = format!(
        "SELECT job_id::bigint FROM timescaledb_information.jobs WHERE hypertable_schema = '{}' \
         AND hypertable_name = '{rollup}' AND proc_name LIKE '%refresh%'",
        test.schema
    );
    let job = test.number(&job).await;
    test.sql(&format!("CALL public.run_job({job})")).await;
}

/// The rollups that are there, in their order, each with its kind.
async fn kinds(test: &Test, table: &Table) -> Vec<String> {
    let observed = test.observe(table).await;
    let of = |name: &SqlIdent| {
        let found = observed.rollups.iter().find(|found| found.name == name.as_str()).unwrap();
        assert!(matches!(found.marker, Some(RollupMarker { is_filled: _, .. })));
        let kind = match found.view.as_ref().unwrap().kind {
            ViewKind::Aggregate(_) => "ContinuousAggregate",
            ViewKind::View => "View",
            ViewKind::Other => "Other",
        };
        format!("{name} {kind}")
    };
    table.wanted.as_ref().unwrap().rollups.iter().map(|rollup| of(&rollup.name)).collect()
}

fn rollup_changes(changes: &[String]) -> Vec<String> {
    changes.iter().filter(|change| change.starts_with("rollup ")).cloned().collect()
}

fn named(test: &Test, change: &str) -> String {
    format!("rollup {}", change.replace("{}", test.schema.as_str()))
}
