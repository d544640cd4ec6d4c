//! The difference between a table with all that belongs to it and what it shall be. Pure.

use crds::{names::dead_letter_table, status::Reason, worker::PipelineId};

use super::{
    ObservedTable, TablePlan, TableStep, bookkeeping,
    external::{foreign_dead_letters, misfits},
    grants::{missing_role, plan_grants},
    relation::WantedRelation,
    retention::{plan_approval, plan_retention, retention_in_force},
    rights::missing_rights,
    sql::identifier,
};
use crate::{
    change::{Change, Refusal},
    pipeline::{Table, WantedTable},
};

/// What to do so that `wanted` holds. Where the table is not this pipeline's to change, or cannot be made, the
/// plan has no steps at all; a change that is refused leaves the other steps. `approval` is the value of the
/// pipeline's annotation.
pub fn plan(
    wanted: &Table,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    approval: Option<&str>,
) -> TablePlan {
    match &wanted.wanted {
        Some(wanted_table) => plan_managed(wanted, wanted_table, pipeline, observed, approval),
        None => plan_external(wanted, pipeline, observed),
    }
}

fn plan_managed(
    wanted: &Table,
    wanted_table: &WantedTable,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    approval: Option<&str>,
) -> TablePlan {
    let refusal = missing_extension(observed)
        .or_else(|| missing_rights(wanted, observed))
        .or_else(|| newer_bookkeeping(wanted, observed))
        .or_else(|| not_ours(wanted, pipeline, observed))
        .or_else(|| fed_by_another(wanted, pipeline, observed));
    if let Some(refusal) = refusal {
        return refused(vec![refusal]);
    }
    let Some(extension) = &observed.extension.installed else {
        // The edition shows only in a session that began with the extension.
        return TablePlan { steps: vec![create_extension()], unfinished: true, ..TablePlan::default() };
    };

    let (schema, name) = (wanted.schema.as_str(), wanted.name.as_str());
    let retention = retention_in_force(wanted, observed, approval);
    let mut steps = Vec::new();
    if !observed.schema_exists {
        steps.push(create_schema(schema));
    }
    steps.extend(bookkeeping::migrate(schema, observed.bookkeeping_version));
    if observed.marker.is_none() {
        steps.push(bookkeeping::claim_table(schema, name, pipeline, retention));
    }
    if observed.table.is_none() {
        steps.push(bookkeeping::forget_positions(schema, name));
    }
    steps.extend(claim_feed(wanted, pipeline, observed));
    let table = WantedRelation::target(wanted, wanted_table).plan(observed.table.as_ref(), &extension.schema);
    let dead_letters =
        WantedRelation::dead_letters(wanted).plan(observed.dead_letters.as_ref(), &extension.schema);
    let attempts = table.attempts;
    steps.extend(table.steps);
    steps.extend(dead_letters.steps);

    let is_usable = observed.table.is_none() || observed.is_hypertable();
    if is_usable {
        steps.extend(plan_retention(wanted, retention, extension, observed));
    }
    steps.extend(plan_grants(wanted, observed));

    let mut refusals = table.refusals;
    if !dead_letters.refusals.is_empty() {
        refusals.push(unfit_dead_letters(wanted));
    }
    refusals.extend(missing_role(wanted, observed));
    refusals.extend(plan_approval(wanted, wanted_table, pipeline, observed, approval));
    TablePlan { steps, attempts, refusals, unfinished: false }
}

/// Of a table that is somebody else's, only the operator's bookkeeping and the dead letters are made.
fn plan_external(wanted: &Table, pipeline: &PipelineId, observed: &ObservedTable) -> TablePlan {
    let refusal = missing_extension(observed)
        .or_else(|| extension_not_created(observed))
        .or_else(|| newer_bookkeeping(wanted, observed));
    let (None, Some(extension)) = (&refusal, &observed.extension.installed) else {
        return refused(refusal.into_iter().collect());
    };
    let mut refusals = misfits(wanted, observed);
    let missing_rights = missing_rights(wanted, observed);
    if missing_rights.is_none() {
        // Otherwise the bookkeeping could not be read, and what it says of these is not known.
        refusals.extend(fed_by_another(wanted, pipeline, observed));
        refusals.extend(foreign_dead_letters(wanted, observed));
    }
    refusals.extend(missing_rights);
    if !refusals.is_empty() {
        return refused(refusals);
    }

    let (schema, name) = (wanted.schema.as_str(), wanted.name.as_str());
    let mut steps = Vec::new();
    steps.extend(bookkeeping::migrate(schema, observed.bookkeeping_version));
    // Those of another pipeline's table are that pipeline's to keep.
    if observed.marker.is_none() {
        if observed.dead_letter_marker.is_none() {
            steps.push(bookkeeping::claim_dead_letters(schema, name, pipeline));
        }
        let dead_letters =
            WantedRelation::dead_letters(wanted).plan(observed.dead_letters.as_ref(), &extension.schema);
        let is_ours_to_keep = observed.dead_letters.as_ref().is_none_or(|relation| relation.owned);
        if !dead_letters.refusals.is_empty() || !is_ours_to_keep && !dead_letters.steps.is_empty() {
            refusals.push(unfit_dead_letters(wanted));
        }
        if is_ours_to_keep {
            steps.extend(dead_letters.steps);
        }
    }
    steps.extend(claim_feed(wanted, pipeline, observed));
    steps.extend(plan_grants(wanted, observed));
    refusals.extend(missing_role(wanted, observed));
    TablePlan { steps, refusals, ..TablePlan::default() }
}

fn refused(refusals: Vec<Refusal>) -> TablePlan {
    TablePlan { refusals, ..TablePlan::default() }
}

/// The note that this pipeline writes into the table from its topic, where it is missing.
fn claim_feed(wanted: &Table, pipeline: &PipelineId, observed: &ObservedTable) -> Option<TableStep> {
    let feed = observed.feed.as_ref().filter(|feed| feed.pipeline.is_none())?;
    Some(bookkeeping::claim_feed(wanted.schema.as_str(), wanted.name.as_str(), pipeline, &feed.topic))
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
                        "{} {}.{name} exists, and no IoTPipeline created it; choose another timescale.table, {}rename \
                         or drop what is there",
                        if relation.is_table { "table" } else { "a view, index or sequence" },
                        wanted.schema,
                        if name == wanted.name.as_str() && relation.is_table {
                            "set timescale.management to External to write to it as it is, or "
                        } else {
                            "or "
                        }
                    ),
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pipeline::{Index, SortOrder},
        timescale::{
            Edition, ObservedColumn, ObservedExtension, ObservedIndex, ObservedRetention,
            test_support::{DAY, as_wanted, empty, ident, only_refusal, pipeline, sql, table_of, wanted},
        },
    };

    /// The plan for the pipeline `line`, after a change of the world as wanted.
    fn plan_after(change: impl FnOnce(&mut ObservedTable)) -> TablePlan {
        let mut observed = as_wanted();
        change(&mut observed);
        plan(&wanted(), &pipeline("line"), &observed, None)
    }

    #[test]
    fn a_table_as_wanted_needs_nothing() {
        assert_eq!(plan_after(|_| ()), TablePlan::default());
    }

    #[test]
    fn everything_is_made_from_nothing_in_both_editions() {
        let community = plan(&wanted(), &pipeline("line"), &empty(Edition::Community), None);
        insta::assert_snapshot!(sql(&community));
        let apache2 = plan(&wanted(), &pipeline("line"), &empty(Edition::Apache2), None);
        assert!(sql(&community).starts_with(&sql(&apache2)), "the native policy comes last");
        assert!(!sql(&apache2).contains("retention"));
    }

    #[test]
    fn the_extension_comes_first_and_alone() {
        let mut observed = empty(Edition::Community);
        observed.extension.installed = None;
        let plan = plan(&wanted(), &pipeline("line"), &observed, None);
        assert!(plan.unfinished);
        assert_eq!(sql(&plan), "CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public;\n");
    }

    #[test]
    fn a_server_without_the_extension_is_refused() {
        let mut observed = empty(Edition::Community);
        observed.extension = ObservedExtension::default();
        let plan = plan(&wanted(), &pipeline("line"), &observed, None);
        assert_eq!(only_refusal(&plan).0, Reason::ExtensionMissing);
    }

    #[test]
    fn drift_is_repaired() {
        let plan = plan_after(|observed| {
            let table = table_of(observed);
            table.columns.pop();
            table.columns[1].nullable = true;
            table.hypertable.as_mut().unwrap().has_chunks = false;
            table.hypertable.as_mut().unwrap().chunk_interval = Some(7 * DAY);
            table.indexes[0].columns.pop();
            table.retention.as_mut().unwrap().drop_after = Some(30 * DAY);
            observed.dead_letters = None;
        });
        insta::assert_snapshot!(sql(&plan));
        let changes: Vec<_> =
            plan.steps.iter().flat_map(|step| &step.changes).map(ToString::to_string).collect();
        insta::assert_snapshot!("drift_is_repaired_changes", changes.join("\n"));
    }

    #[test]
    fn a_retention_that_the_spec_no_longer_has_is_removed() {
        let mut table = wanted();
        table.wanted.as_mut().unwrap().drop_after = None;
        let plan = plan(&table, &pipeline("line"), &as_wanted(), None);
        assert_eq!(
            sql(&plan),
            "UPDATE \"plant_7\".\"_iotpipeline_tables\" SET drop_after_seconds = 0 WHERE table_name = 'line';\n\
             SELECT \"public\".remove_retention_policy('\"plant_7\".\"line\"'::regclass);\n"
        );
    }

    #[test]
    fn a_paused_policy_or_another_schedule_is_drift() {
        for change in [
            |retention: &mut ObservedRetention| retention.scheduled = false,
            |retention: &mut ObservedRetention| retention.check_interval = DAY,
        ] {
            let plan = plan_after(|observed| change(table_of(observed).retention.as_mut().unwrap()));
            assert_eq!(plan.steps.len(), 1);
        }
    }

    #[test]
    fn refused_columns_leave_the_other_steps() {
        let plan = plan_after(|observed| {
            let table = table_of(observed);
            table.columns[1].nullable = true;
            table.columns[2].sql_type = "real".into();
            table.columns.push(ObservedColumn {
                name: "old".into(),
                sql_type: "text".into(),
                nullable: false,
                has_default: false,
                is_generated: false,
            });
            table.indexes.clear();
        });
        assert_eq!(plan.steps.len(), 1);
        assert!(plan.refusals.iter().all(|refusal| refusal.reason == Reason::TableChangeRefused));
        let messages: Vec<_> = plan.refusals.iter().map(|refusal| refusal.message.as_str()).collect();
        insta::assert_snapshot!(messages.join("\n"));
    }

    #[test]
    fn a_new_column_is_not_null_only_where_no_row_lacks_it() {
        let missing = |has_chunks| {
            plan_after(|observed| {
                table_of(observed).columns.remove(1);
                table_of(observed).hypertable.as_mut().unwrap().has_chunks = has_chunks;
            })
        };
        assert_eq!(
            sql(&missing(false)),
            "ALTER TABLE \"plant_7\".\"line\" ADD COLUMN \"device\" text NOT NULL;\n"
        );
        assert_eq!(only_refusal(&missing(true)).0, Reason::TableChangeRefused);
    }

    #[test]
    fn columns_and_indexes_that_the_spec_does_not_name_stay() {
        let plan = plan_after(|observed| {
            let table = table_of(observed);
            let column = |name: &str, nullable, has_default| ObservedColumn {
                name: name.into(),
                sql_type: "text".into(),
                nullable,
                has_default,
                is_generated: false,
            };
            table.columns.push(column("former", true, false));
            table.columns.push(column("filled", false, true));
            table.indexes.push(ObservedIndex {
                name: "mine".into(),
                columns: Vec::new(),
                unique_by: Vec::new(),
            });
        });
        assert_eq!(plan, TablePlan::default());
    }

    #[test]
    fn an_index_name_that_is_taken_is_refused() {
        let plan = plan_after(|observed| {
            table_of(observed).indexes[0] = ObservedIndex {
                name: "line_device_time_desc_idx".into(),
                columns: Vec::new(),
                unique_by: Vec::new(),
            };
        });
        let (reason, message) = only_refusal(&plan);
        assert_eq!(reason, Reason::TableChangeRefused);
        assert!(message.ends_with("DROP INDEX \"plant_7\".\"line_device_time_desc_idx\";"), "{message}");
    }

    #[test]
    fn long_index_names_are_cut_and_stay_apart() {
        let mut table = wanted();
        for letter in ["x", "y"] {
            let column = ident(&format!("{}{letter}", "c".repeat(62)));
            table
                .wanted
                .as_mut()
                .unwrap()
                .indexes
                .push(Index { columns: vec![(column, SortOrder::Ascending)] });
        }
        let plan = plan(&table, &pipeline("line"), &as_wanted(), None);
        let names: Vec<_> = plan.steps.iter().map(|step| step.changes[0].to.as_str()).collect();
        assert!(names.iter().all(|name| name.len() == 63), "{names:?}");
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn what_somebody_else_made_is_not_touched() {
        let foreign = plan_after(|observed| observed.marker = None);
        assert_eq!(only_refusal(&foreign).0, Reason::TableNotOwned);
        let dead_letters = plan_after(|observed| {
            observed.marker = None;
            observed.table = None;
        });
        let (reason, message) = only_refusal(&dead_letters);
        assert_eq!(reason, Reason::TableNotOwned);
        assert!(message.starts_with("table plant_7.line_dead_letters exists"), "{message}");

        let conflict = plan(&wanted(), &pipeline("another"), &as_wanted(), None);
        let (reason, message) = only_refusal(&conflict);
        assert_eq!(reason, Reason::ResourceConflict);
        assert!(message.contains("IoTPipeline line in namespace plant-7"), "{message}");
    }

    #[test]
    fn a_table_that_became_something_else_is_refused() {
        let plain = plan_after(|observed| {
            table_of(observed).hypertable = None;
            table_of(observed).retention = None;
        });
        assert_eq!(only_refusal(&plain).0, Reason::TableChangeRefused);
        let other_time = plan_after(|observed| {
            table_of(observed).hypertable.as_mut().unwrap().time_column = "received".into();
        });
        assert!(only_refusal(&other_time).1.contains("partitioned by received rather than time"));
    }

    #[test]
    fn dead_letters_that_somebody_changed_are_refused_and_drop_helps() {
        let plan = plan_after(|observed| {
            let dead_letters = observed.dead_letters.as_mut().unwrap();
            dead_letters.columns[1].sql_type = "integer".into();
            dead_letters.columns.remove(3);
        });
        let (reason, message) = only_refusal(&plan);
        assert_eq!(reason, Reason::TableChangeRefused);
        assert!(
            message.starts_with("table plant_7.line_dead_letters does not have the columns"),
            "{message}"
        );
    }

    #[test]
    fn bookkeeping_of_a_newer_operator_is_refused() {
        let plan = plan_after(|observed| observed.bookkeeping_version += 1);
        assert_eq!(only_refusal(&plan).0, Reason::DatabaseRefused);
    }

    #[test]
    fn missing_rights_are_told_with_the_sql_that_grants_them() {
        let mut bare = empty(Edition::Community);
        bare.extension.installed = None;
        bare.rights.create_in_database = false;
        let plan_of = |observed: &ObservedTable| plan(&wanted(), &pipeline("line"), observed, None);
        let nothing = plan_of(&bare);
        let untrusted = {
            let mut observed = empty(Edition::Community);
            observed.extension = ObservedExtension { available: true, ..ObservedExtension::default() };
            plan_of(&observed)
        };
        let schema = plan_after(|observed| observed.rights.create_in_schema = false);
        let bookkeeping =
            plan_after(|observed| observed.rights.unusable_bookkeeping = vec!["_iotpipeline_topics".into()]);
        let tables = plan_after(|observed| {
            table_of(observed).owned = false;
            observed.dead_letters.as_mut().unwrap().owned = false;
        });
        let messages = [nothing, untrusted, schema, bookkeeping, tables].map(|plan| {
            let (reason, message) = only_refusal(&plan);
            assert_eq!(reason, Reason::PermissionMissing);
            message.to_owned()
        });
        insta::assert_snapshot!(messages.join("\n"));
    }
}
