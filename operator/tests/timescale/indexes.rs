//! Indexes over rows that are there: made without holding up who writes elsewhere, and mended where that was interrupted.

use std::time::{Duration, Instant};

use operator::{
    pipeline::Table,
    timescale::{Built, Error, IndexBuild},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::task::JoinHandle;

use super::support::{ALL, Test, wanted};

const INDEX: &str = "readings_device_time_desc_idx";

pub async fn an_index_over_rows_is_made(test: &Test) {
    let (table, index) = with_rows_and_without_index(test).await;
    assert_eq!(test.bring_about(&table).await, [format!("table {table}: index set to {INDEX}")]);
    assert_eq!(states(test).await, "4 true");
    assert!(test.plan(&table).await.builds.is_empty());

    // What another operator has made meanwhile is there.
    test.sql(&format!("DROP INDEX {index}")).await;
    let plan = test.plan(&table).await;
    test.bring_about(&table).await;
    let mut session = test.open().await;
    assert_eq!(session.build_index(&table, &plan.builds[0]).await.unwrap(), Built::Made);
    session.close().await;
}

#[tokio::test]
async fn apache2_who_writes_into_other_chunks_or_reads_does_not_wait() {
    let test = Test::apache2().await;
    let (table, _) = with_rows_and_without_index(&test).await;
    let mut writer = writes_into_the_middle(&test, &table).await;
    let building = build_in_the_background(&test, &table).await;
    is_waiting(&test, "ShareLock").await;

    for day in [0, 2] {
        within_a_second(&test, &format!("INSERT INTO {table} (time, device) VALUES ({}, 'b')", on(day)))
            .await
            .unwrap();
    }
    within_a_second(&test, &format!("SELECT count(*) FROM {table}")).await.unwrap();
    // What else is changed of the table is not locked with it.
    within_a_second(&test, &format!("COMMENT ON COLUMN {table}.device IS 'the device'")).await.unwrap();

    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    assert_eq!(building.await.unwrap().unwrap(), Built::Made);
    assert_eq!(states(&test).await, "4 true");
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table}")).await, 6);
    test.finish().await;
}

#[tokio::test]
async fn apache2_an_interrupted_index_is_made_anew_by_whoever_comes_next() {
    let test = Test::apache2().await;
    let (table, _) = with_rows_and_without_index(&test).await;
    let mut writer = writes_into_the_middle(&test, &table).await;
    let building = build_in_the_background(&test, &table).await;
    let pid = is_waiting(&test, "ShareLock").await;
    test.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    building.await.unwrap().unwrap_err();
    assert_eq!(states(&test).await, "1 false, 1 true", "one chunk was done");

    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    assert_eq!(test.bring_about(&table).await, [format!("table {table}: index set to {INDEX}")]);
    assert_eq!(states(&test).await, "4 true");
    test.finish().await;
}

#[tokio::test]
async fn apache2_an_interrupted_index_that_left_the_spec_goes_once_nobody_makes_it() {
    let test = Test::apache2().await;
    let (table, _) = with_rows_and_without_index(&test).await;
    let mut plain = table.clone();
    wanted(&mut plain).indexes.clear();
    let mut writer = writes_into_the_middle(&test, &table).await;
    let building = build_in_the_background(&test, &table).await;
    let pid = is_waiting(&test, "ShareLock").await;
    // Which of them is made by nobody any more shows by the lock of whoever makes one.
    let drop = test.plan(&plain).await.builds.remove(0);
    let mut session = test.open().await;
    assert_eq!(session.build_index(&plain, &drop).await.unwrap(), Built::Elsewhere);
    test.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    building.await.unwrap().unwrap_err();
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();

    // Nor does whoever reads or writes queue behind it for long.
    let reading = format!("BEGIN; SELECT count(*) FROM {table}");
    sqlx::raw_sql(AssertSqlSafe(reading)).execute(&mut writer).await.unwrap();
    assert_eq!(session.build_index(&plain, &drop).await.unwrap(), Built::Locked);
    assert_eq!(states(&test).await, "1 false, 1 true");
    session.close().await;
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    assert_eq!(test.bring_about(&plain).await, [format!("table {table}: index removed (was {INDEX})")]);
    let left = format!(
        "SELECT count(*) FROM pg_indexes WHERE schemaname = '{}' AND indexname = '{INDEX}'",
        test.schema
    );
    assert_eq!(test.number(&left).await, 0);
    assert!(test.plan(&plain).await.builds.is_empty());
    test.finish().await;
}

#[tokio::test]
async fn apache2_an_index_that_a_person_makes_under_the_same_name_is_left_alone() {
    let test = Test::apache2().await;
    let (table, _) = with_rows_and_without_index(&test).await;
    let mut plain = table.clone();
    wanted(&mut plain).indexes.clear();
    let mut writer = writes_into_the_middle(&test, &table).await;
    let by_hand = format!(
        "CREATE INDEX {INDEX} ON {table} (device, time DESC) WITH (timescaledb.transaction_per_chunk)"
    );
    let mut person = test.connect().await;
    let making =
        tokio::spawn(async move { sqlx::raw_sql(AssertSqlSafe(by_hand)).execute(&mut person).await });
    is_waiting(&test, "ShareLock").await;
    let mut session = test.open().await;
    for table in [&plain, &table] {
        let build = test.plan(table).await.builds.remove(0);
        assert_eq!(session.build_index(table, &build).await.unwrap(), Built::Elsewhere);
    }
    session.close().await;
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    making.await.unwrap().unwrap();
    assert_eq!(states(&test).await, "4 true");
    test.finish().await;
}

#[tokio::test]
async fn apache2_a_lock_that_somebody_holds_is_told_and_waited_for() {
    let test = Test::apache2().await;
    let (table, _) = with_rows_and_without_index(&test).await;
    let mut writer = writes_into_the_middle(&test, &table).await;
    let building = build_in_the_background(&test, &table).await;
    assert_eq!(building.await.unwrap().unwrap(), Built::Locked);
    assert_eq!(states(&test).await, "1 false, 1 true", "one chunk was done");
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    test.bring_about(&table).await;
    assert_eq!(states(&test).await, "4 true");
    test.finish().await;
}

#[tokio::test]
async fn apache2_two_sessions_never_make_indexes_of_one_table_at_once() {
    let test = Test::apache2().await;
    let (table, _) = with_rows_and_without_index(&test).await;
    let plan = test.plan(&table).await;
    let mut writer = writes_into_the_middle(&test, &table).await;
    let building = build_in_the_background(&test, &table).await;
    is_waiting(&test, "ShareLock").await;
    let mut other = test.open().await;
    assert_eq!(other.build_index(&table, &plan.builds[0]).await.unwrap(), Built::Elsewhere);
    assert_eq!(states(&test).await, "1 false, 1 true", "it is left alone");

    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    assert_eq!(building.await.unwrap().unwrap(), Built::Made);
    assert_eq!(other.build_index(&table, &plan.builds[0]).await.unwrap(), Built::Made);
    other.close().await;
    test.finish().await;
}

#[tokio::test]
async fn apache2_a_table_that_is_deleted_waits_for_no_index() {
    let test = Test::apache2().await;
    let (table, _) = with_rows_and_without_index(&test).await;
    let mut writer = writes_into_the_middle(&test, &table).await;
    let building = build_in_the_background(&test, &table).await;
    is_waiting(&test, "ShareLock").await;
    let deleting = tokio::spawn({
        let (test, table) = (test.clone(), table.clone());
        async move { test.open().await.delete_table(&table, &test.pipeline, ALL).await }
    });
    building.await.unwrap().unwrap_err();
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    assert_eq!(deleting.await.unwrap().unwrap().changes.len(), 2);
    test.finish().await;
}

#[tokio::test]
async fn apache2_a_unique_index_locks_nothing_but_the_table() {
    let test = Test::apache2().await;
    let (mut table, _) = with_rows_and_without_index(&test).await;
    test.bring_about(&table).await;
    table.unique_by =
        ["device", "time"].map(|name| operator::pipeline::SqlIdent::parse(name).unwrap()).into();
    let mut writer = writes_into_the_middle(&test, &table).await;
    let building = build_in_the_background(&test, &table).await;
    is_waiting(&test, "ShareLock").await;
    within_a_second(&test, &format!("SELECT count(*) FROM {table}")).await.unwrap();
    let bookkeeping = format!("UPDATE {}._iotpipeline_positions SET next_offset = 0", test.schema);
    within_a_second(&test, &bookkeeping).await.unwrap();
    within_a_second(&test, &format!("DELETE FROM {table}_dead_letters")).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    assert_eq!(building.await.unwrap().unwrap(), Built::Made);
    test.finish().await;
}

/// A table with a row in each of three chunks, and the name of the index that it lacks.
async fn with_rows_and_without_index(test: &Test) -> (Table, String) {
    let table = test.table("readings");
    test.bring_about(&table).await;
    for day in 0..3 {
        test.sql(&format!("INSERT INTO {table} (time, device) VALUES ({}, 'a')", on(day))).await;
    }
    let index = format!("{}.{INDEX}", test.schema);
    test.sql(&format!("DROP INDEX {index}")).await;
    (table, index)
}

/// A moment, as SQL, for which each day has another chunk.
fn on(day: u32) -> String {
    format!("timestamptz '2026-01-01 12:00Z' + {day} * interval '1 day'")
}

/// How many indexes of this definition there are on the table and its chunks, valid and not.
async fn states(test: &Test) -> String {
    let mut connection = test.connect().await;
    let row = sqlx::raw_sql(AssertSqlSafe(format!(
        "SELECT string_agg(number || ' ' || indisvalid, ', ' ORDER BY indisvalid) FROM \
           (SELECT count(*) AS number, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid \
             WHERE relname LIKE '%{INDEX}' AND indrelid IN (SELECT '{schema}.readings'::regclass UNION ALL \
               SELECT inhrelid FROM pg_inherits WHERE inhparent = '{schema}.readings'::regclass) GROUP BY 2) AS states",
        schema = test.schema
    )))
    .fetch_one(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    row.get(0)
}

/// Somebody has written into the middle chunk and not committed yet.
async fn writes_into_the_middle(test: &Test, table: &Table) -> PgConnection {
    let mut connection = test.connect().await;
    // By the chunk's own name, so that the hypertable itself is not locked.
    let chunk: String = {
        let sql = format!("SELECT tableoid::regclass::text FROM {table} WHERE time = {}", on(1));
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap().get(0)
    };
    let sql = format!("BEGIN; INSERT INTO {chunk} (time, device) VALUES ({}, 'c')", on(1));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection
}

async fn build_in_the_background(test: &Test, table: &Table) -> JoinHandle<Result<Built, Error>> {
    let build: IndexBuild = test.plan(table).await.builds.remove(0);
    let (mut session, table) = (test.open().await, table.clone());
    tokio::spawn(async move {
        let built = session.build_index(&table, &build).await;
        session.close().await;
        built
    })
}

/// Waits until a session of the operator waits for such a lock on a chunk; its process.
async fn is_waiting(test: &Test, mode: &str) -> i64 {
    let begun = Instant::now();
    loop {
        let pid = test
            .number(&format!(
                "SELECT coalesce(max(pid), 0)::bigint FROM pg_locks WHERE NOT granted AND mode = '{mode}' \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND relation IN \
                     (SELECT inhrelid FROM pg_inherits WHERE inhparent = '{}.readings'::regclass)",
                test.schema
            ))
            .await;
        if pid > 0 {
            return pid;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody waits");
    }
}

/// Runs SQL that waits for no lock.
async fn within_a_second(test: &Test, sql: &str) -> sqlx::Result<()> {
    let mut connection = test.connect().await;
    let sql = format!("SET lock_timeout = '1s'; {sql}");
    let result = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
    connection.close().await?;
    result.map(drop)
}
