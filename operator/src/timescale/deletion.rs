//! What goes with a pipeline, in one transaction: only what it created, and of that only what shall go. I/O.

use crds::{
    names::{FEED_TABLE, MARKER_TABLE, POSITION_TABLE, TOPIC_MARKER_TABLE, dead_letter_table},
    status::ChangeClass,
    worker::PipelineId,
};
use sqlx::{Connection, PgConnection, Row};

use super::{
    Deleted, TableDeletion,
    bookkeeping::{self, forget_feeds, forget_positions},
    effects::has_bookkeeping,
    execute::{lock_schema, run, statement},
    index_builds::end_builds,
    rollups,
    sql::qualified,
};
use crate::{change::Change, pipeline::Table};

/// Whether a hypertable may go.
enum Origin {
    Created,
    Adopted,
    /// Another pipeline's, or nobody's.
    SomebodyElses,
}

pub(super) async fn delete_table(
    connection: &mut PgConnection,
    table: &Table,
    pipeline: &PipelineId,
    wanted: TableDeletion,
) -> sqlx::Result<Deleted> {
    let schema = table.schema.as_str();
    end_builds(connection, table).await?;
    let mut transaction = connection.begin().await?;
    lock_schema(&mut transaction, schema).await?;
    let mut deleted = Deleted::default();
    if !has_bookkeeping(&mut transaction, schema).await? {
        // One that is dropped ends, with its lock, only when the connection is used again.
        transaction.rollback().await?;
        return Ok(deleted);
    }
    let keeps_dead_letters = match &table.wanted {
        Some(_) => false,
        None => leave_external(&mut transaction, table, pipeline).await?,
    };
    if wanted.dead_letters && !keeps_dead_letters {
        delete_one(&mut transaction, table, pipeline, true, &mut deleted).await?;
    }
    if wanted.table && delete_one(&mut transaction, table, pipeline, false, &mut deleted).await? {
        run(&mut transaction, forget_positions(schema, table.name.as_str()).sql).await?;
        run(&mut transaction, forget_feeds(schema, table.name.as_str())).await?;
    }
    drop_unused_bookkeeping(&mut transaction, schema).await?;
    transaction.commit().await?;
    Ok(deleted)
}

/// Drops the table or its dead letters with its marker; whether it did.
async fn delete_one(
    connection: &mut PgConnection,
    table: &Table,
    pipeline: &PipelineId,
    is_dead_letters: bool,
    deleted: &mut Deleted,
) -> sqlx::Result<bool> {
    let schema = table.schema.as_str();
    let name = if is_dead_letters { dead_letter_table(table.name.as_str()) } else { table.name.to_string() };
    let displayed = format!("{schema}.{name}");
    match origin(connection, schema, &name, pipeline, is_dead_letters).await? {
        Origin::SomebodyElses => Ok(false),
        Origin::Adopted => {
            deleted.adopted.push(format!("table {displayed}"));
            Ok(false)
        }
        Origin::Created => {
            if !is_dead_letters {
                deleted.changes.extend(rollups::delete(connection, table).await?);
            }
            // Without CASCADE: a view that somebody built on the table is theirs, and they are told.
            run(connection, format!("DROP TABLE IF EXISTS {}", qualified(schema, &name))).await?;
            statement(format!("DELETE FROM {} WHERE table_name = $1", qualified(schema, MARKER_TABLE)))
                .bind(name)
                .execute(connection)
                .await?;
            let change = Change::new(format!("table {displayed}"), "", displayed, "");
            deleted.changes.push(change.classed(ChangeClass::Destructive));
            Ok(true)
        }
    }
}

async fn origin(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
    pipeline: &PipelineId,
    is_dead_letters: bool,
) -> sqlx::Result<Origin> {
    let row = statement(format!(
        "SELECT adopted FROM {} WHERE table_name = $1 AND is_dead_letters = $2 \
           AND cluster_name = $3 AND namespace = $4 AND pipeline = $5",
        qualified(schema, MARKER_TABLE)
    ))
    .bind(name.to_owned())
    .bind(is_dead_letters)
    .bind(pipeline.cluster_name.clone())
    .bind(pipeline.namespace.clone())
    .bind(pipeline.name.clone())
    .fetch_optional(connection)
    .await?;
    Ok(match row.map(|row| row.try_get(0)).transpose()? {
        None => Origin::SomebodyElses,
        Some(true) => Origin::Adopted,
        Some(false) => Origin::Created,
    })
}

/// Leaves a table that is somebody else's: the pipeline's feeds go. Whether others feed it, who need the dead letters.
async fn leave_external(
    connection: &mut PgConnection,
    table: &Table,
    pipeline: &PipelineId,
) -> sqlx::Result<bool> {
    let feeds = qualified(table.schema.as_str(), FEED_TABLE);
    statement(format!(
        "DELETE FROM {feeds} WHERE table_name = $1 AND cluster_name = $2 AND namespace = $3 AND pipeline = $4"
    ))
    .bind(table.name.as_str().to_owned())
    .bind(pipeline.cluster_name.clone())
    .bind(pipeline.namespace.clone())
    .bind(pipeline.name.clone())
    .execute(&mut *connection)
    .await?;
    statement(format!("SELECT EXISTS (SELECT FROM {feeds} WHERE table_name = $1)"))
        .bind(table.name.as_str().to_owned())
        .fetch_one(connection)
        .await?
        .try_get(0)
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
