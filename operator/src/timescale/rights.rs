//! Which rights the role lacks, and the SQL that grants them. Pure.

use crds::{names::dead_letter_table, status::Reason};

use super::{
    ObservedTable, bookkeeping,
    grants::missing_grants,
    sql::{identifier, qualified},
};
use crate::{change::Refusal, pipeline::Table};

/// `Some` where the role lacks a right, with the SQL that grants all it lacks, to be run by somebody who may.
pub(super) fn missing_rights(wanted: &Table, observed: &ObservedTable) -> Option<Refusal> {
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
    let dead_letters = dead_letter_table(wanted.name.as_str());
    for (name, relation) in
        [(wanted.name.as_str(), &observed.table), (dead_letters.as_str(), &observed.dead_letters)]
    {
        let is_ours = wanted.wanted.is_some() && observed.marker.is_some();
        if is_ours && relation.as_ref().is_some_and(|found| !found.owned) {
            grants.push(format!("ALTER TABLE {} OWNER TO {role};", qualified(schema, name)));
        }
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
