//! Tables that are there and nobody's are taken over, and never deleted; of others goes what shall go.

use crds::status::Reason;
use operator::change::Approvals;
use operator::{
    pipeline::Table,
    timescale::{TableDeletion, TablePlan, plan},
};

use super::support::{ALL, DAY, Test, wanted};

pub async fn a_table_of_nobody_is_adopted_and_never_deleted(test: &Test) {
    let mut table = test.table("readings");
    let schema = &test.schema;
    test.sql(&format!(
        "CREATE SCHEMA {schema};
         CREATE TABLE {table} (time timestamptz NOT NULL, device text NOT NULL, temperature double precision, note text);
         SELECT public.create_hypertable('{table}', public.by_range('time', INTERVAL '3 days'));
         INSERT INTO {table} VALUES (now() - INTERVAL '400 days', 'a', 1, 'x'), (now(), 'a', 2, 'y')"
    ))
    .await;
    let refused = test.plan(&table).await;
    assert_eq!((refused.steps.len(), refused.refusals[0].reason), (0, Reason::TableNotOwned));
    assert!(refused.refusals[0].message.contains("adoptionPolicy: Adopt"), "{refused:?}");

    wanted(&mut table).adopt = true;
    wanted(&mut table).drop_after = Some(30 * DAY);
    let changes = test.bring_about(&table).await;
    assert_eq!(
        changes,
        [
            format!("table {table}: ownership changed from nobody's to adopted"),
            format!("table {table}: column extra set to jsonb"),
            format!("table {table}: chunk interval changed from 3 days to 1 day"),
            format!("table {table}_dead_letters created"),
            format!("table {table}: index set to readings_device_time_desc_idx"),
        ]
    );
    // The older row goes only with an approval, and nothing else is left.
    let waits = test.plan(&table).await;
    assert_eq!((waits.steps.len(), waits.builds.len(), waits.held.len()), (0, 0, 1), "{waits:?}");
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table} WHERE note IN ('x', 'y')")).await, 2);

    test.sql(&format!(
        "INSERT INTO {schema}._iotpipeline_positions (table_name, kafka_cluster_id, topic, partition, next_offset)
           VALUES ('readings', 'k', 't', 0, 7)"
    ))
    .await;
    let mut session = test.open().await;
    let deleted = session.delete_table(&table, &test.pipeline, ALL).await.unwrap();
    session.close().await;
    assert_eq!(deleted.adopted, [format!("table {table}")]);
    let gone: Vec<_> = deleted.changes.iter().map(ToString::to_string).collect();
    assert_eq!(gone, [format!("table {table}_dead_letters deleted")], "what the pipeline created");
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table}")).await, 2);
    assert_eq!(test.number(&format!("SELECT count(*) FROM {schema}._iotpipeline_positions")).await, 1);

    // A pipeline of the same name goes on with it, and one of another name does not get it.
    wanted(&mut table).drop_after = None;
    assert_eq!(test.bring_about(&table).await, [format!("table {table}_dead_letters created")]);
    assert_eq!(test.plan(&table).await, TablePlan::default());
    let other = crds::worker::PipelineId { name: "other".into(), ..test.pipeline.clone() };
    let theirs = plan(&table, &other, &test.observe(&table).await, &Approvals::default());
    assert_eq!((theirs.steps.len(), theirs.refusals[0].reason), (0, Reason::ResourceConflict));
    let mut session = test.open().await;
    assert_eq!(session.delete_table(&table, &test.pipeline, ALL).await.unwrap().adopted.len(), 1);
    session.close().await;
}

pub async fn table_and_dead_letters_go_apart(test: &Test) {
    let table = test.table("readings");
    let delete = async |wanted: TableDeletion| -> Vec<String> {
        let mut session = test.open().await;
        let deleted = session.delete_table(&table, &test.pipeline, wanted).await.unwrap();
        session.close().await;
        assert_eq!(deleted.adopted, [""; 0]);
        deleted.changes.iter().map(ToString::to_string).collect()
    };
    test.bring_about(&table).await;
    fill(test, &table).await;

    // The dead letters alone.
    let dead_letters_deleted = format!("table {table}_dead_letters deleted");
    assert_eq!(delete(TableDeletion { table: false, ..ALL }).await, [dead_letters_deleted.as_str()]);
    assert_eq!(counts(test, &table).await, [1, 1], "rows and positions stay");
    assert_eq!(test.bring_about(&table).await, [format!("table {table}_dead_letters created")]);
    fill(test, &table).await;

    // The table alone: its dead letters can still be read, and are kept by whoever comes back under this name.
    let deleted = delete(TableDeletion { dead_letters: false, ..ALL }).await;
    assert_eq!(deleted, [format!("table {table} deleted")]);
    let positions = format!("SELECT count(*) FROM {}._iotpipeline_positions", test.schema);
    assert_eq!(test.number(&positions).await, 0);
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table}_dead_letters")).await, 1);
    assert_eq!(test.bring_about(&table).await, [format!("table {table} created")]);
    assert_eq!(test.plan(&table).await, TablePlan::default());
    assert_eq!(test.number(&format!("SELECT count(*) FROM {table}_dead_letters")).await, 1);

    assert_eq!(delete(ALL).await, [dead_letters_deleted, format!("table {table} deleted")]);
    assert_eq!(test.observe(&table).await.bookkeeping_version, 0);
}

async fn fill(test: &Test, table: &Table) {
    test.sql(&format!(
        "TRUNCATE {table};
         INSERT INTO {table} (time, device) VALUES (now(), 'a');
         INSERT INTO {table}_dead_letters
           (reason, stage, error, topic, partition, \"offset\", payload_bytes, payload_sha256)
           VALUES ('r', 's', 'e', 't', 0, 1, 1, '\\x00');
         INSERT INTO {}._iotpipeline_positions (table_name, kafka_cluster_id, topic, partition, next_offset)
           VALUES ('readings', 'k', 't', 0, 7) ON CONFLICT DO NOTHING",
        test.schema
    ))
    .await;
}

/// How many rows and positions there are.
async fn counts(test: &Test, table: &Table) -> [i64; 2] {
    let rows = test.number(&format!("SELECT count(*) FROM {table}")).await;
    let positions = format!("SELECT count(*) FROM {}._iotpipeline_positions", test.schema);
    [rows, test.number(&positions).await]
}
