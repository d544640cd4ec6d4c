//! Tables that the operator makes and keeps.

use crds::{pipeline::ColumnType, status::Reason, worker::PipelineId};
use operator::{
    change::{Approvals, Change},
    kafka::TopicKey,
    pipeline::{Column, Index, SortOrder, SqlIdent, Table, TopicName},
    timescale::{BuildKind, Built, Edition, Position, TablePlan, plan},
};

use super::support::{ALL, DAY, Test, wanted};

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

#[tokio::test]
async fn apache2_an_owner_gets_the_extension_and_all_the_rest() {
    let test = Test::apache2().await;
    let table = test.table("readings");
    let owner = test.database_of_a_role("owner", "OWNER").await;
    let first = owner.plan(&table).await;
    assert!(first.unfinished);
    assert_eq!(first.steps[0].changes[0].to_string(), "extension timescaledb created");
    owner.bring_about(&table).await;
    assert_eq!(owner.plan(&table).await, TablePlan::default());
    assert_eq!(owner.observe(&table).await.edition(), Some(Edition::Apache2));
    owner.finish().await;
}

#[tokio::test]
async fn apache2_a_role_without_rights_is_told_the_sql_that_helps() {
    let test = Test::apache2().await;
    let table = test.table("readings");
    let stranger = test.database_of_a_role("stranger", "CONNECT").await;

    // Nothing there yet: neither extension nor schema.
    stranger.grant_what_the_refusal_says(&table, &["CREATE EXTENSION", "CREATE SCHEMA"]).await;
    stranger.bring_about(&table).await;
    assert_eq!(stranger.plan(&table).await, TablePlan::default());

    // A schema of somebody else.
    let table = Table { schema: SqlIdent::parse("theirs").unwrap(), ..table };
    stranger.as_superuser().sql("CREATE SCHEMA theirs").await;
    stranger.grant_what_the_refusal_says(&table, &["GRANT USAGE, CREATE ON SCHEMA \"theirs\""]).await;
    stranger.bring_about(&table).await;

    // Our tables, made by another role.
    let superuser = stranger.as_superuser();
    let table =
        Table { name: SqlIdent::parse("older").unwrap(), schema: SqlIdent::parse("older").unwrap(), ..table };
    superuser.bring_about(&table).await;
    let expected = [
        "GRANT USAGE, CREATE ON SCHEMA",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON \"older\".\"_iotpipeline_feeds\", ",
        "\"older\".\"_iotpipeline_version\" TO",
    ];
    stranger.grant_what_the_refusal_says(&table, &expected).await;
    stranger
        .grant_what_the_refusal_says(&table, &["ALTER TABLE \"older\".\"older\" OWNER TO", "dead_letters"])
        .await;
    assert_eq!(stranger.plan(&table).await, TablePlan::default());
    stranger.finish().await;
}

#[tokio::test]
async fn apache2_two_pipelines_make_one_schema_at_once() {
    let test = Test::apache2().await;
    let names = ["a", "b", "c", "d"];
    let work = names.map(|name| {
        let test = test.clone();
        tokio::spawn(async move {
            let table = test.table(name);
            let pipeline = PipelineId { name: name.into(), ..test.pipeline.clone() };
            let mut session = test.open().await;
            let observed = session.observe(&table, None).await.unwrap();
            session.apply(&table, &plan(&table, &pipeline, &observed, &Approvals::default())).await.unwrap();
            let observed = session.observe(&table, None).await.unwrap();
            assert_eq!(plan(&table, &pipeline, &observed, &Approvals::default()), TablePlan::default());
        })
    });
    for result in work {
        result.await.unwrap();
    }
    let versions = format!("SELECT count(*) FROM {}._iotpipeline_version", test.schema);
    assert_eq!(test.number(&versions).await, 1);
    test.finish().await;
}

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

pub async fn what_is_not_ours_is_refused(test: &Test) {
    let refusal = |plan: TablePlan| {
        assert_eq!((plan.steps.len(), plan.refusals.len()), (0, 1), "{plan:?}");
        plan.refusals[0].reason
    };
    let schema = &test.schema;
    test.sql(&format!(
        "CREATE SCHEMA {schema};
         CREATE TABLE {schema}.a (x int);
         CREATE VIEW {schema}.b AS SELECT 1 AS x;
         CREATE TABLE {schema}.c_dead_letters (x int)"
    ))
    .await;
    for name in ["a", "b", "c"] {
        assert_eq!(refusal(test.plan(&test.table(name)).await), Reason::TableNotOwned, "{name}");
    }
    assert_eq!(test.number(&format!("SELECT count(*) FROM pg_class WHERE relname = '_iotpipeline_version' AND relnamespace = '{schema}'::regnamespace")).await, 0);

    let table = test.table("ours");
    test.bring_about(&table).await;
    let other = PipelineId { name: "other".into(), ..test.pipeline.clone() };
    assert_eq!(
        refusal(plan(&table, &other, &test.observe(&table).await, &Approvals::default())),
        Reason::ResourceConflict
    );

    // Ours by its marker, but somebody made something else of it.
    test.sql(&format!("DROP TABLE {table}; CREATE TABLE {table} (time timestamptz NOT NULL)")).await;
    assert_eq!(refusal(test.plan(&table).await), Reason::TableChangeRefused);
}

pub async fn only_our_own_is_deleted(test: &Test) {
    let (ours, theirs) = (test.table("ours"), test.table("theirs"));
    let other = PipelineId { name: "other".into(), ..test.pipeline.clone() };
    let schema = &test.schema;
    let mut session = test.open().await;
    assert_eq!(session.delete_table(&ours, &test.pipeline, ALL).await.unwrap().changes, []);
    for (table, pipeline) in [(&ours, &test.pipeline), (&theirs, &other)] {
        let observed = session.observe(table, None).await.unwrap();
        session.apply(table, &plan(table, pipeline, &observed, &Approvals::default())).await.unwrap();
    }
    assert_eq!(session.delete_table(&theirs, &test.pipeline, ALL).await.unwrap().changes, []);
    session.close().await;

    test.sql(&format!(
        "INSERT INTO {schema}._iotpipeline_positions (table_name, kafka_cluster_id, topic, partition, next_offset)
           VALUES ('ours', 'k', 't', 0, 7), ('theirs', 'k', 't', 0, 7);
         CREATE VIEW {schema}.report AS SELECT device FROM {ours}"
    ))
    .await;
    let mut session = test.open().await;
    let error = session.delete_table(&ours, &test.pipeline, ALL).await.unwrap_err();
    assert!(error.to_string().contains("drop that first"), "{error}");
    session.close().await;
    test.sql(&format!("DROP VIEW {schema}.report")).await;

    let mut session = test.open().await;
    let changes = session.delete_table(&ours, &test.pipeline, ALL).await.unwrap().changes;
    assert_eq!(
        changes.iter().map(Change::to_string).collect::<Vec<_>>(),
        [format!("table {ours}_dead_letters deleted"), format!("table {ours} deleted")]
    );
    assert_eq!(session.delete_table(&ours, &test.pipeline, ALL).await.unwrap().changes, []);
    let left = session.observe(&ours, None).await.unwrap();
    assert_eq!((left.table, left.dead_letters, left.marker), (None, None, None));
    let theirs_left = session.observe(&theirs, None).await.unwrap();
    assert_eq!(plan(&theirs, &other, &theirs_left, &Approvals::default()), TablePlan::default());
    session.close().await;
    assert_eq!(test.number(&format!("SELECT count(*) FROM {schema}._iotpipeline_positions")).await, 1);

    // With the last table goes the bookkeeping; the schema stays.
    let mut session = test.open().await;
    assert_eq!(session.delete_table(&theirs, &other, ALL).await.unwrap().changes.len(), 2);
    let left = session.observe(&theirs, None).await.unwrap();
    assert_eq!((left.schema_exists, left.bookkeeping_version), (true, 0));
    session.close().await;
    assert_eq!(
        test.number(&format!("SELECT count(*) FROM pg_class WHERE relnamespace = '{schema}'::regnamespace"))
            .await,
        0
    );
}

pub async fn a_topic_is_claimed_once_and_released_with_its_positions(test: &Test) {
    let table = test.table("readings");
    let topic = TopicKey { cluster_id: "k1".into(), topic: TopicName::parse("plant.line").unwrap() };
    let other = PipelineId { name: "other".into(), ..test.pipeline.clone() };
    test.bring_about(&table).await;

    let mut session = test.open().await;
    for _ in 0..2 {
        session.claim_topic(&test.schema, &test.pipeline, &topic, false).await.unwrap();
    }
    let taken = session.claim_topic(&test.schema, &other, &topic, false).await.unwrap_err();
    assert_eq!(taken.reason(), Reason::ResourceConflict);
    assert!(taken.to_string().contains("c/n/p"), "{taken}");
    let observed = session.observe(&table, Some(&topic)).await.unwrap();
    assert_eq!(observed.topic_marker, Some(test.pipeline.clone()));
    let elsewhere = TopicKey { cluster_id: "k2".into(), ..topic.clone() };
    assert_eq!(session.observe(&table, Some(&elsewhere)).await.unwrap().topic_marker, None);
    session.close().await;

    test.sql(&format!(
        "INSERT INTO {}._iotpipeline_positions
           (table_name, kafka_cluster_id, topic, partition, next_offset, last_timestamp)
           VALUES ('readings', 'k1', 'plant.line', 0, 7, '2026-01-01T00:00:00.5Z'), ('readings', 'k1', 'plant.line', 3, 1, NULL),
                  ('readings', 'k2', 'plant.line', 0, 9, NULL)",
        test.schema
    ))
    .await;
    let mut session = test.open().await;
    let positions = session.positions(&table, &topic).await.unwrap();
    assert_eq!(
        positions.into_iter().collect::<Vec<_>>(),
        [
            (0, Position { next_offset: 7, last_timestamp: Some("2026-01-01T00:00:00.5Z".parse().unwrap()) }),
            (3, Position { next_offset: 1, last_timestamp: None }),
        ]
    );
    session.release_topic(&test.schema, &other, &topic).await.unwrap();
    assert_eq!(session.positions(&table, &topic).await.unwrap().len(), 2);
    session.release_topic(&test.schema, &test.pipeline, &topic).await.unwrap();
    assert_eq!(session.positions(&table, &topic).await.unwrap().len(), 0);
    assert_eq!(session.positions(&table, &elsewhere).await.unwrap().len(), 1);
    assert_eq!(session.observe(&table, Some(&topic)).await.unwrap().topic_marker, None);
    session.close().await;
}
