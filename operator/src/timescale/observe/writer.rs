//! Reads which rights the workers' role lacks. I/O.

use sqlx::{PgConnection, Row, postgres::types::Oid};

use crate::{
    pipeline::Table,
    timescale::{GrantObject, LackingRights, ObservedWriter, execute::statement},
};

/// What the role lacks on everything that is there.
pub(super) async fn read_writer(
    connection: &mut PgConnection,
    table: &Table,
) -> sqlx::Result<ObservedWriter> {
    let role = statement("SELECT oid FROM pg_roles WHERE rolname = $1")
        .bind(table.writer.clone())
        .fetch_optional(&mut *connection)
        .await?;
    let Some(role) = role else { return Ok(ObservedWriter::default()) };
    let role: Oid = role.try_get(0)?;
    let mut writer = ObservedWriter { exists: true, lacks: Vec::new() };
    for object in GrantObject::ALL {
        writer.lacks.extend(read_lacking(connection, table, role, object).await?);
    }
    Ok(writer)
}

async fn read_lacking(
    connection: &mut PgConnection,
    table: &Table,
    role: Oid,
    object: GrantObject,
) -> sqlx::Result<Option<LackingRights>> {
    let name = object.table(table);
    let sql = if name.is_none() {
        "SELECT array_agg(has_schema_privilege($1, oid, wanted) ORDER BY position) AS has, \
           bool_and(has_schema_privilege(oid, wanted || ' WITH GRANT OPTION')) AS may_grant \
         FROM pg_namespace CROSS JOIN unnest($2) WITH ORDINALITY AS privilege (wanted, position) \
         WHERE nspname = $3 AND $4::text IS NULL"
    } else {
        "SELECT array_agg(has_table_privilege($1, pg_class.oid, wanted) ORDER BY position) AS has, \
           bool_and(has_table_privilege(pg_class.oid, wanted || ' WITH GRANT OPTION')) AS may_grant \
         FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
           CROSS JOIN unnest($2) WITH ORDINALITY AS privilege (wanted, position) \
         WHERE nspname = $3 AND relname = $4"
    };
    let privileges = object.privileges(table);
    let row = statement(sql)
        .bind(role)
        .bind(privileges.iter().map(|privilege| (*privilege).to_owned()).collect::<Vec<_>>())
        .bind(table.schema.as_str().to_owned())
        .bind(name)
        .fetch_one(connection)
        .await?;
    let Some(has) = row.try_get::<Option<Vec<bool>>, _>("has")? else { return Ok(None) };
    let lacking = privileges.iter().zip(has).filter(|(_, has)| !has).map(|(privilege, _)| *privilege);
    let privileges: Vec<_> = lacking.collect();
    let is_grantable = row.try_get::<Option<bool>, _>("may_grant")?.unwrap_or(false);
    Ok((!privileges.is_empty()).then_some(LackingRights { object, privileges, is_grantable }))
}
