//! What is changed in a database and what is read for the lag, each in one transaction. I/O.

use std::{collections::BTreeMap, time::Duration};

use crds::{
    names::{FEED_TABLE, POSITION_TABLE, TOPIC_MARKER_TABLE},
    status::ChangeClass,
    worker::PipelineId,
};
use jiff::Timestamp;
use sqlx::{Connection, PgConnection, Row};

use super::{
    Position, TablePlan, bookkeeping,
    execute::{lock_schema, run, statement, tables_exist},
    observe::{bookkeeping_version, functions_schema, topic_marker},
    retention::expired_chunks,
    sql::{identifier, interval, qualified, regclass},
};
use crate::{
    change::Change,
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
) -> sqlx::Result<()> {
    if plan.steps.is_empty() {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    lock_schema(&mut transaction, table.schema.as_str()).await?;
    for step in &plan.steps {
        run(&mut transaction, step.sql.as_str()).await?;
    }
    transaction.commit().await
}

pub(super) async fn claim_topic(
    connection: &mut PgConnection,
    schema: &SqlIdent,
    pipeline: &PipelineId,
    topic: &TopicKey,
    is_adopted: bool,
) -> sqlx::Result<Claim> {
    let mut transaction = connection.begin().await?;
    lock_schema(&mut transaction, schema.as_str()).await?;
    statement(format!(
        "INSERT INTO {} (kafka_cluster_id, topic, cluster_name, namespace, pipeline, adopted) \
         VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT DO NOTHING",
        qualified(schema.as_str(), TOPIC_MARKER_TABLE)
    ))
    .bind(topic.cluster_id.clone())
    .bind(topic.topic.as_str().to_owned())
    .bind(pipeline.cluster_name.clone())
    .bind(pipeline.namespace.clone())
    .bind(pipeline.name.clone())
    .bind(is_adopted)
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

/// Whether there is bookkeeping in the schema; an older operator's is brought up first.
pub(super) async fn has_bookkeeping(connection: &mut PgConnection, schema: &str) -> sqlx::Result<bool> {
    let version = bookkeeping_version(connection, schema).await?;
    if version == 0 {
        return Ok(false);
    }
    if let Some(migration) = bookkeeping::migrate(schema, version) {
        run(connection, migration.sql).await?;
    }
    Ok(true)
}
