//! A table with rollups and rows, and what the tests ask of it.

use std::time::Duration;

use crds::pipeline::ColumnType;
use operator::{
    pipeline::{
        Aggregate, Columnstore, Function, Pick, Refresh, Rollup, SortOrder, SqlIdent, Table, ValueType,
    },
    timescale::{RollupMarker, ViewKind},
};

use super::support::{ALL, DAY, Test, wanted};

pub const HOUR: Duration = Duration::from_secs(3600);

/// The hours and devices of `fill`.
pub const HOURS: i64 = 20 * 24;

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
pub fn with_rollups(test: &Test) -> Table {
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

pub fn rollup(table: &mut Table, index: usize) -> &mut Rollup {
    &mut wanted(table).rollups[index]
}

/// A row an hour for twenty days up to an hour ago.
pub async fn fill(test: &Test, table: &Table) {
    test.sql(&format!(
        "INSERT INTO {table} (time, device, temperature) \
         SELECT now() - hour * INTERVAL '1 hour', 'd' || hour % 3, hour FROM generate_series(1, {HOURS}) AS hour"
    ))
    .await;
}

/// The table without its rollups, and rows in it.
pub async fn fill_before(test: &Test, table: &Table) {
    let mut plain = table.clone();
    wanted(&mut plain).rollups.clear();
    test.bring_about(&plain).await;
    fill(test, &plain).await;
}

pub async fn run_refresh(test: &Test, rollup: &str) {
    let job = format!(
        "SELECT job_id::bigint FROM timescaledb_information.jobs WHERE hypertable_schema = '{}' \
         AND hypertable_name = '{rollup}' AND proc_name LIKE '%refresh%'",
        test.schema
    );
    let job = test.number(&job).await;
    test.sql(&format!("CALL public.run_job({job})")).await;
}

/// The rollups that are there, in their order, each with its kind.
pub async fn kinds(test: &Test, table: &Table) -> Vec<String> {
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

pub async fn delete(test: &Test, table: &Table, rollups: &[&str]) {
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

pub fn ident(name: &str) -> SqlIdent {
    SqlIdent::parse(name).unwrap()
}

pub fn rollup_changes(changes: &[String]) -> Vec<String> {
    changes.iter().filter(|change| change.starts_with("rollup ")).cloned().collect()
}

pub fn named(test: &Test, change: &str) -> String {
    format!("rollup {}", change.replace("{}", test.schema.as_str()))
}
