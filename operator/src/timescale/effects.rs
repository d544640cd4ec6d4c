//! What is changed in a database and what is read for the lag, each in one transaction. I/O.

use std::collections::BTreeMap;

use crds::{
    names::{MARKER_TABLE, POSITION_TABLE, TOPIC_MARKER_TABLE, dead_letter_table},
    worker::PipelineId,
};
use jiff::Timestamp;
use sqlx::{Connection, PgConnection, Row};

use super::{
    Position, TablePlan, bookkeeping,
    bookkeeping::forget_positions,
    execute::{lock_schema, run, statement, tables_exist},
    observe::{functions_schema, table_marker, topic_marker},
    sql::{duration_text, identifier, interval, qualified, regclass},
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
    if tables_exist(&mut transaction, schema, &bookkeeping::TABLES).await?
        && topic_marker(&mut transaction, schema, topic).await?.as_ref() == Some(pipeline)
    {
        for table in [POSITION_TABLE, TOPIC_MARKER_TABLE] {
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
    table: &Table,
) -> sqlx::Result<Vec<Change>> {
    let Some(drop_after) = table.wanted.as_ref().and_then(|wanted| wanted.drop_after) else {
        return Ok(Vec::new());
    };
    let Some(functions) = functions_schema(connection).await? else { return Ok(Vec::new()) };
    let chunks = statement(format!(
        "SELECT {}.drop_chunks({}, older_than => {})",
        identifier(&functions),
        regclass(table.schema.as_str(), table.name.as_str()),
        interval(drop_after)
    ))
    .fetch_all(connection)
    .await?;
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    let number = chunks.len();
    Ok(vec![Change {
        object: format!("{number} chunks of table {table} older than {}", duration_text(drop_after)),
        field: String::new(),
        from: number.to_string(),
        to: String::new(),
    }])
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
    let (schema, name) = (table.schema.as_str(), table.name.as_str());
    let mut transaction = connection.begin().await?;
    lock_schema(&mut transaction, schema).await?;
    if !tables_exist(&mut transaction, schema, &bookkeeping::TABLES).await?
        || table_marker(&mut transaction, table).await?.as_ref() != Some(pipeline)
    {
        return Ok(Vec::new());
    }
    // Without CASCADE: a view that somebody built on the table is theirs, and they are told.
    for relation in [dead_letter_table(name).as_str(), name] {
        run(&mut transaction, format!("DROP TABLE IF EXISTS {}", qualified(schema, relation))).await?;
    }
    run(&mut transaction, forget_positions(schema, name).sql).await?;
    statement(format!("DELETE FROM {} WHERE table_name = $1", qualified(schema, MARKER_TABLE)))
        .bind(name.to_owned())
        .execute(&mut *transaction)
        .await?;
    drop_unused_bookkeeping(&mut transaction, schema).await?;
    transaction.commit().await?;
    Ok(vec![Change {
        object: format!("table {table}"),
        field: String::new(),
        from: table.to_string(),
        to: String::new(),
    }])
}

/// Drops the bookkeeping tables where no table, topic or position is left in them and the role may.
async fn drop_unused_bookkeeping(connection: &mut PgConnection, schema: &str) -> sqlx::Result<()> {
    let [markers, topic_markers, positions] =
        [MARKER_TABLE, TOPIC_MARKER_TABLE, POSITION_TABLE].map(|table| qualified(schema, table));
    let row = statement(format!(
        "SELECT NOT EXISTS (SELECT FROM {markers}) AND NOT EXISTS (SELECT FROM {topic_markers}) \
           AND NOT EXISTS (SELECT FROM {positions}) \
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
