//! Reads the rollups of a table: those that the spec names and those that were made for it once. I/O.

use std::time::Duration;

use crds::names::MARKER_TABLE;
use jiff::Timestamp;
use sqlx::{PgConnection, Row, postgres::types::Oid};

use super::{
    relation::{read_class, read_columns, read_columnstore_settings, read_expired, read_policy},
    retention_of_seconds,
};
use crate::{
    pipeline::Table,
    timescale::{
        InstalledExtension, ObservedAggregate, ObservedRefresh, ObservedRollup, ObservedTable, ObservedView,
        Retention, RollupMarker, ViewKind,
        execute::statement,
        rollups::ROLLUPS_SINCE,
        sql::{identifier, interval, qualified},
    },
};

/// All of them, by name.
pub(super) async fn read_rollups(
    connection: &mut PgConnection,
    table: &Table,
    observed: &ObservedTable,
) -> sqlx::Result<Vec<ObservedRollup>> {
    let (Some(wanted), Some(extension)) = (&table.wanted, &observed.extension.installed) else {
        return Ok(Vec::new());
    };
    let mut rollups = read_markers(connection, table, observed).await?;
    for rollup in &wanted.rollups {
        if rollups.iter().all(|found| found.name != rollup.name.as_str()) {
            rollups.push(ObservedRollup { name: rollup.name.to_string(), marker: None, view: None });
        }
    }
    for found in &mut rollups {
        found.view = read_view(connection, table, &found.name, extension).await?;
    }
    let is_shorter = |drop_after: Option<Duration>, applied: Option<Retention>| {
        drop_after.filter(|time| applied.is_none_or(|applied| Retention::For(*time) < applied))
    };
    let of_table = is_shorter(wanted.drop_after, observed.retention.applied);
    for found in &mut rollups {
        let rollup = wanted.rollups.iter().find(|rollup| rollup.name.as_str() == found.name);
        let applied = found.marker.as_ref().and_then(|marker| marker.retention);
        let Some(ObservedView { kind: ViewKind::Aggregate(aggregate), owned: true, .. }) = &mut found.view
        else {
            continue;
        };
        if let Some(drop_after) = rollup.and_then(|rollup| is_shorter(rollup.drop_after, applied)) {
            let (schema, name) = materialization(connection, table.schema.as_str(), &found.name).await?;
            aggregate.expired = Some(read_expired(connection, &schema, &name, drop_after).await?);
        }
        if let Some(drop_after) = of_table.filter(|_| aggregate.is_of_table) {
            aggregate.refreshed_only_to = read_behind(connection, table, &found.name, drop_after).await?;
        }
    }
    Ok(rollups)
}

async fn read_markers(
    connection: &mut PgConnection,
    table: &Table,
    observed: &ObservedTable,
) -> sqlx::Result<Vec<ObservedRollup>> {
    let rights = &observed.rights;
    let is_readable = rights.create_in_schema
        && rights.unusable_bookkeeping.is_empty()
        && (ROLLUPS_SINCE..=super::bookkeeping::CURRENT_VERSION).contains(&observed.bookkeeping_version);
    if !is_readable {
        return Ok(Vec::new());
    }
    let rows = statement(format!(
        "SELECT table_name, definition, extract(epoch FROM filled_to)::bigint AS filled_to, is_filled, drop_after_seconds \
         FROM {} WHERE rollup_of = $1 ORDER BY created_at",
        qualified(table.schema.as_str(), MARKER_TABLE)
    ))
    .bind(table.name.as_str().to_owned())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let marker = RollupMarker {
                definition: row.try_get("definition")?,
                filled_to: timestamp(row.try_get("filled_to")?),
                is_filled: row.try_get("is_filled")?,
                retention: retention_of_seconds(row.try_get("drop_after_seconds")?),
            };
            Ok(ObservedRollup { name: row.try_get("table_name")?, marker: Some(marker), view: None })
        })
        .collect()
}

async fn read_view(
    connection: &mut PgConnection,
    table: &Table,
    name: &str,
    extension: &InstalledExtension,
) -> sqlx::Result<Option<ObservedView>> {
    let Some(class) = read_class(connection, table.schema.as_str(), name).await? else { return Ok(None) };
    let kind = match read_aggregate(connection, table, name, extension).await? {
        Some(aggregate) => ViewKind::Aggregate(Box::new(aggregate)),
        None if class.is_view => ViewKind::View,
        None => ViewKind::Other,
    };
    let columns = read_columns(connection, class.oid).await?;
    Ok(Some(ObservedView {
        kind,
        owned: class.owned,
        columns: columns.into_iter().map(|column| (column.name, column.sql_type)).collect(),
        readers: read_readers(connection, class.oid).await?,
        dependents: read_dependents(connection, class.oid).await?,
    }))
}

/// The roles that may read a view, beside its owner; `None` for all of them.
async fn read_readers(connection: &mut PgConnection, view: Oid) -> sqlx::Result<Vec<Option<String>>> {
    let rows = statement(
        "SELECT rolname::text FROM pg_class CROSS JOIN aclexplode(relacl) LEFT JOIN pg_roles ON pg_roles.oid = grantee \
         WHERE pg_class.oid = $1 AND privilege_type = 'SELECT' AND grantee <> relowner ORDER BY rolname NULLS FIRST",
    )
    .bind(view)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The views that are made from a view. Of a continuous aggregate the one that people see, and not those by which
/// TimescaleDB computes it.
async fn read_dependents(connection: &mut PgConnection, view: Oid) -> sqlx::Result<Vec<String>> {
    statement(
        "SELECT coalesce(array_agg(DISTINCT coalesce(user_view_schema, nspname) || '.' || coalesce(user_view_name, relname)), \
             '{}')::text[] \
         FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid JOIN pg_class ON pg_class.oid = ev_class \
           JOIN pg_namespace ON pg_namespace.oid = relnamespace \
           LEFT JOIN _timescaledb_catalog.continuous_agg \
             ON (partial_view_schema = nspname AND partial_view_name = relname) \
             OR (direct_view_schema = nspname AND direct_view_name = relname) \
         WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = $1 \
           AND pg_class.oid <> refobjid",
    )
    .bind(view)
    .fetch_one(connection)
    .await?
    .try_get(0)
}

async fn read_aggregate(
    connection: &mut PgConnection,
    table: &Table,
    name: &str,
    extension: &InstalledExtension,
) -> sqlx::Result<Option<ObservedAggregate>> {
    let schema = table.schema.as_str();
    let row = statement(
        "SELECT materialized_only, hypertable_schema = $1 AND hypertable_name = $3 AS is_of_table, compression_enabled, \
           materialization_hypertable_schema AS schema_name, materialization_hypertable_name AS table_name, \
           (SELECT extract(epoch FROM min(range_start))::bigint FROM timescaledb_information.chunks \
             WHERE chunks.hypertable_schema = materialization_hypertable_schema \
               AND chunks.hypertable_name = materialization_hypertable_name) AS oldest, \
           (SELECT pg_class.oid FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
             WHERE nspname = materialization_hypertable_schema AND relname = materialization_hypertable_name) AS oid \
         FROM timescaledb_information.continuous_aggregates WHERE view_schema = $1 AND view_name = $2",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .bind(table.name.as_str().to_owned())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut aggregate = ObservedAggregate {
        is_of_table: row.try_get("is_of_table")?,
        materialized_only: row.try_get("materialized_only")?,
        oldest: timestamp(row.try_get("oldest")?),
        refresh: read_refresh(connection, schema, name).await?,
        retention: read_policy(connection, schema, name, "policy_retention", "drop_after").await?,
        ..ObservedAggregate::default()
    };
    if extension.has_columnstore() {
        if row.try_get("compression_enabled")? {
            let oid: Oid = row.try_get("oid")?;
            aggregate.columnstore = read_columnstore_settings(connection, oid).await?;
        }
        aggregate.columnstore_policy =
            read_policy(connection, schema, name, "policy_compression", "compress_after").await?;
    }
    Ok(Some(aggregate))
}

async fn read_refresh(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
) -> sqlx::Result<Option<ObservedRefresh>> {
    let row = statement(
        "SELECT extract(epoch FROM (config ->> 'start_offset')::interval)::bigint AS start_offset, \
           extract(epoch FROM (config ->> 'end_offset')::interval)::bigint AS end_offset, \
           extract(epoch FROM schedule_interval)::bigint AS every, scheduled \
         FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate' \
           AND hypertable_schema = $1 AND hypertable_name = $2 ORDER BY job_id LIMIT 1",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_optional(connection)
    .await?;
    let offset = |seconds: Option<i64>| seconds.and_then(|seconds| u64::try_from(seconds).ok());
    row.map(|row| {
        Ok(ObservedRefresh {
            start_offset: offset(row.try_get("start_offset")?),
            end_offset: offset(row.try_get("end_offset")?),
            every: offset(row.try_get("every")?).unwrap_or_default(),
            scheduled: row.try_get("scheduled")?,
        })
    })
    .transpose()
}

/// Where the aggregates of a rollup are kept.
async fn materialization(
    connection: &mut PgConnection,
    schema: &str,
    name: &str,
) -> sqlx::Result<(String, String)> {
    let row = statement(
        "SELECT materialization_hypertable_schema::text, materialization_hypertable_name::text \
         FROM timescaledb_information.continuous_aggregates WHERE view_schema = $1 AND view_name = $2",
    )
    .bind(schema.to_owned())
    .bind(name.to_owned())
    .fetch_one(connection)
    .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Up to when the rollup was refreshed, where the table has later rows that are older than `drop_after`.
async fn read_behind(
    connection: &mut PgConnection,
    table: &Table,
    rollup: &str,
    drop_after: Duration,
) -> sqlx::Result<Option<Timestamp>> {
    let time = identifier(table.time_column.as_str());
    let row = statement(format!(
        "SELECT extract(epoch FROM refreshed_to)::bigint FROM ( \
           SELECT _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(mat_hypertable_id)) AS refreshed_to \
             FROM _timescaledb_catalog.continuous_agg WHERE user_view_schema = $1 AND user_view_name = $2) AS watermark \
         WHERE EXISTS (SELECT FROM {} WHERE {time} >= refreshed_to AND {time} < now() - {})",
        qualified(table.schema.as_str(), table.name.as_str()),
        interval(drop_after)
    ))
    .bind(table.schema.as_str().to_owned())
    .bind(rollup.to_owned())
    .fetch_optional(connection)
    .await?;
    // Where nothing was ever refreshed the time is before all times.
    row.map(|row| row.try_get(0).map(|second| timestamp(second).unwrap_or(Timestamp::MIN))).transpose()
}

fn timestamp(second: Option<i64>) -> Option<Timestamp> {
    second.and_then(|second| Timestamp::from_second(second).ok())
}
