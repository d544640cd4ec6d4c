//! Tables that somebody else keeps.

use crds::{status::Reason, worker::PipelineId};
use operator::{
    change::Approvals,
    kafka::TopicKey,
    pipeline::{SqlIdent, Table, TopicName},
    timescale::{TablePlan, plan},
};

use super::support::{ALL, Test};

#[tokio::test]
async fn apache2_a_role_with_few_rights_is_told_the_sql_and_needs_no_more() {
    let test = Test::apache2().await;
    let user = test.database_of_a_role("user", "CONNECT").await;
    let table = external(&Test { schema: SqlIdent::parse("theirs").unwrap(), ..user.clone() });
    let superuser = user.as_superuser();
    let plan = user.plan(&table).await;
    assert_eq!(plan.refusals[0].reason, Reason::ExtensionMissing, "{plan:?}");
    superuser.sql("CREATE EXTENSION timescaledb").await;
    superuser.sql(&their_table("theirs")).await;

    let expected =
        ["GRANT USAGE, CREATE ON SCHEMA \"theirs\" TO", "GRANT INSERT ON \"theirs\".\"readings\" TO"];
    user.grant_what_the_refusal_says(&table, &expected).await;
    user.bring_about(&table).await;
    assert_eq!(user.plan(&table).await, TablePlan::default());
    // With a natural key its role reads the table too.
    let keyed = Table { unique_by: vec![table.time_column.clone()], ..table.clone() };
    superuser.sql("CREATE UNIQUE INDEX ON theirs.readings (time)").await;
    user.grant_what_the_refusal_says(&keyed, &["GRANT SELECT ON \"theirs\".\"readings\" TO"]).await;
    assert_eq!(user.plan(&keyed).await, TablePlan::default());
    assert!(!user.observe(&table).await.table.unwrap().owned);
    user.finish().await;
}

pub async fn a_table_of_somebody_else_is_checked_and_left_as_it_is(test: &Test) {
    let table = external(test);
    let schema = &test.schema;
    let unfit = |plan: TablePlan, part: &str| {
        assert_eq!((plan.steps.len(), plan.refusals.len()), (0, 1), "{plan:?}");
        assert_eq!(plan.refusals[0].reason, Reason::TableUnfit);
        assert!(plan.refusals[0].message.contains(part), "{plan:?}");
        plan.refusals[0].message.clone()
    };
    unfit(test.plan(&table).await, "does not exist");
    test.sql(&format!("CREATE SCHEMA {schema}; CREATE VIEW {schema}.readings AS SELECT 1 AS x")).await;
    unfit(test.plan(&table).await, "no table, so no hypertable");
    test.sql(&format!("DROP SCHEMA {schema} CASCADE")).await;
    test.sql(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.readings (time timestamptz NOT NULL)"))
        .await;
    let message = unfit(test.plan(&table).await, "is no hypertable");
    let sql = message.split_once("run: ").unwrap().1;
    test.sql(&format!("SET search_path = public; {sql}")).await;
    assert!(test.observe(&table).await.is_hypertable());
    test.sql(&format!("DROP SCHEMA {schema} CASCADE")).await;
    test.sql(&their_table(schema.as_str())).await;

    for (break_it, part, mend_it) in [
        ("ALTER COLUMN temperature SET NOT NULL", "column temperature", None),
        ("ADD COLUMN line text NOT NULL", "column line", Some("ALTER COLUMN line SET DEFAULT ''")),
        ("DROP COLUMN extra", "no column extra", None),
    ] {
        test.sql(&format!("ALTER TABLE {table} {break_it}")).await;
        let message = unfit(test.plan(&table).await, part);
        // Whoever runs the SQL of the message has helped.
        let said = message.split_once("run: ").map(|(_, sql)| sql.to_owned());
        let mended = mend_it.map(|action| format!("ALTER TABLE {table} {action}"));
        test.sql(&said.or(mended).unwrap()).await;
    }
    test.sql(&format!("ALTER TABLE {table} RENAME COLUMN temperature TO celsius")).await;
    test.sql(&format!(
        "ALTER TABLE {table} ADD COLUMN temperature double precision GENERATED ALWAYS AS (celsius) STORED"
    ))
    .await;
    unfit(test.plan(&table).await, "computed");
    test.sql(&format!("ALTER TABLE {table} DROP COLUMN temperature")).await;
    test.sql(&format!("ALTER TABLE {table} RENAME COLUMN celsius TO temperature")).await;

    let keyed = Table { unique_by: vec![table.time_column.clone()], ..table.clone() };
    let message = unfit(test.plan(&keyed).await, "no unique index on exactly the columns time");
    test.sql(message.split_once("run: ").unwrap().1).await;
    assert_eq!(test.plan(&keyed).await.refusals, []);

    let before = test.observe(&table).await;
    assert_eq!(before.bookkeeping_version, 0, "nothing is made beside a table that does not fit");
    assert_eq!(test.bring_about(&table).await, [format!("table {schema}.readings_dead_letters created")]);
    assert_eq!(test.plan(&table).await, TablePlan::default());
    let after = test.observe(&table).await;
    assert_eq!((after.table, after.marker), (before.table, None));

    // Beside a table of dead letters that is not ours.
    test.sql(&format!(
        "DROP TABLE {schema}._iotpipeline_tables, {schema}._iotpipeline_version, {schema}._iotpipeline_feeds"
    ))
    .await;
    let plan = test.plan(&table).await;
    assert_eq!((plan.steps.len(), plan.refusals[0].reason), (0, Reason::TableNotOwned), "{plan:?}");
}

pub async fn one_pipeline_feeds_a_table_from_a_topic(test: &Test) {
    let table = external(test);
    let schema = &test.schema;
    let topic = |name: &str| TopicKey { cluster_id: "k1".into(), topic: TopicName::parse(name).unwrap() };
    let second = PipelineId { name: "second".into(), ..test.pipeline.clone() };
    test.sql(&their_table(schema.as_str())).await;
    test.bring_about_from(&table, &test.pipeline, &topic("a")).await;
    assert_eq!(test.plan_from(&table, &test.pipeline, &topic("a")).await, TablePlan::default());

    let refused = test.plan_from(&table, &second, &topic("a")).await;
    assert_eq!(
        (refused.steps.len(), refused.refusals[0].reason),
        (0, Reason::ResourceConflict),
        "{refused:?}"
    );
    test.bring_about_from(&table, &second, &topic("b")).await;
    assert_eq!(test.plan_from(&table, &second, &topic("b")).await, TablePlan::default());
    // Two that look at the same time: one of them is first.
    let mut session = test.open().await;
    let observed = session.observe(&table, Some(&topic("c"))).await.unwrap();
    session.apply(&table, &plan(&table, &test.pipeline, &observed, &Approvals::default())).await.unwrap();
    let late =
        session.apply(&table, &plan(&table, &second, &observed, &Approvals::default())).await.unwrap_err();
    assert!(late.to_string().contains("the next try looks again"), "{late}");
    session.close().await;

    // What the refusal says hands the topic over.
    let message = &refused.refusals[0].message;
    test.sql(message.split_once("run: ").unwrap().1).await;
    test.bring_about_from(&table, &second, &topic("a")).await;

    // The table stays, with its rows and positions; the dead letters go with the pipeline that made them, but not
    // while others need them.
    test.sql(&format!(
        "INSERT INTO {table} (time, device) VALUES (now(), 'a');
         INSERT INTO {schema}._iotpipeline_positions (table_name, kafka_cluster_id, topic, partition, next_offset)
           VALUES ('readings', 'k1', 'a', 0, 7)"
    ))
    .await;
    let mut session = test.open().await;
    assert_eq!(session.delete_table(&table, &test.pipeline, ALL).await.unwrap().changes, []);
    assert_eq!(session.delete_table(&table, &second, ALL).await.unwrap().changes, []);
    let changes = session.delete_table(&table, &test.pipeline, ALL).await.unwrap().changes;
    assert_eq!(changes[0].to_string(), format!("table {schema}.readings_dead_letters deleted"));
    let left = session.observe(&table, Some(&topic("a"))).await.unwrap();
    assert_eq!((left.dead_letters, left.feed.unwrap().pipeline), (None, None));
    assert_eq!(session.positions(&table, &topic("a")).await.unwrap().len(), 1);
    session.close().await;
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table}")).await, 1);
}

pub fn external(test: &Test) -> Table {
    Table { wanted: None, ..test.table("readings") }
}

/// A hypertable that fits, with more than the pipeline needs.
pub fn their_table(schema: &str) -> String {
    format!(
        "CREATE SCHEMA {schema};
         CREATE TABLE {schema}.readings (id bigint GENERATED ALWAYS AS IDENTITY, time timestamptz NOT NULL, device text,
           temperature double precision, extra jsonb, line text NOT NULL DEFAULT '');
         ALTER TABLE {schema}.readings DROP COLUMN line;
         SELECT public.create_hypertable('{schema}.readings', public.by_range('time', INTERVAL '3 days'));
         INSERT INTO {schema}.readings (time) VALUES (now() - INTERVAL '40 days');
         DELETE FROM {schema}.readings"
    )
}
