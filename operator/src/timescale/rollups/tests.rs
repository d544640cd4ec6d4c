//! What becomes of rollups, on each edition.

use std::time::Duration;

use crds::pipeline::ColumnType;
use jiff::Timestamp;

use super::*;
use crate::{
    pipeline::{Aggregate, Columnstore, Function, Pick, Refresh, SortOrder, ValueType},
    timescale::{
        ExpiredChunks, ObservedColumnstore, ObservedPolicy, TablePlan, plan,
        test_support::{DAY, as_wanted, empty, ident, pipeline, sql, table_of, wanted},
    },
};

const HOUR: Duration = Duration::from_secs(3600);

fn hourly() -> Rollup {
    let double = ValueType::Column(ColumnType::DoublePrecision);
    Rollup {
        name: ident("hourly"),
        from: None,
        source_time: ident("time"),
        bucket: HOUR,
        time_column: ident("bucket"),
        group_by: vec![(ident("device"), ValueType::Column(ColumnType::Text))],
        select: vec![
            (ident("last_t"), Aggregate::Picked(Pick::Last, ident("temperature"), ident("time")), double),
            (ident("max_t"), Aggregate::Of(Function::Max, ident("temperature")), double),
            (ident("rows"), Aggregate::CountRows, ValueType::Column(ColumnType::Bigint)),
        ],
        materialized_only: false,
        refresh: Refresh { start_offset: 3 * DAY, end_offset: HOUR, every: HOUR / 2 },
        drop_after: Some(730 * DAY),
        columnstore: Some(Columnstore {
            after: 30 * DAY,
            segment_by: vec![ident("device")],
            order_by: vec![(ident("bucket"), SortOrder::Descending)],
            max_late: None,
        }),
    }
}

fn daily() -> Rollup {
    Rollup {
        name: ident("daily"),
        from: Some(ident("hourly")),
        source_time: ident("bucket"),
        bucket: DAY,
        select: vec![(ident("rows"), Aggregate::Of(Function::Sum, ident("rows")), ValueType::Numeric)],
        materialized_only: true,
        refresh: Refresh { start_offset: 10 * DAY, end_offset: DAY, every: HOUR },
        drop_after: None,
        columnstore: None,
        ..hourly()
    }
}

fn table_with(rollups: Vec<Rollup>) -> Table {
    let mut table = wanted();
    table.wanted.as_mut().unwrap().rollups = rollups;
    table
}

fn with_rollups() -> Table {
    table_with(vec![hourly(), daily()])
}

/// A rollup as the operator makes it, with rows in it.
fn made(rollup: &Rollup, dependents: &[&str]) -> ObservedRollup {
    let columns = rollup.columns().into_iter();
    let policy = |after: Duration, check_interval| ObservedPolicy {
        after: Some(after),
        check_interval,
        scheduled: true,
    };
    let Refresh { start_offset, end_offset, every } = rollup.refresh;
    ObservedRollup {
        name: rollup.name.to_string(),
        marker: Some(RollupMarker {
            definition: definition::text(&wanted(), rollup),
            filled_to: Some(Timestamp::UNIX_EPOCH),
            is_filled: true,
            retention: Some(Retention::of(rollup.drop_after)),
        }),
        view: Some(ObservedView {
            kind: ViewKind::Aggregate(Box::new(ObservedAggregate {
                is_of_table: rollup.from.is_none(),
                materialized_only: rollup.materialized_only,
                oldest: Some(Timestamp::UNIX_EPOCH),
                refresh: Some(ObservedRefresh {
                    start_offset: Some(start_offset.as_secs()),
                    end_offset: Some(end_offset.as_secs()),
                    every: every.as_secs(),
                    scheduled: true,
                }),
                retention: rollup.drop_after.map(|time| policy(time, HOUR)),
                columnstore: rollup.columnstore.as_ref().map(|columnstore| ObservedColumnstore {
                    segment_by: columnstore.segment_by.iter().map(ToString::to_string).collect(),
                    order_by: columnstore
                        .order_by
                        .iter()
                        .map(|(name, order)| (name.to_string(), Some(*order)))
                        .collect(),
                }),
                columnstore_policy: rollup
                    .columnstore
                    .as_ref()
                    .map(|columnstore| policy(columnstore.after, 12 * HOUR)),
                expired: None,
                refreshed_only_to: None,
            })),
            owned: true,
            columns: columns.map(|(name, sql_type)| (name.to_string(), sql_type.to_owned())).collect(),
            readers: Vec::new(),
            dependents: dependents.iter().map(|name| (*name).to_owned()).collect(),
        }),
    }
}

/// Everything as `with_rollups` says.
fn all_made() -> ObservedTable {
    ObservedTable { rollups: vec![made(&hourly(), &["plant_7.daily"]), made(&daily(), &[])], ..as_wanted() }
}

fn aggregate_of(observed: &mut ObservedTable, index: usize) -> &mut ObservedAggregate {
    match &mut observed.rollups[index].view.as_mut().unwrap().kind {
        ViewKind::Aggregate(aggregate) => aggregate,
        other => panic!("{other:?}"),
    }
}

fn plan_for(wanted: &Table, observed: &ObservedTable) -> TablePlan {
    plan(wanted, &pipeline("line"), observed, &Approvals::default())
}

fn rollup_sql(plan: &TablePlan) -> String {
    let steps = plan.steps.iter().map(|step| step.sql.as_str());
    steps.filter(|sql| ["hourly", "daily"].iter().any(|name| sql.contains(name))).collect()
}

#[test]
fn a_new_table_gets_continuous_aggregates_or_views() {
    let community = plan_for(&with_rollups(), &empty(Edition::Community));
    assert_eq!(
        community.fills.iter().map(|fill| fill.name.as_str()).collect::<Vec<_>>(),
        ["hourly", "daily"]
    );
    assert_eq!(community.notes, []);
    let apache2 = plan_for(&with_rollups(), &empty(Edition::Apache2));
    assert_eq!(apache2.fills, []);
    assert_eq!(apache2.notes.len(), 1);
    insta::assert_snapshot!(format!(
        "{}\n{}\n{}",
        rollup_sql(&community),
        rollup_sql(&apache2),
        apache2.notes[0].message
    ));
    assert_eq!(plan_for(&with_rollups(), &all_made()), TablePlan::default());
}

#[test]
fn policies_wait_until_it_is_filled() {
    let mut observed = all_made();
    observed.rollups[0].marker.as_mut().unwrap().is_filled = false;
    let aggregate = aggregate_of(&mut observed, 0);
    (aggregate.refresh, aggregate.columnstore_policy) = (None, None);
    let filling = plan_for(&with_rollups(), &observed);
    assert_eq!((filling.steps.len(), filling.fills.len()), (0, 1));
    observed.rollups[0].marker.as_mut().unwrap().is_filled = true;
    let filled = sql(&plan_for(&with_rollups(), &observed));
    assert!(
        filled.find("add_continuous_aggregate_policy") < filled.find("add_columnstore_policy"),
        "{filled}"
    );
}

#[test]
fn one_with_other_contents_waits_and_takes_those_made_from_it_along() {
    let mut wider = hourly();
    wider.bucket = 2 * HOUR;
    let table = table_with(vec![wider, daily()]);
    let waits = plan_for(&table, &all_made());
    assert_eq!((waits.steps.len(), waits.held.len(), waits.refusals.len()), (0, 1, 1), "{waits:?}");
    insta::assert_snapshot!(waits.refusals[0].message);
    let approved = Approvals::new(0, Some(&Approvals::default().hash(&waits.held[0])), &[]);
    let plan = |observed: &ObservedTable| plan(&table, &pipeline("line"), observed, &approved);
    let anew = sql(&plan(&all_made()));
    let at = |part: &str| anew.find(part).unwrap_or_else(|| panic!("{part} in {anew}"));
    assert!(
        at("DROP MATERIALIZED VIEW \"plant_7\".\"daily\"")
            < at("DROP MATERIALIZED VIEW \"plant_7\".\"hourly\"")
    );
    assert!(
        at("CREATE MATERIALIZED VIEW \"plant_7\".\"hourly\"")
            < at("CREATE MATERIALIZED VIEW \"plant_7\".\"daily\"")
    );
    // Somebody's own view on the one that goes along keeps both, and the approval is not used up.
    let mut observed = all_made();
    observed.rollups[1].view.as_mut().unwrap().dependents.push("public.mine".into());
    let kept = plan(&observed);
    assert_eq!((kept.steps.len(), &kept.held), (0, &waits.held), "{kept:?}");
    assert!(kept.refusals.iter().any(|refusal| refusal.message.contains("public.mine")), "{kept:?}");
}

#[test]
fn one_without_rows_is_made_anew_at_once() {
    let mut observed = all_made();
    aggregate_of(&mut observed, 1).oldest = None;
    let mut other = daily();
    other.group_by.clear();
    let plan = plan_for(&table_with(vec![hourly(), other]), &observed);
    assert!(
        sql(&plan).starts_with("DROP MATERIALIZED VIEW \"plant_7\".\"daily\";\nCREATE MATERIALIZED VIEW")
    );
    assert_eq!(plan.steps.iter().flat_map(|step| &step.changes).next().unwrap().class, ChangeClass::Safe);
}

#[test]
fn a_view_becomes_a_continuous_aggregate_and_keeps_its_readers() {
    let mut observed = all_made();
    for found in &mut observed.rollups {
        let view = found.view.as_mut().unwrap();
        view.kind = ViewKind::View;
        let marker = found.marker.as_mut().unwrap();
        (marker.filled_to, marker.is_filled) = (None, false);
        view.readers = vec![None, Some("graf\"ana".into())];
    }
    let plan = sql(&plan_for(&with_rollups(), &observed));
    assert!(plan.starts_with(
        "DROP VIEW \"plant_7\".\"daily\";\nDROP VIEW \"plant_7\".\"hourly\";\nCREATE MATERIALIZED"
    ));
    assert!(plan.contains(
        "GRANT SELECT ON \"plant_7\".\"hourly\" TO PUBLIC;\nGRANT SELECT ON \"plant_7\".\"hourly\" TO \"graf\"\"ana\";\n"
    ));
}

#[test]
fn what_is_not_ours_or_not_as_it_was_made_is_refused() {
    type Change = fn(&mut ObservedRollup);
    let changes: [Change; 5] = [
        |found| found.marker = None,
        |found| found.view.as_mut().unwrap().kind = ViewKind::Other,
        |found| found.view.as_mut().unwrap().owned = false,
        |found| drop(found.view.as_mut().unwrap().columns.pop()),
        |found| found.view.as_mut().unwrap().kind = ViewKind::View,
    ];
    let messages = changes.map(|change| {
        let mut observed = all_made();
        change(&mut observed.rollups[0]);
        let plan = plan_for(&with_rollups(), &observed);
        assert_eq!(plan.steps, []);
        plan.refusals[0].message.clone()
    });
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn one_over_a_missing_column_waits_with_those_made_from_it() {
    let mut table = with_rollups();
    let wanted = table.wanted.as_mut().unwrap();
    wanted.rollups[0].group_by[0].0 = ident("serial");
    table.columns.push(crate::pipeline::Column {
        name: ident("serial"),
        column_type: ColumnType::Text,
        nullable: false,
    });
    // A column without a value for the rows that are there.
    let plan = plan_for(&table, &as_wanted());
    assert_eq!((plan.steps.len(), plan.refusals.len()), (0, 1), "{plan:?}");
    table.columns.last_mut().unwrap().nullable = true;
    let plan = sql(&plan_for(&table, &as_wanted()));
    assert!(plan.find("ADD COLUMN \"serial\"") < plan.find("CREATE MATERIALIZED VIEW"), "{plan}");
}

#[test]
fn what_leaves_the_spec_stays_and_is_told() {
    let plan = plan_for(&wanted(), &all_made());
    assert_eq!(TablePlan { notes: Vec::new(), ..plan.clone() }, TablePlan::default());
    insta::assert_snapshot!(plan.notes[0].message);
    // What a person has dropped is forgotten.
    let mut observed = all_made();
    observed.rollups[1].view = None;
    observed.rollups.remove(0);
    assert_eq!(
        sql(&plan_for(&wanted(), &observed)),
        "DELETE FROM \"plant_7\".\"_iotpipeline_tables\" WHERE table_name = 'daily' AND rollup_of IS NOT NULL;\n"
    );
}

/// What is said of a retention of 30 days instead of 90, the world being as `with_rollups` but for a change.
fn said_of_a_shorter_retention(table: &Table, change: impl FnOnce(&mut ObservedTable)) -> (Reason, String) {
    let mut table = table.clone();
    table.wanted.as_mut().unwrap().drop_after = Some(30 * DAY);
    let mut observed = all_made();
    change(&mut observed);
    let plan = plan_for(&table, &observed);
    let shortens = |sql: &str| sql.contains("retention_policy('\"plant_7\".\"line\"'");
    assert!(!plan.steps.iter().any(|step| shortens(&step.sql)), "{plan:?}");
    (plan.refusals[0].reason, plan.refusals[0].message.clone())
}

#[test]
fn a_shorter_retention_waits_for_rollups_that_need_the_rows() {
    let behind = |table: &Table, change: fn(&mut ObservedTable)| {
        let (reason, message) = said_of_a_shorter_retention(table, change);
        assert_eq!(reason, Reason::RollupBehind);
        message
    };
    let both = with_rollups();
    let messages = [
        behind(&both, |observed| observed.rollups.clear()),
        behind(&both, |observed| {
            observed.rollups[0].marker.as_mut().unwrap().is_filled = false;
            aggregate_of(observed, 0).refreshed_only_to = Some(Timestamp::MIN);
        }),
        behind(&both, |observed| aggregate_of(observed, 0).refreshed_only_to = Some(Timestamp::UNIX_EPOCH)),
        behind(&wanted(), |observed| {
            aggregate_of(observed, 0).refresh.as_mut().unwrap().start_offset = Some(40 * 86_400);
        }),
        behind(&wanted(), |observed| aggregate_of(observed, 0).refresh.as_mut().unwrap().start_offset = None),
    ];
    insta::assert_snapshot!(messages.join("\n"));
    assert_eq!(said_of_a_shorter_retention(&both, |_| ()).0, Reason::ApprovalRequired);
}

#[test]
fn a_shorter_retention_of_a_rollup_waits_for_a_person_and_for_those_made_from_it() {
    let mut table = with_rollups();
    table.wanted.as_mut().unwrap().rollups[0].drop_after = Some(365 * DAY);
    let mut observed = all_made();
    aggregate_of(&mut observed, 0).expired = Some(ExpiredChunks { number: 3, oldest: None, rows: None });
    let waits = plan_for(&table, &observed);
    assert_eq!((waits.steps.len(), waits.refusals[0].reason), (0, Reason::ApprovalRequired));
    assert!(
        waits.refusals[0].message.contains("from 730 days to 365 days would delete 3 chunks now"),
        "{waits:?}"
    );
    observed.rollups[1].marker.as_mut().unwrap().is_filled = false;
    let approved = Approvals::new(0, Some(&Approvals::default().hash(&waits.held[0])), &[]);
    let behind = plan(&table, &pipeline("line"), &observed, &approved);
    assert_eq!((behind.refusals[0].reason, &behind.held), (Reason::RollupBehind, &waits.held));
}

#[test]
fn a_shorter_retention_waits_where_another_refresh_than_the_specs_goes_on() {
    // What is to be computed of ten minutes is refreshed too narrowly for what is there.
    let mut finer = hourly();
    finer.bucket = HOUR / 6;
    finer.refresh = Refresh { start_offset: HOUR, end_offset: HOUR / 6, every: HOUR / 6 };
    let finer = table_with(vec![finer, daily()]);
    let far = |observed: &mut ObservedTable| {
        aggregate_of(observed, 0).refresh.as_mut().unwrap().start_offset = Some(40 * 86_400);
    };
    let (reason, of_table) = said_of_a_shorter_retention(&finer, far);
    assert_eq!(reason, Reason::RollupBehind);
    // One that is made from a rollup, and left the spec.
    let mut shorter = hourly();
    shorter.drop_after = Some(5 * DAY);
    let plan = plan_for(&table_with(vec![shorter]), &all_made());
    assert_eq!(plan.refusals[0].reason, Reason::RollupBehind, "{plan:?}");
    insta::assert_snapshot!(format!("{of_table}\n{}", plan.refusals[0].message));
}

#[test]
fn a_shorter_retention_waits_where_the_refresh_may_not_be_altered() {
    type Change = fn(&mut ObservedRollup);
    let refused: [Change; 2] = [
        |found| found.view.as_mut().unwrap().owned = false,
        |found| {
            drop(found.view.as_mut().unwrap().columns.pop());
        },
    ];
    let far = |observed: &mut ObservedTable| {
        aggregate_of(observed, 0).refresh.as_mut().unwrap().start_offset = Some(40 * 86_400);
    };
    let messages = refused.map(|change| {
        let (_, message) = said_of_a_shorter_retention(&with_rollups(), |observed| {
            change(&mut observed.rollups[0]);
            far(observed);
        });
        message
    });
    assert_eq!(messages[0], messages[1]);
    insta::assert_snapshot!(messages[0]);
    // Where it may, it becomes the spec's with the retention.
    assert_eq!(said_of_a_shorter_retention(&with_rollups(), far).0, Reason::ApprovalRequired);
}

#[test]
fn a_table_that_became_something_else_gets_none() {
    let mut observed = as_wanted();
    table_of(&mut observed).hypertable = None;
    assert_eq!(plan_for(&with_rollups(), &observed).steps, []);
}
