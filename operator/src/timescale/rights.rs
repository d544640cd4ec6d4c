//! Which rights the role lacks, and the SQL that grants them. Pure.

use crds::{status::Reason, worker::PipelineId};

use super::{
    ObservedTable, bookkeeping,
    grants::missing_grants,
    retention::Kept,
    sql::{identifier, qualified},
};
use crate::{change::Refusal, pipeline::Table};

/// `Some` where the role lacks a right, with the SQL that grants all it lacks, to be run by somebody who may.
pub(super) fn missing_rights(
    wanted: &Table,
    pipeline: &PipelineId,
    observed: &ObservedTable,
) -> Option<Refusal> {
    let schema = wanted.schema.as_str();
    let role = identifier(&observed.role);
    let rights = &observed.rights;
    let mut grants = Vec::new();

    if wanted.wanted.is_some() {
        grants.extend(missing_to_create(wanted, observed));
    }
    if observed.schema_exists && !rights.create_in_schema {
        grants.push(format!("GRANT USAGE, CREATE ON SCHEMA {} TO {role};", identifier(schema)));
    }
    if !rights.unusable_bookkeeping.is_empty() {
        let tables: Vec<_> =
            rights.unusable_bookkeeping.iter().map(|table| qualified(schema, table)).collect();
        grants.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {role};", tables.join(", ")));
    }
    if let Some(migration) = bookkeeping::migrate(schema, observed.bookkeeping_version)
        && observed.bookkeeping_version > 0
        && !rights.foreign_bookkeeping.is_empty()
    {
        grants.extend(
            migration.sql.split_whitespace().map(str::to_owned).reduce(|sql, word| sql + " " + &word),
        );
    }
    // Beside a table that is somebody else's, dead letters that stay for ever need not be altered.
    if wanted.wanted.is_some() || wanted.dead_letters_drop_after.is_some() {
        let kept = Kept::of(wanted, pipeline, observed);
        grants.extend(kept.iter().filter_map(|kept| kept.missing_ownership(&role)));
    }
    grants.extend(missing_grants(wanted, observed));

    (!grants.is_empty()).then(|| Refusal {
        reason: Reason::PermissionMissing,
        message: format!(
            "role {} may not keep table {wanted}; run as a superuser in database {}: {}",
            observed.role,
            observed.database,
            grants.join(" ")
        ),
    })
}

fn missing_to_create(wanted: &Table, observed: &ObservedTable) -> Vec<String> {
    let rights = &observed.rights;
    let mut grants = Vec::new();
    if observed.extension.installed.is_none()
        && !(rights.superuser || rights.create_in_database && observed.extension.trusted)
    {
        grants.push("CREATE EXTENSION IF NOT EXISTS timescaledb;".to_owned());
    }
    if !observed.schema_exists && !rights.create_in_database {
        grants.push(format!(
            "CREATE SCHEMA {} AUTHORIZATION {};",
            identifier(wanted.schema.as_str()),
            identifier(&observed.role)
        ));
    }
    grants
}
