//! The difference between a table with all that belongs to it and what it shall be. Pure.

use crds::{names::dead_letter_table, status::Reason, worker::PipelineId};

use super::{
    ObservedTable, TablePlan, TableStep,
    adoption::cannot_adopt,
    bookkeeping, columnstore,
    external::{foreign_dead_letters, kept_by_another, misfits},
    grants::{missing_role, plan_grants},
    relation::WantedRelation,
    retention::Kept,
    rights::missing_rights,
    rollups,
    sql::identifier,
};
use crate::{
    change::{Approvals, Change, Refusal},
    pipeline::{Table, WantedTable},
};

#[cfg(test)]
mod tests;

/// What to do so that `wanted` holds. Where the table is not this pipeline's to change, or cannot be made, the
/// plan has no steps at all; a change that is refused leaves the other steps.
pub fn plan(
    wanted: &Table,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    approvals: &Approvals,
) -> TablePlan {
    match &wanted.wanted {
        Some(wanted_table) => plan_managed(wanted, wanted_table, pipeline, observed, approvals),
        None => plan_external(wanted, pipeline, observed, approvals),
    }
}

fn plan_managed(
    wanted: &Table,
    wanted_table: &WantedTable,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    approvals: &Approvals,
) -> TablePlan {
    let refusal = missing_extension(observed)
        .or_else(|| missing_rights(wanted, pipeline, observed))
        .or_else(|| newer_bookkeeping(wanted, observed))
        .or_else(|| not_ours(wanted, wanted_table, pipeline, observed))
        .or_else(|| fed_by_another(wanted, pipeline, observed));
    if let Some(refusal) = refusal {
        return refused(vec![refusal]);
    }
    let Some(extension) = &observed.extension.installed else {
        // The edition shows only in a session that began with the extension.
        return TablePlan { steps: vec![create_extension()], unfinished: true, ..TablePlan::default() };
    };

    let (schema, name) = (wanted.schema.as_str(), wanted.name.as_str());
    let kept = Kept::of(wanted, pipeline, observed);
    let mut steps = Vec::new();
    if !observed.schema_exists {
        steps.push(create_schema(schema));
    }
    steps.extend(bookkeeping::migrate(schema, observed.bookkeeping_version));
    steps.extend(kept.iter().filter_map(|kept| kept.claim(pipeline, approvals)));
    if observed.table.is_none() {
        steps.push(bookkeeping::forget_positions(schema, name));
    }
    steps.extend(claim_feed(wanted, pipeline, observed));
    let table = WantedRelation::target(wanted, wanted_table).plan(observed.table.as_ref(), &extension.schema);
    let dead_letters =
        WantedRelation::dead_letters(wanted).plan(observed.dead_letters.as_ref(), &extension.schema);
    let mut builds = table.builds;
    builds.extend(dead_letters.builds);
    steps.extend(table.steps);
    steps.extend(dead_letters.steps);

    steps.extend(columnstore::plan(wanted, wanted_table, observed, extension, &table.missing_columns));
    let rollups =
        rollups::plan(wanted, wanted_table, pipeline, observed, extension, approvals, &table.missing_columns);
    steps.extend(rollups.steps);
    steps.extend(kept.iter().flat_map(|kept| kept.plan(extension, approvals)));
    steps.extend(plan_grants(wanted, observed));

    let mut refusals = table.refusals;
    if !dead_letters.refusals.is_empty() {
        refusals.push(unfit_dead_letters(wanted));
    }
    refusals.extend(missing_role(wanted, observed));
    refusals.extend(kept_by_another(wanted, pipeline, observed));
    refusals.extend(kept.iter().filter_map(|kept| kept.approval_required(pipeline, approvals)));
    refusals.extend(rollups.refusals);
    let held = kept.iter().filter_map(|kept| kept.held(approvals)).chain(rollups.held).collect();
    let notes =
        columnstore::note(wanted_table, observed, extension).into_iter().chain(rollups.notes).collect();
    TablePlan { steps, builds, fills: rollups.fills, held, refusals, notes, ..TablePlan::default() }
}

/// Of a table that is somebody else's, only the operator's bookkeeping and the dead letters are made.
fn plan_external(
    wanted: &Table,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    approvals: &Approvals,
) -> TablePlan {
    let refusal = missing_extension(observed)
        .or_else(|| extension_not_created(observed))
        .or_else(|| newer_bookkeeping(wanted, observed));
    let (None, Some(extension)) = (&refusal, &observed.extension.installed) else {
        return refused(refusal.into_iter().collect());
    };
    let mut refusals = misfits(wanted, observed);
    let missing_rights = missing_rights(wanted, pipeline, observed);
    if missing_rights.is_none() {
        // Otherwise the bookkeeping could not be read, and what it says of these is not known.
        refusals.extend(fed_by_another(wanted, pipeline, observed));
        refusals.extend(foreign_dead_letters(wanted, observed));
    }
    refusals.extend(missing_rights);
    if !refusals.is_empty() {
        return refused(refusals);
    }

    let (mut steps, mut builds) = (Vec::new(), Vec::new());
    let mut held = Vec::new();
    steps.extend(bookkeeping::migrate(wanted.schema.as_str(), observed.bookkeeping_version));
    // Those of another pipeline's table are that pipeline's to keep.
    if observed.marker.is_none() {
        let kept = Kept::of(wanted, pipeline, observed);
        steps.extend(kept.iter().filter_map(|kept| kept.claim(pipeline, approvals)));
        let dead_letters =
            WantedRelation::dead_letters(wanted).plan(observed.dead_letters.as_ref(), &extension.schema);
        let is_ours_to_keep = observed.dead_letters.as_ref().is_none_or(|relation| relation.owned);
        let is_missing_something = !dead_letters.steps.is_empty() || !dead_letters.builds.is_empty();
        if !dead_letters.refusals.is_empty() || !is_ours_to_keep && is_missing_something {
            refusals.push(unfit_dead_letters(wanted));
        }
        if is_ours_to_keep {
            steps.extend(dead_letters.steps);
            builds.extend(dead_letters.builds);
            steps.extend(kept.iter().flat_map(|kept| kept.plan(extension, approvals)));
        }
        held.extend(kept.iter().filter_map(|kept| kept.held(approvals)));
        refusals.extend(kept.iter().filter_map(|kept| kept.approval_required(pipeline, approvals)));
    }
    refusals.extend(kept_by_another(wanted, pipeline, observed));
    steps.extend(claim_feed(wanted, pipeline, observed));
    steps.extend(plan_grants(wanted, observed));
    refusals.extend(missing_role(wanted, observed));
    TablePlan { steps, builds, held, refusals, ..TablePlan::default() }
}

fn refused(refusals: Vec<Refusal>) -> TablePlan {
    TablePlan { refusals, is_refused: true, ..TablePlan::default() }
}

/// The note that this pipeline writes into the table from its topic, where it is missing.
fn claim_feed(wanted: &Table, pipeline: &PipelineId, observed: &ObservedTable) -> Option<TableStep> {
    let feed = observed.feed.as_ref().filter(|feed| feed.pipeline.is_none())?;
    Some(bookkeeping::claim_feed(wanted.schema.as_str(), wanted.name.as_str(), pipeline, &feed.topic))
}

fn create_extension() -> TableStep {
    TableStep {
        changes: vec![Change::new("extension timescaledb", "", "", "timescaledb")],
        sql: "CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public;\n".to_owned(),
    }
}

fn create_schema(schema: &str) -> TableStep {
    TableStep {
        changes: vec![Change::new(format!("schema {schema}"), "", "", schema)],
        sql: format!("CREATE SCHEMA IF NOT EXISTS {};\n", identifier(schema)),
    }
}

/// Nothing in the spec says how dead letters look, so nothing in it can be set right.
fn unfit_dead_letters(wanted: &Table) -> Refusal {
    Refusal {
        reason: Reason::TableChangeRefused,
        message: format!(
            "table {}.{} does not have the columns of dead letters any more; rename or drop it, and it is created anew",
            wanted.schema,
            dead_letter_table(wanted.name.as_str())
        ),
    }
}

/// Whether another pipeline has dead letters here, although it has no table.
fn has_left_dead_letters(pipeline: &PipelineId, observed: &ObservedTable) -> bool {
    let owner = observed.dead_letter_marker.as_ref();
    observed.dead_letters.is_some() && owner.is_some_and(|owner| owner != pipeline)
}

fn missing_extension(observed: &ObservedTable) -> Option<Refusal> {
    (!observed.extension.available).then(|| Refusal {
        reason: Reason::ExtensionMissing,
        message: format!(
            "this PostgreSQL {} has no TimescaleDB; install its package on the server, add timescaledb to \
             shared_preload_libraries and restart the server",
            observed.server_version
        ),
    })
}

fn extension_not_created(observed: &ObservedTable) -> Option<Refusal> {
    observed.extension.installed.is_none().then(|| Refusal {
        reason: Reason::ExtensionMissing,
        message: format!(
            "database {} does not have the extension timescaledb, so it has no hypertable; run in it, and make the \
             table: CREATE EXTENSION timescaledb;",
            observed.database
        ),
    })
}

/// Two pipelines that write into one table from one topic would share its positions and stop each other.
fn fed_by_another(wanted: &Table, pipeline: &PipelineId, observed: &ObservedTable) -> Option<Refusal> {
    let feed = observed.feed.as_ref()?;
    let owner = feed.pipeline.as_ref().filter(|owner| *owner != pipeline)?;
    Some(Refusal {
        reason: Reason::ResourceConflict,
        message: format!(
            "topic {} becomes rows of table {wanted} by the IoTPipeline {} in namespace {} of cluster {} already; choose \
             another kafka.topic or timescale.table, or delete that IoTPipeline, and once it is gone run: {}",
            feed.topic.topic,
            owner.name,
            owner.namespace,
            owner.cluster_name,
            bookkeeping::release_feed(wanted.schema.as_str(), wanted.name.as_str(), &feed.topic),
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

fn not_ours(
    wanted: &Table,
    wanted_table: &WantedTable,
    pipeline: &PipelineId,
    observed: &ObservedTable,
) -> Option<Refusal> {
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
        None if observed.table.is_none() && has_left_dead_letters(pipeline, observed) => Some(Refusal {
            reason: Reason::ResourceConflict,
            message: format!(
                "the dead letters of table {wanted} are another IoTPipeline's, and were kept when its table went; choose \
                 another timescale.table, or to have them kept by this one run: {}",
                bookkeeping::hand_over_dead_letters(wanted.schema.as_str(), wanted.name.as_str(), pipeline),
            ),
        }),
        None if wanted_table.adopt => cannot_adopt(wanted, wanted_table, observed),
        None => {
            let dead_letters = dead_letter_table(wanted.name.as_str());
            // Those that were kept when the table went are ours, and go on.
            let is_ours = observed.dead_letter_marker.as_ref() == Some(pipeline);
            let theirs = observed.dead_letters.as_ref().filter(|_| !is_ours);
            [(wanted.name.as_str(), observed.table.as_ref()), (dead_letters.as_str(), theirs)]
                .into_iter()
                .find_map(|(name, relation)| relation.map(|relation| (name, relation)))
                .map(|(name, relation)| Refusal {
                    reason: Reason::TableNotOwned,
                    message: format!(
                        "{} {}.{name} exists, and no IoTPipeline created it; choose another timescale.table, {}rename \
                         or drop what is there",
                        if relation.is_table { "table" } else { "a view, index or sequence" },
                        wanted.schema,
                        if name == wanted.name.as_str() && relation.is_table {
                            "set adoptionPolicy: Adopt to take it over, set timescale.management: External to write to \
                             it as it is, or "
                        } else {
                            "or "
                        }
                    ),
                })
        }
    }
}
