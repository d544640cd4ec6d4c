//! The operator's own tables, of this version and of others.

use crds::status::Reason;
use operator::timescale::{Retention, TablePlan};

use super::support::{ALL, DAY, Test, wanted};

#[tokio::test]
async fn apache2_what_a_newer_operator_keeps_is_left_alone() {
    let test = Test::apache2().await;
    let table = test.table("readings");
    test.bring_about(&table).await;
    test.sql(&format!(
        "UPDATE {schema}._iotpipeline_version SET version = 99;
         ALTER TABLE {schema}._iotpipeline_tables RENAME COLUMN pipeline TO pipeline_name",
        schema = test.schema
    ))
    .await;
    let plan = test.plan(&table).await;
    assert_eq!((plan.steps.len(), plan.refusals[0].reason), (0, Reason::DatabaseRefused), "{plan:?}");
    test.finish().await;
}

#[tokio::test]
async fn apache2_a_role_that_may_not_migrate_is_told_the_sql() {
    let test = Test::apache2().await;
    let table = test.table("readings");
    let other = test.database_of_a_role("other", "CONNECT").await;
    let superuser = other.as_superuser();
    superuser.sql("CREATE EXTENSION timescaledb").await;
    superuser.bring_about(&table).await;
    superuser.sql(&first_version(&other)).await;
    other.grant_what_the_refusal_says(&table, &["GRANT USAGE, CREATE ON SCHEMA"]).await;
    let owner = format!("ALTER TABLE \"{}\".\"readings\" OWNER TO", test.schema);
    other.grant_what_the_refusal_says(&table, &["ADD COLUMN IF NOT EXISTS drop_after_seconds", &owner]).await;
    other.grant_what_the_refusal_says(&table, &["ON \"", "_iotpipeline_feeds\" TO"]).await;
    assert_eq!(other.bring_about(&table).await, [""; 0]);
    assert_eq!(other.plan(&table).await, TablePlan::default());
    other.finish().await;
}

pub async fn an_older_version_is_brought_up(test: &Test) {
    let mut table = test.table("readings");
    wanted(&mut table).drop_after = Some(90 * DAY);
    test.bring_about(&table).await;
    test.sql(&first_version(test)).await;
    let observed = test.observe(&table).await;
    assert_eq!(observed.bookkeeping_version, 1);
    assert_eq!([observed.marker, observed.dead_letter_marker], [(); 2].map(|()| Some(test.pipeline.clone())));

    assert_eq!(test.bring_about(&table).await, [""; 0]);
    let observed = test.observe(&table).await;
    assert_eq!(observed.bookkeeping_version, 5);
    assert_eq!(observed.retention.applied, Some(Retention::For(90 * DAY)));
    assert_eq!(observed.dead_letter_marker, Some(test.pipeline.clone()));
    assert_eq!(observed.dead_letter_retention.applied, Some(Retention::ForEver));
    assert_eq!(test.plan(&table).await, TablePlan::default());

    // A pipeline may be deleted before it was looked at by the new operator.
    test.sql(&first_version(test)).await;
    let mut session = test.open().await;
    assert_eq!(session.delete_table(&table, &test.pipeline, ALL).await.unwrap().changes.len(), 2);
    assert_eq!(session.observe(&table, None).await.unwrap().bookkeeping_version, 0);
    session.close().await;
}

/// Makes of the current bookkeeping what version 1 made.
fn first_version(test: &Test) -> String {
    format!(
        "DELETE FROM {schema}._iotpipeline_tables WHERE is_dead_letters;
         ALTER TABLE {schema}._iotpipeline_tables DROP COLUMN drop_after_seconds, DROP COLUMN is_dead_letters, DROP COLUMN adopted,
           DROP COLUMN rollup_of, DROP COLUMN definition, DROP COLUMN filled_to, DROP COLUMN is_filled;
         ALTER TABLE {schema}._iotpipeline_topics DROP COLUMN adopted;
         DROP TABLE {schema}._iotpipeline_feeds;
         UPDATE {schema}._iotpipeline_version SET version = 1",
        schema = test.schema
    )
}
