//! The difference between a table with all that belongs to it and what it shall be. Pure.

use crds::{names::dead_letter_table, status::Reason, worker::PipelineId};

use super::{
    ObservedTable, TablePlan, TableStep, bookkeeping, relation::WantedRelation, retention::plan_policy,
    rights::missing_rights, sql::identifier,
};
use crate::{
    change::{Change, Refusal},
    pipeline::Table,
};

/// What to do so that `wanted` holds. Where the table is not this pipeline's to change, or cannot be made, the
/// plan has no steps at all; a change that is refused leaves the other steps.
pub fn plan(wanted: &Table, pipeline: &PipelineId, observed: &ObservedTable) -> TablePlan {
    let refusal = missing_extension(observed)
        .or_else(|| missing_rights(wanted, observed))
        .or_else(|| newer_bookkeeping(wanted, observed))
        .or_else(|| not_ours(wanted, pipeline, observed));
    if let Some(refusal) = refusal {
        return TablePlan { refusals: vec![refusal], ..TablePlan::default() };
    }
    let Some(extension) = &observed.extension.installed else {
        // The edition shows only in a session that began with the extension.
        return TablePlan { steps: vec![create_extension()], unfinished: true, ..TablePlan::default() };
    };

    let schema = wanted.schema.as_str();
    let mut steps = Vec::new();
    if !observed.schema_exists {
        steps.push(create_schema(schema));
    }
    steps.extend(bookkeeping::migrate(schema, observed.bookkeeping_version));
    if observed.marker.is_none() {
        steps.push(bookkeeping::claim_table(schema, wanted.name.as_str(), pipeline));
    }
    let table = WantedRelation::target(wanted).plan(observed.table.as_ref(), &extension.schema);
    let dead_letters =
        WantedRelation::dead_letters(wanted).plan(observed.dead_letters.as_ref(), &extension.schema);
    steps.extend(table.steps);
    steps.extend(dead_letters.steps);

    let is_usable = observed.table.is_none() || observed.is_hypertable();
    if is_usable {
        let policy = observed.table.as_ref().and_then(|table| table.retention.as_ref());
        steps.extend(plan_policy(wanted, extension, policy));
    }
    TablePlan { steps, refusals: [table.refusals, dead_letters.refusals].concat(), unfinished: false }
}

fn create_extension() -> TableStep {
    TableStep {
        changes: vec![Change {
            object: "extension timescaledb".to_owned(),
            field: String::new(),
            from: String::new(),
            to: "timescaledb".to_owned(),
        }],
        sql: "CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public;\n".to_owned(),
    }
}

fn create_schema(schema: &str) -> TableStep {
    TableStep {
        changes: vec![Change {
            object: format!("schema {schema}"),
            field: String::new(),
            from: String::new(),
            to: schema.to_owned(),
        }],
        sql: format!("CREATE SCHEMA IF NOT EXISTS {};\n", identifier(schema)),
    }
}

fn missing_extension(observed: &ObservedTable) -> Option<Refusal> {
    let extension = &observed.extension;
    (extension.installed.is_none() && !extension.available).then(|| Refusal {
        reason: Reason::ExtensionMissing,
        message: format!(
            "PostgreSQL {} has no TimescaleDB; install its package on the server, add timescaledb to \
             shared_preload_libraries and restart the server",
            observed.server_version
        ),
    })
}

fn newer_bookkeeping(wanted: &Table, observed: &ObservedTable) -> Option<Refusal> {
    (observed.bookkeeping_version > bookkeeping::CURRENT_VERSION).then(|| Refusal {
        reason: Reason::DatabaseRefused,
        message: format!(
            "the _iotpipeline_ tables of schema {} have version {}, and this operator knows {} at most; upgrade the \
             operator",
            wanted.schema,
            observed.bookkeeping_version,
            bookkeeping::CURRENT_VERSION
        ),
    })
}

fn not_ours(wanted: &Table, pipeline: &PipelineId, observed: &ObservedTable) -> Option<Refusal> {
    match &observed.marker {
        Some(owner) if owner == pipeline => None,
        Some(owner) => Some(Refusal {
            reason: Reason::ResourceConflict,
            message: format!(
                "table {wanted} belongs to the IoTPipeline {} in namespace {} of cluster {}; choose another \
                 timescale.table, or delete that IoTPipeline first",
                owner.name, owner.namespace, owner.cluster_name
            ),
        }),
        None => {
            let dead_letters = dead_letter_table(wanted.name.as_str());
            [(wanted.name.as_str(), &observed.table), (dead_letters.as_str(), &observed.dead_letters)]
                .into_iter()
                .find_map(|(name, relation)| relation.as_ref().map(|relation| (name, relation)))
                .map(|(name, relation)| Refusal {
                    reason: Reason::TableNotOwned,
                    message: format!(
                        "{} {}.{name} exists, and no IoTPipeline created it; choose another timescale.table, or \
                         rename or drop what is there",
                        if relation.is_table { "table" } else { "a view, index or sequence" },
                        wanted.schema
                    ),
                })
        }
    }
}
