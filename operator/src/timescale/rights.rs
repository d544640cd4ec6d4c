//! Which rights the role lacks, and the SQL that grants them. Pure.

use crds::{names::dead_letter_table, status::Reason};

use super::{
    ObservedRelation, ObservedTable, bookkeeping,
    sql::{identifier, qualified},
};
use crate::{change::Refusal, pipeline::Table};

/// `Some` where the role lacks a right, with the SQL that grants all it lacks, to be run by somebody who may.
pub(super) fn missing_rights(wanted: &Table, observed: &ObservedTable) -> Option<Refusal> {
    let schema = wanted.schema.as_str();
    let role = identifier(&observed.role);
    let rights = &observed.rights;
    let mut grants = Vec::new();

    if observed.extension.installed.is_none()
        && !(rights.superuser || rights.create_in_database && observed.extension.trusted)
    {
        grants.push("CREATE EXTENSION IF NOT EXISTS timescaledb;".to_owned());
    }
    if !observed.schema_exists && !rights.create_in_database {
        grants.push(format!("CREATE SCHEMA {} AUTHORIZATION {role};", identifier(schema)));
    }
    if observed.schema_exists && !rights.create_in_schema {
        grants.push(format!("GRANT USAGE, CREATE ON SCHEMA {} TO {role};", identifier(schema)));
    }
    if !rights.use_bookkeeping {
        let tables = bookkeeping::TABLES.map(|table| qualified(schema, table)).join(", ");
        grants.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role};"));
    }
    let not_owned = |relation: &Option<ObservedRelation>| relation.as_ref().is_some_and(|found| !found.owned);
    let dead_letters = dead_letter_table(wanted.name.as_str());
    for (name, relation) in
        [(wanted.name.as_str(), &observed.table), (dead_letters.as_str(), &observed.dead_letters)]
    {
        if observed.marker.is_some() && not_owned(relation) {
            grants.push(format!("ALTER TABLE {} OWNER TO {role};", qualified(schema, name)));
        }
    }

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
