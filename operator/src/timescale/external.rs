//! A table that somebody else keeps: whether rows of this pipeline fit. Nothing of it is ever altered. Pure.

use crds::{names::dead_letter_table, status::Reason, worker::PipelineId};

use super::{
    ObservedColumn, ObservedRelation, ObservedTable, bookkeeping,
    relation::indexes::is_unique_by,
    sql::{identifier, identifiers, literal, qualified},
};
use crate::{
    change::Refusal,
    pipeline::{Column, Table},
};

/// Everything about the table that would keep rows out, each with what to do.
pub(super) fn misfits(wanted: &Table, observed: &ObservedTable) -> Vec<Refusal> {
    let Some(relation) = &observed.table else {
        return vec![unfit(format!(
            "table {wanted} does not exist, and timescale.management is External; create it, or set management: Managed \
             in a new IoTPipeline"
        ))];
    };
    if let Some(misfit) = no_hypertable(wanted, relation) {
        return vec![misfit];
    }
    let mut misfits = Vec::from_iter(other_time_column(wanted, relation));
    let key: Vec<String> = wanted.unique_by.iter().map(ToString::to_string).collect();
    if !key.is_empty() && !is_unique_by(relation, &key) {
        misfits.push(unfit(format!(
            "table {wanted} has no unique index on exactly the columns {} of timescale.uniqueBy; leave uniqueBy out, or \
             run: CREATE UNIQUE INDEX ON {} ({});",
            key.join(", "),
            qualified(wanted.schema.as_str(), wanted.name.as_str()),
            identifiers(&key)
        )));
    }
    misfits.extend(wanted.columns.iter().filter_map(|column| misfit_of(wanted, column, relation)));
    let is_wanted =
        |found: &&ObservedColumn| wanted.columns.iter().any(|column| column.name.as_str() == found.name);
    let needed = relation.columns.iter().filter(|found| !found.nullable && !found.has_default);
    misfits.extend(needed.filter(|found| !is_wanted(found)).map(|found| {
        unfit(format!(
            "column {} of table {wanted} is NOT NULL without a default, and timescale.columns does not name it, so no \
             row could be written; name it there, or give it a default",
            found.name
        ))
    }));
    misfits
}

/// Whether it is something else than a hypertable.
pub(super) fn no_hypertable(wanted: &Table, relation: &ObservedRelation) -> Option<Refusal> {
    if relation.hypertable.is_some() {
        return None;
    }
    let what_to_do = if relation.is_table {
        let name = literal(&qualified(wanted.schema.as_str(), wanted.name.as_str()));
        let range = literal(wanted.time_column.as_str());
        format!("table {wanted} is no hypertable; run: SELECT create_hypertable({name}, by_range({range}));")
    } else {
        format!("{wanted} is no table, so no hypertable; name another one in timescale.table")
    };
    Some(unfit(what_to_do))
}

/// Whether the hypertable is partitioned by another column.
pub(super) fn other_time_column(wanted: &Table, relation: &ObservedRelation) -> Option<Refusal> {
    let found = &relation.hypertable.as_ref()?.time_column;
    (found != wanted.time_column.as_str()).then(|| {
        unfit(format!(
            "table {wanted} is partitioned by column {found} and timescale.timeColumn says {}; correct timeColumn",
            wanted.time_column
        ))
    })
}

/// Those of the wanted columns into which nothing can be written.
pub(super) fn generated_columns(wanted: &Table, relation: &ObservedRelation) -> Vec<Refusal> {
    let is_generated = |column: &&Column| {
        relation.columns.iter().any(|found| found.name == column.name.as_str() && found.is_generated)
    };
    wanted.columns.iter().filter(is_generated).map(|column| generated(wanted, column)).collect()
}

/// Whether the table of dead letters, if there is one, is somebody else's.
pub(super) fn foreign_dead_letters(wanted: &Table, observed: &ObservedTable) -> Option<Refusal> {
    let is_ours = observed.marker.is_some() || observed.dead_letter_marker.is_some();
    (observed.dead_letters.is_some() && !is_ours).then(|| Refusal {
        reason: Reason::TableNotOwned,
        message: format!(
            "{}.{} exists, and no IoTPipeline created it; the dead letters of table {wanted} need this name: rename or \
             drop what is there",
            wanted.schema,
            dead_letter_table(wanted.name.as_str())
        ),
    })
}

/// Whether the spec says how long dead letters stay that another pipeline keeps.
pub(super) fn kept_by_another(
    wanted: &Table,
    pipeline: &PipelineId,
    observed: &ObservedTable,
) -> Option<Refusal> {
    wanted.dead_letters_drop_after?;
    let owner = observed.dead_letter_marker.as_ref().filter(|owner| *owner != pipeline)?;
    let (schema, name) = (wanted.schema.as_str(), wanted.name.as_str());
    // Those of a table that the other one manages stay with that table.
    let may_take_over = observed.marker.as_ref() != Some(owner);
    let take_over = may_take_over.then(|| {
        let sql = bookkeeping::hand_over_dead_letters(schema, name, pipeline);
        format!("; to have this IoTPipeline keep them instead, run: {sql}")
    });
    Some(Refusal {
        reason: Reason::TableChangeRefused,
        message: format!(
            "the dead letters of table {wanted} are kept by the IoTPipeline {} in namespace {} of cluster {}; leave \
             timescale.deadLetters out, and set it there{}",
            owner.name,
            owner.namespace,
            owner.cluster_name,
            take_over.unwrap_or_default(),
        ),
    })
}

fn misfit_of(wanted: &Table, column: &Column, relation: &ObservedRelation) -> Option<Refusal> {
    let (name, sql_type) = (&column.name, column.column_type.sql());
    let alter = |action: &str| {
        let table = qualified(wanted.schema.as_str(), wanted.name.as_str());
        format!("ALTER TABLE {table} {action};")
    };
    let quoted = identifier(name.as_str());
    let Some(found) = relation.columns.iter().find(|found| found.name == name.as_str()) else {
        return Some(unfit(format!(
            "table {wanted} has no column {name}; take it out of timescale.columns, or run: {}",
            alter(&format!("ADD COLUMN {quoted} {sql_type}"))
        )));
    };
    if found.sql_type != sql_type {
        return Some(unfit(format!(
            "column {name} of table {wanted} has type {} and timescale.columns says {sql_type}; name the column's own \
             type, or another column",
            found.sql_type
        )));
    }
    if found.is_generated {
        return Some(generated(wanted, column));
    }
    (column.nullable && !found.nullable).then(|| {
        unfit(format!(
            "column {name} of table {wanted} is NOT NULL and timescale.columns says nullable, so rows without a value \
             would be refused; set nullable: false, or run: {}",
            alter(&format!("ALTER COLUMN {quoted} DROP NOT NULL"))
        ))
    })
}

fn generated(wanted: &Table, column: &Column) -> Refusal {
    unfit(format!(
        "column {} of table {wanted} is computed from other columns; take it out of timescale.columns",
        column.name
    ))
}

fn unfit(message: String) -> Refusal {
    Refusal { reason: Reason::TableUnfit, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Approvals,
        timescale::{
            KnownRetention, ObservedFeed, ObservedIndex, Retention, TablePlan, plan,
            test_support::{DAY, as_wanted, ident, only_refusal, pipeline, sql, table_of, topic, wanted},
        },
    };

    fn external() -> Table {
        Table { wanted: None, ..wanted() }
    }

    /// A table that somebody else made, fits, and has nothing of ours beside it.
    fn theirs() -> ObservedTable {
        let mut observed = ObservedTable {
            bookkeeping_version: 0,
            marker: None,
            dead_letter_marker: None,
            retention: KnownRetention::default(),
            dead_letter_retention: KnownRetention::default(),
            feed: Some(ObservedFeed { topic: topic(), pipeline: None }),
            dead_letters: None,
            ..as_wanted()
        };
        table_of(&mut observed).owned = false;
        observed
    }

    fn plan_after(change: impl FnOnce(&mut ObservedTable)) -> TablePlan {
        let mut observed = theirs();
        change(&mut observed);
        plan(&external(), &pipeline("line"), &observed, &Approvals::default())
    }

    #[test]
    fn beside_a_table_that_fits_only_bookkeeping_and_dead_letters_are_made() {
        let plan = plan_after(|_| ());
        insta::assert_snapshot!(sql(&plan));
        let changes: Vec<_> =
            plan.steps.iter().flat_map(|step| &step.changes).map(ToString::to_string).collect();
        assert_eq!(changes, ["table plant_7.line_dead_letters created"]);
    }

    #[test]
    fn nothing_is_left_to_do_once_it_is_made_for_any_number_of_pipelines() {
        let ours = |name: &str| {
            let mut observed = theirs();
            observed.bookkeeping_version = as_wanted().bookkeeping_version;
            observed.dead_letters = as_wanted().dead_letters;
            observed.dead_letter_marker = Some(pipeline("line"));
            observed.dead_letter_retention.applied = Some(Retention::ForEver);
            observed.feed = Some(ObservedFeed { topic: topic(), pipeline: Some(pipeline(name)) });
            observed
        };
        assert_eq!(
            plan(&external(), &pipeline("line"), &ours("line"), &Approvals::default()),
            TablePlan::default()
        );
        assert_eq!(
            plan(&external(), &pipeline("other"), &ours("other"), &Approvals::default()),
            TablePlan::default()
        );
        // Those of a table that another pipeline manages serve as well.
        let mut managed = ours("other");
        managed.marker = Some(pipeline("line"));
        assert_eq!(
            plan(&external(), &pipeline("other"), &managed, &Approvals::default()),
            TablePlan::default()
        );
    }

    #[test]
    fn nothing_is_claimed_from_a_topic_that_is_not_known() {
        let plan = plan_after(|observed| observed.feed = None);
        assert!(!sql(&plan).contains("INSERT INTO \"plant_7\".\"_iotpipeline_feeds\""));
    }

    #[test]
    fn every_misfit_is_told_and_then_nothing_is_made() {
        let column = |name: &str, nullable, has_default| ObservedColumn {
            name: name.into(),
            sql_type: "text".into(),
            nullable,
            has_default,
            is_generated: false,
        };
        let plans = [
            plan_after(|observed| observed.table = None),
            plan_after(|observed| table_of(observed).hypertable = None),
            plan_after(|observed| {
                table_of(observed).hypertable = None;
                table_of(observed).is_table = false;
            }),
            plan_after(|observed| {
                let table = table_of(observed);
                table.hypertable.as_mut().unwrap().time_column = "received".into();
                table.columns[0].sql_type = "timestamp without time zone".into();
                table.columns[1].is_generated = true;
                table.columns[2].nullable = false;
                table.columns.push(column("line", false, false));
            }),
            plan_after(|observed| {
                table_of(observed).columns.truncate(1);
            }),
        ];
        let messages = plans.map(|plan| {
            assert_eq!(plan.steps, []);
            assert!(plan.refusals.iter().all(|refusal| refusal.reason == Reason::TableUnfit), "{plan:?}");
            plan.refusals.into_iter().map(|refusal| refusal.message).collect::<Vec<_>>().join("\n")
        });
        insta::assert_snapshot!(messages.join("\n"));
        let more_than_needed = plan_after(|observed| {
            let table = table_of(observed);
            // NOT NULL where every row has a value, and the reverse.
            table.columns[1].nullable = true;
            table.columns.push(column("comment", true, false));
            table.columns.push(column("kind", false, true));
        });
        assert_eq!(more_than_needed.refusals, []);
    }

    #[test]
    fn a_natural_key_needs_a_unique_index_on_exactly_its_columns() {
        let wanted = Table { unique_by: vec![ident("device"), ident("time")], ..external() };
        let plan_with = |unique_by: &[&str]| {
            let mut observed = theirs();
            let unique_by = unique_by.iter().map(|name| (*name).to_owned()).collect();
            let index =
                ObservedIndex { name: "theirs".into(), is_valid: true, columns: Vec::new(), unique_by };
            table_of(&mut observed).indexes.push(index);
            plan(&wanted, &pipeline("line"), &observed, &Approvals::default())
        };
        assert_eq!(plan_with(&["time", "device"]).refusals, []);
        for columns in [&[][..], &["time"], &["time", "device", "temperature"]] {
            let plan = plan_with(columns);
            let (reason, message) = only_refusal(&plan);
            assert_eq!(reason, Reason::TableUnfit);
            assert!(
                message.ends_with("run: CREATE UNIQUE INDEX ON \"plant_7\".\"line\" (\"device\", \"time\");"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_second_pipeline_from_the_same_topic_is_refused() {
        let plan = plan_after(|observed| observed.feed.as_mut().unwrap().pipeline = Some(pipeline("first")));
        let (reason, message) = only_refusal(&plan);
        assert_eq!(reason, Reason::ResourceConflict);
        insta::assert_snapshot!(message);
    }

    #[test]
    fn dead_letters_go_after_a_time_where_the_pipeline_keeps_them() {
        let keeping = Table { dead_letters_drop_after: Some(7 * DAY), ..external() };
        let made = plan(&keeping, &pipeline("line"), &theirs(), &Approvals::default());
        assert!(
            sql(&made).contains("('line_dead_letters', 'c', 'plant-7', 'line', 604800, true, false);"),
            "{made:?}"
        );
        assert!(sql(&made).contains("add_retention_policy('\"plant_7\".\"line_dead_letters\"'"), "{made:?}");

        let mut observed = theirs();
        observed.bookkeeping_version = as_wanted().bookkeeping_version;
        observed.dead_letters = as_wanted().dead_letters;
        observed.dead_letter_retention = as_wanted().dead_letter_retention;
        observed.dead_letter_marker = Some(pipeline("line"));
        let first = plan(&keeping, &pipeline("line"), &observed, &Approvals::default());
        assert_eq!(first.refusals[0].reason, Reason::ApprovalRequired);
        observed.dead_letters.as_mut().unwrap().owned = false;
        let message =
            only_refusal(&plan(&keeping, &pipeline("line"), &observed, &Approvals::default())).1.to_owned();
        assert!(
            message.ends_with(": ALTER TABLE \"plant_7\".\"line_dead_letters\" OWNER TO \"app\";"),
            "{message}"
        );

        // Another pipeline's, beside a table that nobody manages, and beside one that it does.
        let mut messages = Vec::new();
        for marker in [None, Some(pipeline("line"))] {
            observed.marker = marker;
            observed.feed = None;
            let plan = plan(&keeping, &pipeline("other"), &observed, &Approvals::default());
            let (reason, message) = only_refusal(&plan);
            assert_eq!(reason, Reason::TableChangeRefused);
            messages.push(message.to_owned());
        }
        insta::assert_snapshot!(messages.join("\n"));
    }

    #[test]
    fn dead_letters_of_somebody_else_are_refused() {
        let plan = plan_after(|observed| observed.dead_letters = as_wanted().dead_letters);
        assert_eq!(only_refusal(&plan).0, Reason::TableNotOwned);
    }

    #[test]
    fn without_create_on_the_schema_the_sql_is_told() {
        let plan = plan_after(|observed| observed.rights.create_in_schema = false);
        let (reason, message) = only_refusal(&plan);
        assert_eq!(reason, Reason::PermissionMissing);
        assert!(message.ends_with(": GRANT USAGE, CREATE ON SCHEMA \"plant_7\" TO \"app\";"), "{message}");
    }
}
