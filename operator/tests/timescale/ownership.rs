//! Whose a table and a topic are: what is somebody else's is refused, and only what is the pipeline's own is deleted.

use crds::{status::Reason, worker::PipelineId};
use operator::{
    change::{Approvals, Change},
    kafka::TopicKey,
    pipeline::TopicName,
    timescale::{Position, TablePlan, plan},
};

use super::support::{ALL, Test};

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
