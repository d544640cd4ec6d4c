//! What roles may do: the operator's own is told what it lacks, and that of the workers is granted what it needs and no more.

use operator::{
    change::Approvals,
    pipeline::{SqlIdent, Table},
    timescale::{Edition, TablePlan, plan},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::support::{Test, unique};

/// What the processor runs, in the order in which it does.
const WORK: [&str; 5] = [
    "SELECT partition, next_offset FROM {schema}._iotpipeline_positions WHERE table_name = 'readings'",
    "INSERT INTO {schema}._iotpipeline_positions (table_name, kafka_cluster_id, topic, partition, next_offset) \
       SELECT 'readings', 'k', 't', start.partition, 0 FROM unnest(ARRAY[0, 1]) AS start(partition) ON CONFLICT DO NOTHING",
    "INSERT INTO {schema}.readings_dead_letters \
       (reason, stage, error, topic, partition, \"offset\", key, headers, payload, payload_bytes, payload_sha256) \
       SELECT 'r', 's', 'e', 't', 0, 1, NULL, '{}'::jsonb, '\\x00', 1, '\\x00'",
    "UPDATE {schema}._iotpipeline_positions AS position SET next_offset = batch.next_offset, updated_at = now() \
       FROM unnest(ARRAY[0], ARRAY[7]) AS batch(partition, next_offset) \
       WHERE position.table_name = 'readings' AND position.partition = batch.partition",
    "INSERT INTO {schema}.readings (time, device) VALUES (now(), 'a')",
];

/// And what it runs with a natural key.
const KEYED_WORK: [&str; 2] = [
    "INSERT INTO {schema}.readings (time, device) \
       SELECT * FROM unnest(ARRAY['2026-01-01T00:00:00Z'::timestamptz, '2026-05-01T00:00:00Z'], ARRAY['b', 'b']) \
       ON CONFLICT (device, time) DO NOTHING",
    "SELECT stored.temperature IS DISTINCT FROM 1 FROM unnest(ARRAY['2026-01-01T00:00:00Z'::timestamptz]) AS batch(time) \
       CROSS JOIN LATERAL (SELECT * FROM {schema}.readings AS stored WHERE stored.time = batch.time OFFSET 0) AS stored",
];

/// What it has no business with.
const MISCHIEF: [&str; 9] = [
    "CREATE TABLE {schema}.x (x int)",
    "CREATE SCHEMA x",
    "ALTER TABLE {schema}.readings ADD COLUMN x int",
    "DROP TABLE {schema}.readings",
    "TRUNCATE {schema}.readings",
    "SELECT * FROM {schema}.readings",
    "DELETE FROM {schema}._iotpipeline_positions",
    "UPDATE {schema}._iotpipeline_tables SET pipeline = 'x'",
    "SELECT public.drop_chunks('{schema}.readings', INTERVAL '1 second')",
];

#[tokio::test]
async fn apache2_workers_of_another_role_move_rows_and_do_nothing_else() {
    let test = Test::apache2().await.database_of_a_role("admin", "OWNER").await;
    let writer = format!("writer_{}", unique());
    let mut table = test.table("readings");
    table.writer = writer.clone();

    // The role is missing: everything else is made, and the SQL in the message makes it.
    test.bring_about(&table).await;
    let missing = test.plan(&table).await;
    let message = &missing.refusals[0].message;
    assert!(message.contains(&format!("role {writer} of timescale.secretRef does not exist")), "{message}");
    test.sql(message.split_once("Secret: ").unwrap().1).await;
    test.sql(&format!("ALTER ROLE {writer} PASSWORD 'x'")).await;
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());

    let mut session = login(&test, &writer).await;
    let mut copy = session.copy_in_raw(&format!("COPY {table} (time, device) FROM STDIN")).await.unwrap();
    copy.send("2026-01-01T00:00:00Z\tb\n2026-03-01T00:00:00Z\tb\n".as_bytes()).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 2, "into chunks that are made by it");
    for statement in WORK {
        let sql = statement.replace("{schema}", test.schema.as_str());
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.unwrap();
    }
    for statement in MISCHIEF {
        let sql = statement.replace("{schema}", test.schema.as_str());
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.unwrap_err();
        assert_eq!(
            error.as_database_error().unwrap().code().as_deref(),
            Some("42501"),
            "{statement}: {error}"
        );
    }
    session.close().await.unwrap();

    // With a natural key it compares rows with those that are there, and still does nothing else.
    table.unique_by = ["device", "time"].map(|name| SqlIdent::parse(name).unwrap()).into();
    assert_eq!(
        test.bring_about(&table).await,
        [
            format!("table {table}: rights of role {writer} set to SELECT"),
            format!("table {table}: unique index set to readings_device_time_key"),
        ]
    );
    let mut session = login(&test, &writer).await;
    for statement in KEYED_WORK {
        let sql = statement.replace("{schema}", test.schema.as_str());
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.unwrap();
    }
    for statement in MISCHIEF.iter().filter(|statement| !statement.starts_with("SELECT *")) {
        let sql = statement.replace("{schema}", test.schema.as_str());
        assert!(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.is_err(), "{statement}");
    }
    session.close().await.unwrap();
    test.clone().finish().await;
    let server = Test::apache2().await;
    server.sql(&format!("DROP ROLE {writer}")).await;
}

#[tokio::test]
async fn apache2_what_the_operator_may_not_grant_is_told() {
    let test = Test::apache2().await;
    let admin = test.database_of_a_role("admin", "CONNECT").await;
    let superuser = admin.as_superuser();
    let table = test.table("readings");
    superuser.sql("CREATE EXTENSION timescaledb").await;
    superuser.bring_about(&test.table("older")).await;
    superuser
        .sql(&format!("GRANT USAGE, CREATE ON SCHEMA {} TO {}", test.schema, admin.access.username))
        .await;
    let bookkeeping = ["version", "tables", "topics", "positions", "feeds"]
        .map(|table| format!("{}._iotpipeline_{table}", test.schema))
        .join(", ");
    superuser
        .sql(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {bookkeeping} TO {}", admin.access.username))
        .await;
    let writer = format!("writer_{}", unique());
    superuser.sql(&format!("CREATE ROLE {writer}")).await;
    let table = Table { writer: writer.clone(), ..table };
    admin
        .grant_what_the_refusal_says(&table, &["GRANT USAGE ON SCHEMA", "GRANT SELECT, INSERT, UPDATE ON \""])
        .await;
    admin.bring_about(&table).await;
    assert_eq!(admin.plan(&table).await, TablePlan::default());
    admin.finish().await;
    test.sql(&format!("DROP ROLE {writer}")).await;
}

pub async fn another_role_is_granted_what_workers_need(test: &Test) {
    let writer = format!("writer_{}", unique());
    // A name that SQL could take for more than a name.
    let hostile = format!("{writer}\"; DROP TABLE readings;--");
    test.sql(&format!("CREATE ROLE {writer}; CREATE ROLE \"{writer}\"\"; DROP TABLE readings;--\"")).await;
    let mut table = test.table("readings");
    for role in [&writer, &hostile] {
        table.writer = role.clone();
        let changes = test.bring_about(&table).await;
        assert!(
            changes.contains(&format!("table {table}: rights of role {role} set to INSERT")),
            "{changes:?}"
        );
        assert_eq!(test.plan(&table).await, TablePlan::default());
    }

    // Somebody takes one away.
    table.writer = writer.clone();
    test.sql(&format!("REVOKE INSERT ON {table}_dead_letters FROM {writer}")).await;
    let mut session = test.open().await;
    let observed = session.observe(&table, None).await.unwrap();
    let plan = plan(&table, &test.pipeline, &observed, &Approvals::default());
    assert_eq!(plan.steps.len(), 1, "{plan:?}");
    session.apply(&table, &plan).await.unwrap();
    session.close().await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    test.sql(&format!(
        "DROP SCHEMA {} CASCADE; DROP ROLE {writer}; DROP ROLE \"{writer}\"\"; DROP TABLE readings;--\"",
        test.schema
    ))
    .await;
}

async fn login(test: &Test, role: &str) -> PgConnection {
    let access = access::database::DatabaseAccess {
        username: role.to_owned(),
        password: "x".to_owned(),
        ..test.access.clone()
    };
    PgConnection::connect_with(&access.options("iotpipeline-processor")).await.unwrap()
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
