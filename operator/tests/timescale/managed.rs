//! Tables that the operator makes and keeps.

use crds::{pipeline::ColumnType, status::Reason};
use operator::{
    pipeline::{Column, Index, SortOrder, SqlIdent},
    timescale::{BuildKind, Built, TablePlan},
};

use super::support::{DAY, Test, wanted};

#[tokio::test]
async fn apache2_a_plan_that_fails_leaves_nothing_half_made() {
    let test = Test::apache2().await;
    let table = test.table("readings");
    let mut plan = test.plan(&table).await;
    plan.steps.last_mut().unwrap().sql = "SELECT 1 / 0".into();
    let mut session = test.open().await;
    let error = session.apply(&table, &plan).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DatabaseRefused);
    assert!(error.to_string().contains("SQLSTATE 22012"), "{error}");
    assert!(!session.observe(&table, None).await.unwrap().schema_exists);
}

pub async fn created_from_nothing_and_then_left_alone(test: &Test) {
    let table = test.table("readings");
    let schema = &test.schema;
    assert_eq!(
        test.bring_about(&table).await,
        [
            format!("schema {schema} created"),
            format!("table {schema}.readings created"),
            format!("table {schema}.readings_dead_letters created"),
        ]
    );
    assert_eq!(test.plan(&table).await, TablePlan::default());

    let observed = test.observe(&table).await;
    assert_eq!(observed.marker, Some(test.pipeline.clone()));
    assert_eq!(observed.edition(), Some(test.edition));
    let readings = observed.table.unwrap();
    let hypertable = readings.hypertable.unwrap();
    assert_eq!((hypertable.time_column.as_str(), hypertable.chunk_interval), ("time", Some(DAY)));
    assert_eq!(readings.indexes.len(), 1);
    let dead_letters = observed.dead_letters.unwrap();
    assert_eq!(dead_letters.hypertable.unwrap().chunk_interval, Some(7 * DAY));
    assert_eq!(dead_letters.indexes.len(), 1);

    // What the workers will write fits.
    test.sql(&format!(
        "INSERT INTO {schema}.readings VALUES (now(), 'a', 1.5, '{{}}');
         INSERT INTO {schema}.readings_dead_letters
           (reason, stage, error, topic, partition, \"offset\", key, headers, payload, payload_bytes, payload_sha256)
           VALUES ('r', 's', 'e', 't', 0, 1, NULL, '{{}}', '\\x00', 1, '\\x00');
         INSERT INTO {schema}._iotpipeline_positions (table_name, kafka_cluster_id, topic, partition, next_offset)
           VALUES ('readings', 'k', 't', 0, 7)"
    ))
    .await;
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // A table that a person dropped comes back, empty and without positions: nothing in it is a row.
    test.sql(&format!("DROP TABLE {schema}.readings")).await;
    assert_eq!(test.bring_about(&table).await, [format!("table {schema}.readings created")]);
    assert_eq!(test.number(&format!("SELECT count(*) FROM {schema}._iotpipeline_positions")).await, 0);
}

pub async fn columns_are_added_and_never_changed(test: &Test) {
    let mut table = test.table("readings");
    let column = |name: &str, column_type, nullable| Column {
        name: SqlIdent::parse(name).unwrap(),
        column_type,
        nullable,
    };
    test.bring_about(&table).await;

    // Still empty: even NOT NULL can be added, and taken back.
    table.columns.push(column("line", ColumnType::Text, false));
    assert_eq!(test.bring_about(&table).await, [format!("table {table}: column line set to text")]);
    table.columns[2].nullable = false;
    assert_eq!(test.bring_about(&table).await.len(), 1);
    table.columns[2].nullable = true;
    assert_eq!(test.bring_about(&table).await.len(), 1);
    test.sql(&format!("INSERT INTO {table} (time, device, line) VALUES (now(), 'a', 'b')")).await;

    table.columns.push(column("pressure", ColumnType::Real, true));
    table.columns.push(column("serial", ColumnType::Uuid, false));
    let refused = test.plan(&table).await;
    assert_eq!(refused.refusals.len(), 1);
    assert_eq!(refused.refusals[0].reason, Reason::TableChangeRefused);
    assert!(refused.refusals[0].message.contains("column serial"), "{refused:?}");
    assert_eq!(test.bring_about(&table).await, [format!("table {table}: column pressure set to real")]);
    table.columns.pop();
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // Another type.
    table.columns[2].column_type = ColumnType::Text;
    let refused = test.plan(&table).await;
    assert_eq!((refused.steps.len(), refused.refusals.len()), (0, 1));
    assert!(refused.refusals[0].message.contains("has type double precision"), "{refused:?}");
    table.columns[2].column_type = ColumnType::DoublePrecision;

    // No longer named: a nullable column stays, one that every row needs is refused, and the SQL helps.
    table.columns.retain(|column| column.name.as_str() != "pressure");
    assert_eq!(test.plan(&table).await, TablePlan::default());
    table.columns.retain(|column| column.name.as_str() != "line");
    let refused = test.plan(&table).await;
    let message = &refused.refusals[0].message;
    assert_eq!(refused.refusals[0].reason, Reason::TableChangeRefused);
    test.sql(message.split_once("run: ").unwrap().1).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table} WHERE line = 'b'")).await, 1);
}

pub async fn indexes_and_chunk_interval_are_repaired(test: &Test) {
    let mut table = test.table("readings");
    let schema = &test.schema;
    test.bring_about(&table).await;
    test.sql(&format!(
        "DROP INDEX {schema}.readings_device_time_desc_idx;
         CREATE INDEX mine ON {table} (temperature);
         SELECT public.set_chunk_time_interval('{table}', INTERVAL '3 days')"
    ))
    .await;
    assert_eq!(
        test.bring_about(&table).await,
        [
            format!("table {table}: chunk interval changed from 3 days to 1 day"),
            format!("table {table}: index set to readings_device_time_desc_idx"),
        ]
    );
    // An index under another name serves as well, and the unmanaged one is still there.
    test.sql(&format!("ALTER INDEX {schema}.readings_device_time_desc_idx RENAME TO another")).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    assert_eq!(
        test.number(&format!(
            "SELECT count(*) FROM pg_indexes WHERE schemaname = '{schema}' AND indexname = 'mine'"
        ))
        .await,
        1
    );

    // Long names are cut to what PostgreSQL takes, and recognised again.
    let long = Column {
        name: SqlIdent::parse(&"x".repeat(63)).unwrap(),
        column_type: ColumnType::Bigint,
        nullable: true,
    };
    wanted(&mut table).indexes.push(Index { columns: vec![(long.name.clone(), SortOrder::Ascending)] });
    table.columns.push(long);
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());

    wanted(&mut table).chunk_interval = 2 * DAY;
    assert_eq!(test.bring_about(&table).await.len(), 1);
    assert_eq!(test.plan(&table).await, TablePlan::default());
}

pub async fn a_natural_key_is_made_repaired_and_not_changed_in_silence(test: &Test) {
    let mut table = test.table("readings");
    let key = |names: &[&str]| names.iter().map(|name| SqlIdent::parse(name).unwrap()).collect::<Vec<_>>();
    let index = format!("{}.readings_device_time_key", test.schema);
    let set = format!("table {table}: unique index set to readings_device_time_key");
    table.unique_by = key(&["device", "time"]);
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    test.sql(&format!("INSERT INTO {table} (time, device) VALUES (now(), 'a'), (now(), 'b')")).await;

    // Dropped by somebody, and made again although there are rows.
    test.sql(&format!("DROP INDEX {index}")).await;
    assert_eq!(test.bring_about(&table).await, [set.as_str()]);
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // Another key, or none: the SQL of the message leads on.
    for other in [key(&["time"]), Vec::new()] {
        table.unique_by = other;
        let refused = test.plan(&table).await;
        assert_eq!((refused.steps.len(), refused.builds.len(), refused.refusals.len()), (0, 0, 1));
        assert_eq!(refused.refusals[0].reason, Reason::TableChangeRefused);
        assert!(refused.refusals[0].message.contains("unique by device, time"), "{refused:?}");
    }
    let refused = test.plan(&table).await;
    test.sql(refused.refusals[0].message.split_once("run: ").unwrap().1).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // Rows that share it: the other changes are made, and the SQL of the message finds them.
    test.sql(&format!(
        "INSERT INTO {table} (time, device) SELECT time, device FROM {table} WHERE device = 'a'"
    ))
    .await;
    table.unique_by = key(&["device", "time"]);
    wanted(&mut table).chunk_interval = 2 * DAY;
    let plan = test.plan(&table).await;
    let mut session = test.open().await;
    session.apply(&table, &plan).await.unwrap();
    assert_eq!(session.build_index(&table, &plan.builds[0]).await.unwrap(), Built::Contradicted);
    session.close().await;
    let BuildKind::Unique { refusal } = &plan.builds[0].kind else { panic!("{plan:?}") };
    let after = test.plan(&table).await;
    assert_eq!((after.steps.len(), after.builds.len()), (0, 1), "{after:?}");
    let finds = refusal.message.split_once("finds them: ").unwrap().1.trim_end_matches(';').to_owned();
    assert_eq!(test.number(&format!("SELECT count(*) FROM ({finds}) AS found")).await, 1);
    test.sql(&format!("DELETE FROM {table} WHERE device = 'a'")).await;
    assert_eq!(test.bring_about(&table).await, [set.as_str()]);

    // One that a person made serves as well; one that leaves rows out does not.
    let mine = format!("{}.mine", test.schema);
    for (former, rest, builds) in [(&index, "INCLUDE (temperature)", 0), (&mine, "WHERE device <> 'a'", 1)] {
        test.sql(&format!("DROP INDEX {former}")).await;
        test.sql(&format!("CREATE UNIQUE INDEX mine ON {table} (time DESC, device) {rest}")).await;
        assert_eq!(test.plan(&table).await.builds.len(), builds, "{rest}");
    }

    // Long names are cut to what PostgreSQL takes, and recognised again.
    let long = Column {
        name: SqlIdent::parse(&"x".repeat(63)).unwrap(),
        column_type: ColumnType::Bigint,
        nullable: true,
    };
    table.unique_by = vec![table.time_column.clone(), long.name.clone()];
    table.columns.push(long);
    test.sql(&format!("DROP INDEX {mine}")).await;
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    table.unique_by = Vec::new();
    assert_eq!(test.plan(&table).await.refusals.len(), 1);
}
