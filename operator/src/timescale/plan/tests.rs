//! What is planned for a table that the operator makes and keeps.

use crds::status::ChangeClass;

use super::*;
use crate::{
    pipeline::{Column, Index, SortOrder},
    timescale::{
        Edition, ObservedColumn, ObservedExtension, ObservedIndex, ObservedPolicy,
        test_support::{DAY, as_wanted, empty, ident, only_refusal, pipeline, sql, table_of, wanted},
    },
};

/// The plan for the pipeline `line`, after a change of the world as wanted.
fn plan_after(change: impl FnOnce(&mut ObservedTable)) -> TablePlan {
    let mut observed = as_wanted();
    change(&mut observed);
    plan(&wanted(), &pipeline("line"), &observed, &Approvals::default())
}

#[test]
fn a_table_as_wanted_needs_nothing() {
    assert_eq!(plan_after(|_| ()), TablePlan::default());
}

#[test]
fn everything_is_made_from_nothing_in_both_editions() {
    let community = plan(&wanted(), &pipeline("line"), &empty(Edition::Community), &Approvals::default());
    insta::assert_snapshot!(sql(&community));
    let apache2 = plan(&wanted(), &pipeline("line"), &empty(Edition::Apache2), &Approvals::default());
    assert!(sql(&community).starts_with(&sql(&apache2)), "the native policy comes last");
    assert!(!sql(&apache2).contains("retention"));
}

#[test]
fn the_extension_comes_first_and_alone() {
    let mut observed = empty(Edition::Community);
    observed.extension.installed = None;
    let plan = plan(&wanted(), &pipeline("line"), &observed, &Approvals::default());
    assert!(plan.unfinished);
    assert_eq!(sql(&plan), "CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public;\n");
}

#[test]
fn a_server_without_the_extension_is_refused() {
    let mut observed = empty(Edition::Community);
    observed.extension = ObservedExtension::default();
    let plan = plan(&wanted(), &pipeline("line"), &observed, &Approvals::default());
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
        table.retention.as_mut().unwrap().after = Some(30 * DAY);
        observed.dead_letters = None;
    });
    insta::assert_snapshot!(sql(&plan));
    let changes: Vec<_> = plan.steps.iter().flat_map(|step| &step.changes).map(ToString::to_string).collect();
    insta::assert_snapshot!("drift_is_repaired_changes", changes.join("\n"));
}

#[test]
fn a_retention_that_the_spec_no_longer_has_is_removed() {
    let mut table = wanted();
    table.wanted.as_mut().unwrap().drop_after = None;
    let plan = plan(&table, &pipeline("line"), &as_wanted(), &Approvals::default());
    assert_eq!(
        sql(&plan),
        "UPDATE \"plant_7\".\"_iotpipeline_tables\" SET drop_after_seconds = 0 WHERE table_name = 'line';\n\
         SELECT \"public\".remove_retention_policy('\"plant_7\".\"line\"'::regclass);\n"
    );
}

#[test]
fn a_paused_policy_or_another_schedule_is_drift() {
    for change in [
        |retention: &mut ObservedPolicy| retention.scheduled = false,
        |retention: &mut ObservedPolicy| retention.check_interval = DAY,
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
    assert_eq!((plan.steps.len(), plan.builds.len()), (0, 1));
    assert!(plan.refusals.iter().all(|refusal| refusal.reason == Reason::TableChangeRefused));
    let messages: Vec<_> = plan.refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn no_index_is_tried_over_a_column_that_is_refused() {
    let mut table = wanted();
    table.columns.push(Column { name: ident("shift"), nullable: false, ..table.columns[1].clone() });
    let columns = vec![(ident("shift"), SortOrder::Ascending)];
    table.wanted.as_mut().unwrap().indexes.push(Index { columns });
    table.unique_by = vec![ident("shift"), ident("time")];
    let plan = plan(&table, &pipeline("line"), &as_wanted(), &Approvals::default());
    assert!(only_refusal(&plan).1.starts_with("column shift cannot be added"), "{plan:?}");
}

#[test]
fn a_step_that_holds_writers_up_or_refuses_rows_is_disruptive() {
    let changes_after = |change: &dyn Fn(&mut ObservedTable)| -> Vec<(String, ChangeClass)> {
        let plan = plan_after(change);
        assert_eq!(plan.refusals, []);
        let steps = plan.steps.into_iter().chain(plan.builds.into_iter().map(|build| build.step));
        steps.flat_map(|step| step.changes).map(|made| (made.field, made.class)).collect()
    };
    for (has_chunks, class) in [(true, ChangeClass::Disruptive), (false, ChangeClass::Safe)] {
        let indexes = changes_after(&|observed| {
            table_of(observed).indexes.clear();
            table_of(observed).hypertable.as_mut().unwrap().has_chunks = has_chunks;
        });
        assert!(!indexes.is_empty() && indexes.iter().all(|(_, found)| *found == class), "{indexes:?}");
    }
    let device = |nullable: bool| {
        changes_after(&move |observed| {
            let table = table_of(observed);
            table.hypertable.as_mut().unwrap().has_chunks = false;
            let column = table.columns.iter_mut().find(|column| column.nullable != nullable).unwrap();
            column.nullable = nullable;
        })
    };
    assert_eq!(device(true)[0].1, ChangeClass::Disruptive, "becomes NOT NULL");
    assert_eq!(device(false)[0].1, ChangeClass::Safe, "takes NULL");
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
        "ALTER TABLE \"plant_7\".\"line\" ADD COLUMN \"device\" text;\n\
         ALTER TABLE \"plant_7\".\"line\" ALTER COLUMN \"device\" SET NOT NULL;\n"
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
            is_valid: true,
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
            is_valid: true,
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
        table.wanted.as_mut().unwrap().indexes.push(Index { columns: vec![(column, SortOrder::Ascending)] });
    }
    let plan = plan(&table, &pipeline("line"), &as_wanted(), &Approvals::default());
    let names: Vec<_> = plan.builds.iter().map(|build| build.index.as_str()).collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.len() == 63), "{names:?}");
    assert_ne!(names[0], names[1]);
}

#[test]
fn what_somebody_else_made_is_not_touched() {
    let foreign = plan_after(|observed| observed.marker = None);
    assert_eq!(only_refusal(&foreign).0, Reason::TableNotOwned);
    let dead_letters = plan_after(|observed| {
        observed.marker = None;
        observed.dead_letter_marker = None;
        observed.table = None;
    });
    let (reason, message) = only_refusal(&dead_letters);
    assert_eq!(reason, Reason::TableNotOwned);
    assert!(message.starts_with("table plant_7.line_dead_letters exists"), "{message}");
    let kept_by_another = plan_after(|observed| {
        observed.marker = None;
        observed.dead_letter_marker = Some(pipeline("other"));
        observed.table = None;
    });
    let (reason, message) = only_refusal(&kept_by_another);
    assert_eq!(reason, Reason::ResourceConflict);
    assert!(
        message.contains("('c', 'plant-7', 'line') WHERE table_name = 'line_dead_letters';"),
        "{message}"
    );

    let conflict = plan(&wanted(), &pipeline("another"), &as_wanted(), &Approvals::default());
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
    assert!(message.starts_with("table plant_7.line_dead_letters does not have the columns"), "{message}");
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
    let plan_of =
        |observed: &ObservedTable| plan(&wanted(), &pipeline("line"), observed, &Approvals::default());
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
