//! What a rollup computes: another definition waits for approval, and what depends on it waits along.

use crds::{
    pipeline::ColumnType,
    status::{ChangeClass, Reason},
};
use operator::{
    change::Approvals,
    pipeline::{Aggregate, Column, Columnstore, Function, Refresh, Rollup, SortOrder, Table, ValueType},
    timescale::{TablePlan, plan},
};

use super::{
    rollup_support::{HOUR, HOURS, fill, fill_before, ident, named, rollup, rollup_changes, with_rollups},
    support::{DAY, Test, wanted},
};

pub async fn what_is_computed_changes_by_approval_alone(test: &Test) {
    let mut table = with_rollups(test);
    let schema = &test.schema;
    // Where it has nothing yet, at once.
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await.fills.len(), 2);
    rollup(&mut table, 1).bucket = 2 * DAY;
    let changes = test.bring_about(&table).await;
    assert!(
        changes[0].starts_with(&format!("rollup {schema}.by_day: definition changed from SELECT")),
        "{changes:?}"
    );
    rollup(&mut table, 1).bucket = DAY;
    fill(test, &table).await;
    test.sql(&format!("DROP MATERIALIZED VIEW {schema}.by_day")).await;
    test.bring_about(&table).await;

    // Each part of it.
    let unchanged = table.clone();
    type Edit = fn(&mut Rollup);
    let edits: [Edit; 3] = [
        |rollup| rollup.bucket = 2 * HOUR,
        |rollup| rollup.select.truncate(3),
        |rollup| rollup.time_column = ident("hour"),
    ];
    for edit in edits {
        let mut table = unchanged.clone();
        edit(rollup(&mut table, 0));
        // Made anew with the other, so it must fit.
        rollup(&mut table, 1).source_time = rollup(&mut table, 0).time_column.clone();
        let waits = test.plan(&table).await;
        assert_eq!(waits.held.len(), 1, "{waits:?}");
        assert_eq!(waits.held[0].class, ChangeClass::Destructive);
        assert_eq!(waits.refusals[0].reason, Reason::ApprovalRequired);
        assert_eq!(waits.steps, []);
    }
    let mut table = unchanged;
    rollup(&mut table, 0).group_by.clear();
    rollup(&mut table, 0).columnstore = None;
    rollup(&mut table, 1).group_by.clear();
    let observed = test.observe(&table).await;
    let waits = plan(&table, &test.pipeline, &observed, &Approvals::default());
    assert_eq!(waits.held.len(), 1, "{waits:?}");
    let hash = Approvals::default().hash(&waits.held[0]);
    let approved = plan(&table, &test.pipeline, &observed, &Approvals::new(0, Some(&hash), &[]));
    // What is made from it is made anew with it.
    assert_eq!(approved.refusals, []);
    let mut session = test.open().await;
    session.apply(&table, &approved).await.unwrap();
    session.close().await;
    test.bring_about(&table).await;
    assert_eq!(test.plan(&table).await, TablePlan::default());
    assert!(
        test.number(&format!("SELECT sum(rows)::bigint FROM {}.by_day", test.schema)).await >= HOURS - 48
    );
}

pub async fn another_definition_waits_with_what_depends_on_it(test: &Test) {
    let unchanged = with_rollups(test);
    fill_before(test, &unchanged).await;
    test.bring_about(&unchanged).await;
    type Edit = fn(&mut Table);
    let edits: [Edit; 4] = [
        |table| {
            let column =
                Column { name: ident("vibration"), column_type: ColumnType::Integer, nullable: true };
            table.columns.push(column);
            let sum = Aggregate::Of(Function::Sum, ident("vibration"));
            let value = (ident("shaken"), sum, ValueType::Column(ColumnType::Bigint));
            rollup(table, 0).select.push(value);
            columnstore(table).order_by.insert(0, (ident("shaken"), SortOrder::Ascending));
        },
        |table| {
            rollup(table, 0).group_by.clear();
            rollup(table, 1).group_by.clear();
            columnstore(table).segment_by.clear();
        },
        |table| {
            rollup(table, 0).time_column = ident("hour");
            rollup(table, 1).source_time = ident("hour");
            columnstore(table).order_by = vec![(ident("hour"), SortOrder::Descending)];
        },
        |table| {
            rollup(table, 0).select.remove(0);
            columnstore(table).order_by.insert(0, (ident("rows"), SortOrder::Ascending));
        },
    ];
    for edit in edits {
        let mut table = unchanged.clone();
        edit(&mut table);
        let edited = rollup(&mut table, 0);
        edited.refresh.start_offset = 4 * DAY;
        edited.drop_after = Some(200 * DAY);
        edited.columnstore.as_mut().unwrap().after = 20 * DAY;

        // What fits the one that is there does not wait.
        let changes = rollup_changes(&test.bring_about(&table).await);
        let fitting = [
            "{}.by_hour: refresh changed from 3 days to 1 hour ago every 30 minutes to 4 days to 1 hour ago every 30 minutes",
            "{}.by_hour: retention changed from 100 days (looked for every 1 hour) to 200 days",
        ];
        assert_eq!(changes, fitting.map(|change| named(test, change)));
        let waits = test.plan(&table).await;
        assert_eq!((&waits.steps[..], waits.held.len(), waits.refusals.len()), (&[][..], 1, 1), "{waits:?}");
        let message = &waits.refusals[0].message;
        assert!(
            message.contains("Until it is approved, it stays as it was, with its columnstore."),
            "{message}"
        );

        let approved = test.bring_about_generation(&table, 1, true, "").await;
        assert_eq!(approved, []);
        assert_eq!(test.plan(&table).await, TablePlan::default());
        let back = test.bring_about_generation(&unchanged, 2, true, "").await;
        // The rows of the added column stay, and so does the longer retention until a person says otherwise.
        assert_eq!(back, []);
        assert_eq!(test.plan(&unchanged).await, TablePlan::default());
    }
}

pub async fn one_that_is_being_filled_goes_on_while_another_bucket_waits(test: &Test) {
    let mut table = with_rollups(test);
    wanted(&mut table).rollups.truncate(1);
    let by_day = rollup(&mut table, 0);
    (by_day.bucket, by_day.materialized_only) = (DAY, true);
    test.bring_about(&table).await;
    let rows = |from: u32, to: u32| {
        format!(
            "INSERT INTO {} (time, device, temperature) \
             SELECT now() - hour * INTERVAL '1 hour', 'a', 1 FROM generate_series({from}, {to}) AS hour",
            test.table("readings")
        )
    };
    test.sql(&rows(240, 480)).await;
    test.bring_about(&table).await;
    let mut finer = table.clone();
    let by_hour = rollup(&mut finer, 0);
    by_hour.bucket = HOUR;
    by_hour.refresh = Refresh { start_offset: 5 * HOUR, end_offset: HOUR, every: HOUR };
    test.sql(&rows(0, 239)).await;

    // A refresh of hours is none for days.
    assert_eq!(test.bring_about(&finer).await, [""; 0]);
    let waits = test.plan(&finer).await;
    assert_eq!((&waits.steps[..], &waits.fills[..], waits.held.len()), (&[][..], &[][..], 1), "{waits:?}");
    let message = &waits.refusals[0].message;
    assert!(message.contains("it stays as it was, with its refresh and columnstore."), "{message}");
    let kept = format!("SELECT sum(rows)::bigint FROM {}.by_hour", test.schema);
    let kept = test.number(&kept).await;
    assert!((481 - 26..=481).contains(&kept), "{kept}");

    // The rows that its refresh would miss are the table's to keep.
    assert_eq!(test.bring_about_generation(&finer, 1, true, "").await, []);
    assert_eq!(test.plan(&finer).await, TablePlan::default());
}

pub async fn what_cannot_be_made_anew_is_said_before_it_is_approved(test: &Test) {
    let table = with_rollups(test);
    let schema = &test.schema;
    fill_before(test, &table).await;
    test.bring_about(&table).await;
    let refused = async |table: &Table| {
        let plan = test.plan(table).await;
        assert_eq!((plan.steps.len(), plan.held.len(), plan.refusals.len()), (0, 1, 1), "{plan:?}");
        (plan.refusals[0].reason, plan.refusals[0].message.clone())
    };
    // Somebody's own view, on the one that would be made anew with it.
    let mut both = table.clone();
    rollup(&mut both, 0).bucket = 2 * HOUR;
    test.sql(&format!("CREATE VIEW {schema}.mine AS SELECT * FROM {schema}.by_day")).await;
    let (reason, message) = refused(&both).await;
    assert_eq!(reason, Reason::RollupRefused);
    assert!(message.starts_with(&format!("rollup {schema}.by_hour: ")), "{message}");
    assert!(message.contains(&format!("{schema}.mine")), "{message}");
    test.sql(&format!("DROP VIEW {schema}.mine")).await;
    assert_eq!(refused(&both).await.0, Reason::ApprovalRequired);

    // A rollup that left the spec.
    let mut one = both;
    wanted(&mut one).rollups.truncate(1);
    let (reason, message) = refused(&one).await;
    assert_eq!(reason, Reason::RollupRefused);
    assert!(message.contains(&format!("{schema}.by_day")), "{message}");
    // Meanwhile it is kept as any other.
    test.sql(&format!("SELECT public.remove_retention_policy('{schema}.by_hour'::regclass)")).await;
    let mended = [named(test, "{}.by_hour: retention set to 100 days")];
    assert_eq!(test.bring_about(&one).await, mended);
    test.sql(&format!("DROP MATERIALIZED VIEW {schema}.by_day")).await;
    test.bring_about(&one).await;
    assert_eq!(refused(&one).await.0, Reason::ApprovalRequired);
}

fn columnstore(table: &mut Table) -> &mut Columnstore {
    rollup(table, 0).columnstore.as_mut().unwrap()
}
