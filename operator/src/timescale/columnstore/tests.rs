//! When and how chunks go into the columnstore.

use super::*;
use crate::{
    change::Approvals,
    timescale::{
        ObservedPolicy, TablePlan, plan,
        test_support::{DAY, as_wanted, empty, ident, pipeline, sql, table_of, wanted},
    },
};

/// The table, with chunks of more than seven days in the columnstore.
fn with_columnstore() -> Table {
    let mut table = wanted();
    table.wanted.as_mut().unwrap().columnstore = Some(Columnstore {
        after: 7 * DAY,
        segment_by: vec![ident("device")],
        order_by: vec![(ident("time"), SortOrder::Descending)],
        max_late: Some(7 * DAY),
    });
    table
}

fn columnstore_of(table: &mut Table) -> &mut Columnstore {
    table.wanted.as_mut().unwrap().columnstore.as_mut().unwrap()
}

/// A database in which everything is as `with_columnstore` says.
fn with_columnstore_made() -> ObservedTable {
    let mut observed = as_wanted();
    let table = table_of(&mut observed);
    table.columnstore = Some(ObservedColumnstore {
        segment_by: vec!["device".into()],
        order_by: vec![("time".into(), Some(SortOrder::Descending))],
    });
    table.columnstore_policy = Some(ObservedPolicy {
        after: Some(7 * DAY),
        check_interval: Duration::from_secs(12 * 3600),
        scheduled: true,
    });
    observed
}

fn plan_for(wanted: &Table, observed: &ObservedTable) -> TablePlan {
    plan(wanted, &pipeline("line"), observed, &Approvals::default())
}

/// What is changed where the spec is as `with_columnstore`, after a change of it, and the world as it was made before.
fn changes_after(change: impl FnOnce(&mut Columnstore)) -> Vec<String> {
    let mut table = with_columnstore();
    change(columnstore_of(&mut table));
    changes(&plan_for(&table, &with_columnstore_made()))
}

fn changes(plan: &TablePlan) -> Vec<String> {
    plan.steps.iter().flat_map(|step| &step.changes).map(ToString::to_string).collect()
}

#[test]
fn a_new_table_gets_settings_and_policy_and_then_nothing_is_left_to_do() {
    let new = plan_for(&with_columnstore(), &empty(Edition::Community));
    let steps = new.steps.iter().filter(|step| step.sql.contains("columnstore"));
    insta::assert_snapshot!(steps.map(|step| step.sql.as_str()).collect::<String>());
    let told: Vec<_> = changes(&new).into_iter().filter(|change| change.contains("columnstore")).collect();
    assert_eq!(
        told,
        [
            "table plant_7.line: columnstore segmentBy set to device",
            "table plant_7.line: columnstore orderBy set to time DESC",
            "table plant_7.line: columnstore after set to 7 days",
        ]
    );
    assert_eq!(plan_for(&with_columnstore(), &with_columnstore_made()), TablePlan::default());
}

#[test]
fn a_change_of_any_setting_is_made() {
    assert_eq!(
        changes_after(|columnstore| columnstore.after = 14 * DAY),
        ["table plant_7.line: columnstore after changed from 7 days (looked for every 12 hours) to 14 days"]
    );
    assert_eq!(
        changes_after(|columnstore| columnstore.segment_by.clear()),
        ["table plant_7.line: columnstore segmentBy removed (was device)"]
    );
    assert_eq!(
        changes_after(|columnstore| {
            columnstore.order_by.insert(0, (ident("temperature"), SortOrder::Ascending));
        }),
        ["table plant_7.line: columnstore orderBy changed from time DESC to temperature, time DESC"]
    );
    assert_eq!(
        changes_after(|columnstore| columnstore.order_by[0].1 = SortOrder::Ascending),
        ["table plant_7.line: columnstore orderBy changed from time DESC to time"]
    );
}

#[test]
fn all_settings_are_written_wherever_one_differs() {
    let mut table = with_columnstore();
    columnstore_of(&mut table).segment_by.clear();
    columnstore_of(&mut table).order_by.insert(0, (ident("device"), SortOrder::Ascending));
    assert_eq!(
        sql(&plan_for(&table, &with_columnstore_made())),
        "ALTER TABLE \"plant_7\".\"line\" SET (timescaledb.enable_columnstore = true, \
         timescaledb.segmentby = '', timescaledb.orderby = '\"device\", \"time\" DESC');\n"
    );
}

#[test]
fn what_somebody_changed_is_repaired() {
    type Drift = fn(&mut ObservedRelation);
    let drifts: [(Drift, &[&str]); 7] = [
        (
            |table| table.columnstore = None,
            &["columnstore segmentBy set to device", "columnstore orderBy set to time DESC"],
        ),
        (
            |table| table.columnstore.as_mut().unwrap().segment_by.push("temperature".into()),
            &["columnstore segmentBy changed from device, temperature to device"],
        ),
        (
            |table| table.columnstore.as_mut().unwrap().order_by[0].1 = None,
            &["columnstore orderBy changed from time with its NULLs elsewhere to time DESC"],
        ),
        (|table| table.columnstore_policy = None, &["columnstore after set to 7 days"]),
        (
            |table| table.columnstore_policy.as_mut().unwrap().scheduled = false,
            &["columnstore after changed from 7 days (looked for every 12 hours, paused) to 7 days"],
        ),
        (
            |table| table.columnstore_policy.as_mut().unwrap().check_interval = DAY,
            &["columnstore after changed from 7 days (looked for every 1 day) to 7 days"],
        ),
        (
            |table| table.columnstore_policy.as_mut().unwrap().after = None,
            &["columnstore after changed from another rule (looked for every 12 hours) to 7 days"],
        ),
    ];
    for (drift, expected) in drifts {
        let mut observed = with_columnstore_made();
        drift(table_of(&mut observed));
        let expected: Vec<_> =
            expected.iter().map(|change| format!("table plant_7.line: {change}")).collect();
        assert_eq!(changes(&plan_for(&with_columnstore(), &observed)), expected);
    }
}

#[test]
fn another_policy_replaces_the_one_that_is_there() {
    let mut observed = with_columnstore_made();
    table_of(&mut observed).columnstore_policy.as_mut().unwrap().after = Some(DAY);
    assert_eq!(
        sql(&plan_for(&with_columnstore(), &observed)),
        "CALL \"public\".remove_columnstore_policy('\"plant_7\".\"line\"'::regclass);\n\
         CALL \"public\".add_columnstore_policy('\"plant_7\".\"line\"'::regclass, after => INTERVAL '7 days', \
         schedule_interval => INTERVAL '12 hours');\n"
    );
}

#[test]
fn where_the_spec_no_longer_has_a_columnstore_only_the_policy_goes() {
    let without = plan_for(&wanted(), &with_columnstore_made());
    assert_eq!(
        sql(&without),
        "CALL \"public\".remove_columnstore_policy('\"plant_7\".\"line\"'::regclass);\n"
    );
    assert_eq!(
        changes(&without),
        ["table plant_7.line: columnstore after removed (was 7 days (looked for every 12 hours))"]
    );
}

#[test]
fn a_server_without_a_columnstore_is_told_of_and_all_else_is_made() {
    let mut messages = Vec::new();
    for (edition, version) in [(Edition::Apache2, "2.19.3"), (Edition::Community, "2.17.2")] {
        let mut observed = empty(edition);
        observed.extension.installed.as_mut().unwrap().version = version.into();
        let (with, without) = (plan_for(&with_columnstore(), &observed), plan_for(&wanted(), &observed));
        assert_eq!(TablePlan { notes: Vec::new(), ..with.clone() }, without);
        assert_eq!(with.notes[0].reason, Reason::ColumnstoreUnsupported);
        messages.push(with.notes[0].message.clone());
    }
    insta::assert_snapshot!(messages.join("\n"));
    for version in ["2.18.0", "2.23.0-dev", "3.0.0", "unknown"] {
        assert!(!is_too_old(version), "{version}");
    }
}

#[test]
fn rows_that_may_find_their_chunk_in_the_columnstore_are_told_of() {
    let note = |max_late: Option<u32>| {
        let mut table = with_columnstore();
        columnstore_of(&mut table).max_late = max_late.map(|days| days * DAY);
        let plan = plan_for(&table, &with_columnstore_made());
        assert_eq!(plan.steps, []);
        plan.notes.into_iter().next()
    };
    for days in [1, 7] {
        assert_eq!(note(Some(days)), None);
    }
    let messages = [Some(30), None].map(|days| {
        let note = note(days).unwrap();
        assert_eq!(note.reason, Reason::LateRowsInColumnstore);
        note.message
    });
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn settings_wait_for_columns_that_are_missing() {
    let mut table = with_columnstore();
    columnstore_of(&mut table).segment_by = vec![ident("serial")];
    let serial = crate::pipeline::Column {
        name: ident("serial"),
        column_type: crds::pipeline::ColumnType::Uuid,
        nullable: false,
    };
    table.columns.push(serial);
    let refused = plan_for(&table, &with_columnstore_made());
    assert_eq!((refused.steps.len(), refused.refusals.len()), (0, 1), "{refused:?}");
    // A column that can be added is there before it is named.
    table.columns.last_mut().unwrap().nullable = true;
    let added = sql(&plan_for(&table, &with_columnstore_made()));
    assert!(added.find("ADD COLUMN \"serial\"") < added.find("segmentby = '\"serial\"'"), "{added}");
}

#[test]
fn a_table_that_became_something_else_gets_none() {
    for change in [
        |table: &mut ObservedRelation| table.hypertable = None,
        |table: &mut ObservedRelation| table.hypertable.as_mut().unwrap().time_column = "received".into(),
    ] {
        let mut observed = as_wanted();
        change(table_of(&mut observed));
        let plan = plan_for(&with_columnstore(), &observed);
        assert_eq!((plan.steps.len(), plan.refusals.len()), (0, 1), "{plan:?}");
    }
}

#[test]
fn chunks_are_looked_for_twice_in_the_time_of_one() {
    let seconds = |chunk_interval| check_interval(Duration::from_secs(chunk_interval)).as_secs();
    assert_eq!([seconds(7 * 86_400), seconds(86_400), seconds(7201), seconds(1)], [43_200, 43_200, 3600, 60]);
}
