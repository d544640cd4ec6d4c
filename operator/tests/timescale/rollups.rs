//! Rollups as continuous aggregates: made, filled, edited and mended.

use crds::pipeline::ColumnType;
use operator::{
    pipeline::{Aggregate, Column, Function, Rollup, SortOrder, ValueType},
    timescale::TablePlan,
};

use super::{
    rollup_support::{
        HOUR, HOURS, by_hour, fill_before, ident, kinds, named, rollup, rollup_changes, run_refresh,
        with_rollups,
    },
    support::{DAY, Test, wanted},
};

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
