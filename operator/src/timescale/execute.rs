//! How SQL reaches the server: the one place where composed text is declared safe. What composes it quotes every
//! name and value (`sql`). I/O.

use sqlx::{
    AssertSqlSafe, PgConnection, Postgres, Row, SqlSafeStr, SqlStr, postgres::PgArguments, query::Query,
};

/// A statement with parameters. It is not kept prepared: each runs once in a session.
pub(super) fn statement(sql: impl Into<String>) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(safe(sql.into())).persistent(false)
}

/// Runs one or more statements without parameters.
pub(super) async fn run(connection: &mut PgConnection, sql: impl Into<String>) -> sqlx::Result<()> {
    sqlx::raw_sql(safe(sql.into())).execute(connection).await.map(drop)
}

/// Takes the lock under which this schema is changed, until the transaction ends. Operators and pipelines that
/// share a schema change it one after the other.
pub(super) async fn lock_schema(connection: &mut PgConnection, schema: &str) -> sqlx::Result<()> {
    statement("SELECT pg_advisory_xact_lock(hashtextextended('iotpipeline:' || $1, 0))")
        .bind(schema.to_owned())
        .execute(connection)
        .await
        .map(drop)
}

/// Whether every one of these tables of the schema exists.
pub(super) async fn tables_exist(
    connection: &mut PgConnection,
    schema: &str,
    tables: &[&str],
) -> sqlx::Result<bool> {
    let tables: Vec<String> = tables.iter().map(|&table| table.to_owned()).collect();
    let row = statement(
        "SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
         WHERE nspname = $1 AND relname = ANY($2) AND relkind = 'r'",
    )
    .bind(schema.to_owned())
    .bind(tables.clone())
    .fetch_one(connection)
    .await?;
    Ok(usize::try_from(row.try_get::<i64, _>(0)?).is_ok_and(|count| count == tables.len()))
}

fn safe(sql: String) -> SqlStr {
    AssertSqlSafe(sql).into_sql_str()
}
