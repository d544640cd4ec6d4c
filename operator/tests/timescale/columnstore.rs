//! Chunks that go into the columnstore.

use crds::{pipeline::ColumnType, status::Reason};
use operator::{
    pipeline::{Column, Columnstore, SortOrder, SqlIdent, Table},
    timescale::TablePlan,
};

use super::support::{ALL, DAY, Test, wanted};

#[tokio::test]
async fn apache2_columnstore() {
    let test = Test::apache2().await;
    let table = with_columnstore(&test);
    let plain = test.table("readings");
    test.bring_about(&table).await;
    // Everything but the columnstore is there, and it is told.
    let rest = test.plan(&table).await;
    assert_eq!(rest.notes[0].reason, Reason::ColumnstoreUnsupported);
    assert!(rest.notes[0].message.contains("is of the Apache-2 edition"), "{rest:?}");
    assert_eq!(TablePlan { notes: Vec::new(), ..rest }, TablePlan::default());
    assert_eq!(test.plan(&plain).await, TablePlan::default());
    test.sql(&format!("INSERT INTO {table} (time, device) VALUES (now(), 'a')")).await;
    test.finish().await;
}

pub async fn settings_and_policy_follow_the_spec(test: &Test) {
    let mut table = with_columnstore(test);
    let made = test.bring_about(&table).await;
    assert_eq!(
        made.into_iter().filter(|change| change.contains("columnstore")).collect::<Vec<_>>(),
        [
            format!("table {table}: columnstore segmentBy set to device"),
            format!("table {table}: columnstore orderBy set to time DESC"),
            format!("table {table}: columnstore after set to 7 days"),
        ]
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());
    fill(test, &table).await;
    send_old_chunks(test).await;
    assert_eq!(chunks_in_columnstore(test, "segmentby = 'device'").await, OLD_CHUNKS);
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // Every setting by itself, while there are chunks in the columnstore.
    let columnstore = columnstore_of(&mut table);
    columnstore.segment_by = vec![ident("temperature"), ident("device")];
    assert_eq!(
        test.bring_about(&table).await,
        [format!("table {table}: columnstore segmentBy changed from device to temperature, device")]
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());
    let columnstore = columnstore_of(&mut table);
    columnstore.segment_by.clear();
    columnstore.order_by.insert(0, (ident("device"), SortOrder::Ascending));
    assert_eq!(
        test.bring_about(&table).await,
        [
            format!("table {table}: columnstore segmentBy removed (was temperature, device)"),
            format!("table {table}: columnstore orderBy changed from time DESC to device, time DESC"),
        ]
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());
    columnstore_of(&mut table).after = 4 * DAY;
    assert_eq!(
        test.bring_about(&table).await,
        [format!(
            "table {table}: columnstore after changed from 7 days (looked for every 12 hours) to 4 days"
        )]
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());
    wanted(&mut table).chunk_interval = DAY / 2;
    assert_eq!(test.bring_about(&table).await.len(), 2, "and the policy looks more often");
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // What was there keeps its settings, what goes there now has the new ones.
    send_old_chunks(test).await;
    assert_eq!(chunks_in_columnstore(test, "segmentby = 'device'").await, OLD_CHUNKS);
    assert_eq!(chunks_in_columnstore(test, "segmentby = ''").await, 3);
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table}")).await, ROWS);

    // Without it in the spec no more chunks go there, and none comes back.
    wanted(&mut table).columnstore = None;
    assert_eq!(
        test.bring_about(&table).await,
        [format!("table {table}: columnstore after removed (was 4 days (looked for every 6 hours))")]
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());
    assert_eq!(chunks_in_columnstore(test, "true").await, OLD_CHUNKS + 3);
}

pub async fn what_somebody_changed_in_it_is_mended(test: &Test) {
    let table = with_columnstore(test);
    test.bring_about(&table).await;
    let job = format!(
        "FROM timescaledb_information.jobs WHERE hypertable_schema = '{}' AND proc_name = 'policy_compression'",
        test.schema
    );
    let mended = [
        (
            format!(
                "ALTER TABLE {table} SET (timescaledb.segmentby = 'temperature', timescaledb.orderby = 'time NULLS FIRST')"
            ),
            vec![
                "columnstore segmentBy changed from temperature to device",
                "columnstore orderBy changed from time with its NULLs elsewhere to time DESC",
            ],
        ),
        (
            format!("CALL public.remove_columnstore_policy('{table}')"),
            vec!["columnstore after set to 7 days"],
        ),
        (
            format!(
                "SELECT public.alter_job(job_id, config => config || '{{\"compress_after\": \"1 day\"}}') {job}"
            ),
            vec!["columnstore after changed from 1 day (looked for every 12 hours) to 7 days"],
        ),
        (
            format!(
                "SELECT public.alter_job(job_id, scheduled => false, schedule_interval => '1 hour') {job}"
            ),
            vec!["columnstore after changed from 7 days (looked for every 1 hour, paused) to 7 days"],
        ),
        (
            format!(
                "CALL public.remove_columnstore_policy('{table}'); ALTER TABLE {table} SET (timescaledb.enable_columnstore = false)"
            ),
            vec![
                "columnstore segmentBy set to device",
                "columnstore orderBy set to time DESC",
                "columnstore after set to 7 days",
            ],
        ),
    ];
    for (by_hand, expected) in mended {
        test.sql(&by_hand).await;
        let expected: Vec<_> = expected.iter().map(|change| format!("table {table}: {change}")).collect();
        assert_eq!(test.bring_about(&table).await, expected, "{by_hand}");
        assert_eq!(test.plan(&table).await, TablePlan::default());
    }
}

pub async fn the_rest_of_the_table_changes_as_before(test: &Test) {
    let mut table = with_columnstore(test);
    test.bring_about(&table).await;
    let column = |name: &str, nullable| Column { name: ident(name), column_type: ColumnType::Text, nullable };

    // Still empty: even NOT NULL can be added, and the columnstore may name it at once.
    table.columns.push(column("line", false));
    columnstore_of(&mut table).segment_by.push(ident("line"));
    assert_eq!(test.bring_about(&table).await.len(), 2);
    assert_eq!(test.plan(&table).await, TablePlan::default());
    table.columns.pop();
    columnstore_of(&mut table).segment_by.pop();
    test.sql(&format!("ALTER TABLE {table} ALTER COLUMN line DROP NOT NULL")).await;
    test.bring_about(&table).await;
    fill(test, &table).await;
    send_old_chunks(test).await;

    // Columns, indexes, a natural key and retention over chunks in the columnstore.
    table.columns.push(column("site", true));
    table.unique_by = vec![ident("device"), ident("time")];
    wanted(&mut table).indexes.clear();
    assert_eq!(
        test.bring_about(&table).await,
        [
            format!("table {table}: column site set to text"),
            format!("table {table}: unique index set to readings_device_time_key"),
        ]
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());
    wanted(&mut table).drop_after = Some(10 * DAY);
    let held = test.plan(&table).await;
    assert_eq!((held.steps.len(), held.refusals[0].reason), (0, Reason::ApprovalRequired), "{held:?}");
    let message = &held.refusals[0].message;
    assert!(message.contains("would delete 9 chunks now, the oldest from"), "{message}");
    wanted(&mut table).drop_after = None;

    // A late row finds its chunk in the columnstore; a repeated one is not written twice.
    let late = format!(
        "INSERT INTO {table} (time, device) SELECT max(time) - interval '12 days 1 second', 'a' FROM {table}"
    );
    test.sql(&late).await;
    test.sql(&format!("{late} ON CONFLICT DO NOTHING")).await;
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table}")).await, ROWS + 1);
    send_old_chunks(test).await;
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table}")).await, ROWS + 1);

    // A column that cannot be added leaves the settings as they are.
    table.columns.push(column("serial", false));
    columnstore_of(&mut table).segment_by = vec![ident("serial")];
    let refused = test.plan(&table).await;
    assert_eq!(
        (refused.steps.len(), refused.refusals[0].reason),
        (0, Reason::TableChangeRefused),
        "{refused:?}"
    );

    let mut session = test.open().await;
    let deleted = session.delete_table(&table, &test.pipeline, ALL).await.unwrap().changes;
    session.close().await;
    assert_eq!(
        deleted.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [format!("table {table}_dead_letters deleted"), format!("table {table} deleted")]
    );
}

/// How many rows there are, and how many chunks of them are older than seven days and go into the columnstore.
const ROWS: i64 = 20 * 50;
const OLD_CHUNKS: i64 = 12;

async fn fill(test: &Test, table: &Table) {
    test.sql(&format!(
        "INSERT INTO {table} (time, device, temperature)
           SELECT date_trunc('day', now()) - day * interval '1 day' + second * interval '1 second', 'd' || second % 5, second
           FROM generate_series(0, 19) AS day, generate_series(1, 50) AS second"
    ))
    .await;
}

/// As the server's policy does.
async fn send_old_chunks(test: &Test) {
    let job = test
        .number(&format!(
            "SELECT job_id::bigint FROM timescaledb_information.jobs \
             WHERE hypertable_schema = '{}' AND proc_name = 'policy_compression'",
            test.schema
        ))
        .await;
    test.sql(&format!("CALL public.run_job({job})")).await;
}

async fn chunks_in_columnstore(test: &Test, condition: &str) -> i64 {
    test.number(&format!(
        "SELECT count(*) FROM timescaledb_information.chunk_columnstore_settings \
         WHERE hypertable = '{}.readings'::regclass AND {condition}",
        test.schema
    ))
    .await
}

fn with_columnstore(test: &Test) -> Table {
    let mut table = test.table("readings");
    wanted(&mut table).columnstore = Some(Columnstore {
        after: 7 * DAY,
        segment_by: vec![ident("device")],
        order_by: vec![(ident("time"), SortOrder::Descending)],
        max_late: Some(DAY),
    });
    table
}

fn columnstore_of(table: &mut Table) -> &mut Columnstore {
    wanted(table).columnstore.as_mut().unwrap()
}

fn ident(name: &str) -> SqlIdent {
    SqlIdent::parse(name).unwrap()
}
