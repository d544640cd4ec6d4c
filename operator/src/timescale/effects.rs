//! What is changed in a database and what is read for the lag, each in one transaction. I/O.

use std::{collections::BTreeMap, time::Duration};

use crds::{
    names::{FEED_TABLE, MARKER_TABLE, POSITION_TABLE, TOPIC_MARKER_TABLE, dead_letter_table},
    status::ChangeClass,
    worker::PipelineId,
};
use jiff::Timestamp;
use sqlx::{Connection, PgConnection, Row};

use super::{
    Attempt, Position, TablePlan, bookkeeping,
    bookkeeping::{forget_feeds, forget_positions},
    execute::{lock_schema, run, statement, tables_exist},
    observe::{bookkeeping_version, dead_letter_marker, functions_schema, table_marker, topic_marker},
    retention::expired_chunks,
    rollups,
    sql::{identifier, interval, qualified, regclass},
};
use crate::{
    change::{Change, Refusal},
    kafka::TopicKey,
    pipeline::{SqlIdent, Table},
};

/// Whose a topic is after a claim.
pub(super) enum Claim {
    Ours,
    Taken(PipelineId),
}

pub(super) async fn apply(
    connection: &mut PgConnection,
    table: &Table,
    plan: &TablePlan,
) -> sqlx::Result<Vec<Refusal>> {
    if plan.steps.is_empty() && plan.attempts.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = connection.begin().await?;
    lock_schema(&mut transaction, table.schema.as_str()).await?;
    for step in &plan.steps {
        run(&mut transaction, step.sql.as_str()).await?;
    }
    let mut refusals = Vec::new();
    for Attempt { step, refusal } in &plan.attempts {
        let mut savepoint = transaction.begin().await?;
        match run(&mut savepoint, step.sql.as_str()).await {
            Ok(()) => savepoint.commit().await?,
            Err(error) if is_contradicted(&error) => {
                savepoint.rollback().await?;
                refusals.push(refusal.clone());
            }
            Err(error) => return Err(error),
        }
    }
    transaction.commit().await?;
    Ok(refusals)
}

/// Whether rows are not as a unique index wants them.
fn is_contradicted(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|answer| answer.is_unique_violation())
}

pub(super) async fn claim_topic(
    connection: &mut PgConnection,
    schema: &SqlIdent,
    pipeline: &PipelineId,
    topic: &TopicKey,
) -> sqlx::Result<Claim> {
    let mut transaction = connection.begin().await?;
    lock_schema(&mut transaction, schema.as_str()).await?;
    statement(format!(
        "INSERT INTO {} (kafka_cluster_id, topic, cluster_name, namespace, pipeline) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT DO NOTHING",
        qualified(schema.as_str(), TOPIC_MARKER_TABLE)
    ))
    .bind(topic.cluster_id.clone())
    .bind(topic.topic.as_str().to_owned())
    .bind(pipeline.cluster_name.clone())
    .bind(pipeline.namespace.clone())
    .bind(pipeline.name.clone())
    .execute(&mut *transaction)
    .await?;
    let owner = topic_marker(&mut transaction, schema.as_str(), topic).await?;
    transaction.commit().await?;
    Ok(owner.filter(|owner| owner != pipeline).map_or(Claim::Ours, Claim::Taken))
}

pub(super) async fn release_topic(
    connection: &mut PgConnection,
    schema: &SqlIdent,
    pipeline: &PipelineId,
    topic: &TopicKey,
) -> sqlx::Result<()> {
    let schema = schema.as_str();
    let mut transaction = connection.begin().await?;
    lock_schema(&mut transaction, schema).await?;
    if has_bookkeeping(&mut transaction, schema).await?
        && topic_marker(&mut transaction, schema, topic).await?.as_ref() == Some(pipeline)
    {
        for table in [POSITION_TABLE, FEED_TABLE, TOPIC_MARKER_TABLE] {
            statement(format!(
                "DELETE FROM {} WHERE kafka_cluster_id = $1 AND topic = $2",
                qualified(schema, table)
            ))
            .bind(topic.cluster_id.clone())
            .bind(topic.topic.as_str().to_owned())
            .execute(&mut *transaction)
            .await?;
        }
    }
    transaction.commit().await
}

pub(super) async fn drop_expired_chunks(
    connection: &mut PgConnection,
    schema: &SqlIdent,
    hypertable: &str,
    drop_after: Duration,
) -> sqlx::Result<Vec<Change>> {
    let Some(functions) = functions_schema(connection).await? else { return Ok(Vec::new()) };
    let chunks = statement(format!(
        "SELECT {}.drop_chunks({}, older_than => {})",
        identifier(&functions),
        regclass(schema.as_str(), hypertable),
        interval(drop_after)
    ))
    .fetch_all(connection)
    .await?;
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    let number = chunks.len();
    let object = format!("{number} {}", expired_chunks(schema, hypertable, drop_after));
    Ok(vec![Change::new(object, "", number.to_string(), "").classed(ChangeClass::Destructive)])
}

pub(super) async fn positions(
    connection: &mut PgConnection,
    table: &Table,
    topic: &TopicKey,
) -> sqlx::Result<BTreeMap<i32, Position>> {
    let schema = table.schema.as_str();
    if !tables_exist(connection, schema, &[POSITION_TABLE]).await? {
        return Ok(BTreeMap::new());
    }
    let rows = statement(format!(
        "SELECT partition, next_offset, (extract(epoch FROM last_timestamp) * 1000)::bigint AS last_timestamp \
         FROM {} WHERE table_name = $1 AND kafka_cluster_id = $2 AND topic = $3",
        qualified(schema, POSITION_TABLE)
    ))
    .bind(table.name.as_str().to_owned())
    .bind(topic.cluster_id.clone())
    .bind(topic.topic.as_str().to_owned())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let last_timestamp: Option<i64> = row.try_get("last_timestamp")?;
            let position = Position {
                next_offset: row.try_get("next_offset")?,
                last_timestamp: last_timestamp
                    .and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok()),
            };
            Ok((row.try_get("partition")?, position))
        })
        .collect()
}

pub(super) async fn delete_table(
    connection: &mut PgConnection,
    table: &Table,
    pipeline: &PipelineId,
) -> sqlx::Result<Vec<Change>> {
    let schema = table.schema.as_str();
    let mut transaction = connection.begin().await?;
    lock_schema(&mut transaction, schema).await?;
    if !has_bookkeeping(&mut transaction, schema).await? {
        return Ok(Vec::new());
    }
    let changes = match &table.wanted {
        Some(_) => delete_managed(&mut transaction, table, pipeline).await?,
        None => leave_external(&mut transaction, table, pipeline).await?.into_iter().collect(),
    };
    drop_unused_bookkeeping(&mut transaction, schema).await?;
    transaction.commit().await?;
    Ok(changes)
}

async fn delete_managed(
    connection: &mut PgConnection,
    table: &Table,
    pipeline: &PipelineId,
) -> sqlx::Result<Vec<Change>> {
    let (schema, name) = (table.schema.as_str(), table.name.as_str());
    if table_marker(connection, table).await?.as_ref() != Some(pipeline) {
        return Ok(Vec::new());
    }
    let mut changes = rollups::delete(connection, table).await?;
    // Without CASCADE: a view that somebody built on the table is theirs, and they are told.
    for hypertable in [dead_letter_table(name).as_str(), name] {
        run(connection, format!("DROP TABLE IF EXISTS {}", qualified(schema, hypertable))).await?;
        forget_marker(connection, schema, hypertable).await?;
    }
    run(connection, forget_positions(schema, name).sql).await?;
    run(connection, forget_feeds(schema, name)).await?;
    changes.push(deleted(table.to_string()));
    Ok(changes)
}

/// Leaves a table that is somebody else's: the pipeline's feeds go, and its dead letters where nobody else needs them.
async fn leave_external(
    connection: &mut PgConnection,
    table: &Table,
    pipeline: &PipelineId,
) -> sqlx::Result<Option<Change>> {
    let (schema, name) = (table.schema.as_str(), table.name.as_str());
    let feeds = qualified(schema, FEED_TABLE);
    statement(format!(
        "DELETE FROM {feeds} WHERE table_name = $1 AND cluster_name = $2 AND namespace = $3 AND pipeline = $4"
    ))
    .bind(name.to_owned())
    .bind(pipeline.cluster_name.clone())
    .bind(pipeline.namespace.clone())
    .bind(pipeline.name.clone())
    .execute(&mut *connection)
    .await?;
    let is_fed = statement(format!("SELECT EXISTS (SELECT FROM {feeds} WHERE table_name = $1)"))
        .bind(name.to_owned())
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if is_fed || dead_letter_marker(connection, table).await?.as_ref() != Some(pipeline) {
        return Ok(None);
    }
    let dead_letters = dead_letter_table(name);
    run(connection, format!("DROP TABLE IF EXISTS {}", qualified(schema, &dead_letters))).await?;
    forget_marker(connection, schema, &dead_letters).await?;
    Ok(Some(deleted(format!("{schema}.{dead_letters}"))))
}

async fn forget_marker(connection: &mut PgConnection, schema: &str, name: &str) -> sqlx::Result<()> {
    statement(format!("DELETE FROM {} WHERE table_name = $1", qualified(schema, MARKER_TABLE)))
        .bind(name.to_owned())
        .execute(connection)
        .await
        .map(drop)
}

fn deleted(table: String) -> Change {
    Change::new(format!("table {table}"), "", table, "").classed(ChangeClass::Destructive)
}

/// Whether there is bookkeeping in the schema; an older operator's is brought up first.
async fn has_bookkeeping(connection: &mut PgConnection, schema: &str) -> sqlx::Result<bool> {
    let version = bookkeeping_version(connection, schema).await?;
    if version == 0 {
        return Ok(false);
    }
    if let Some(migration) = bookkeeping::migrate(schema, version) {
        run(connection, migration.sql).await?;
    }
    Ok(true)
}

/// Drops the bookkeeping tables where no table, topic, feed or position is left in them and the role may.
async fn drop_unused_bookkeeping(connection: &mut PgConnection, schema: &str) -> sqlx::Result<()> {
    let [markers, topic_markers, positions, feeds] =
        [MARKER_TABLE, TOPIC_MARKER_TABLE, POSITION_TABLE, FEED_TABLE].map(|table| qualified(schema, table));
    let row = statement(format!(
        "SELECT NOT EXISTS (SELECT FROM {markers}) AND NOT EXISTS (SELECT FROM {topic_markers}) \
           AND NOT EXISTS (SELECT FROM {positions}) AND NOT EXISTS (SELECT FROM {feeds}) \
           AND (SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class \
                  JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                 WHERE nspname = $1 AND relname = ANY($2))"
    ))
    .bind(schema.to_owned())
    .bind(bookkeeping::TABLES.map(str::to_owned).to_vec())
    .fetch_one(&mut *connection)
    .await?;
    if row.try_get::<Option<bool>, _>(0)?.unwrap_or(false) {
        let tables = bookkeeping::TABLES.map(|table| qualified(schema, table)).join(", ");
        run(connection, format!("DROP TABLE {tables}")).await?;
    }
    Ok(())
}
