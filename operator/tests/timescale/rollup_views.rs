//! The plain views that stand in for continuous aggregates, and how they become some.

use crds::status::Reason;
use operator::{
    change::Approvals,
    pipeline::{Aggregate, Function},
    timescale::{TablePlan, plan},
};

use super::{
    rollup_support::{HOURS, delete, fill_before, ident, kinds, named, rollup, rollup_changes, with_rollups},
    support::Test,
};

#[tokio::test]
async fn apache2_rollups() {
    let test = Test::apache2().await;
    let table = with_rollups(&test);
    fill_before(&test, &table).await;
    let made = test.bring_about(&table).await;
    assert_eq!(
        rollup_changes(&made),
        ["{}.by_hour created", "{}.by_day created"].map(|change| named(&test, change))
    );
    // It is told, and otherwise nothing is left to do.
    let rest = test.plan(&table).await;
    assert_eq!(rest.notes[0].reason, Reason::RollupsComputedWhenQueried);
    assert_eq!(TablePlan { notes: Vec::new(), ..rest }, TablePlan::default());
    assert_eq!(kinds(&test, &table).await, ["by_hour View", "by_day View"]);
    let schema = &test.schema;
    assert_eq!(test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_hour")).await, HOURS);
    assert_eq!(test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_day")).await, HOURS);

    // What it computes changes at once, because nothing is kept; who may read it still may.
    test.sql(&format!("GRANT SELECT ON {schema}.by_hour TO PUBLIC")).await;
    let mut changed = table.clone();
    rollup(&mut changed, 0).select[0].1 = Aggregate::Of(Function::Min, ident("temperature"));
    let changes = test.bring_about(&changed).await;
    assert!(
        changes[0].starts_with(&format!("rollup {schema}.by_hour: definition changed from")),
        "{changes:?}"
    );
    assert_eq!(changes[1..], [format!("rollup {schema}.by_day: source set to made anew")]);
    assert!(test.observe(&changed).await.rollups[0].view.as_ref().unwrap().readers.contains(&None));
    assert_eq!(
        test.number(&format!("SELECT count(*) FROM {schema}.by_hour WHERE top = bottom")).await,
        HOURS
    );

    // A view that was dropped by hand is made again.
    test.sql(&format!("DROP VIEW {schema}.by_day")).await;
    assert_eq!(test.bring_about(&changed).await, [format!("rollup {schema}.by_day created")]);
    delete(&test, &changed, &["by_day", "by_hour"]).await;
    test.finish().await;
}

pub async fn a_plain_view_becomes_the_real_thing(test: &Test) {
    let table = with_rollups(test);
    let schema = &test.schema;
    fill_before(test, &table).await;
    // As the operator makes them on the Apache-2 edition.
    let mut observed = test.observe(&table).await;
    observed.extension.installed.as_mut().unwrap().edition = operator::timescale::Edition::Apache2;
    let views = plan(&table, &test.pipeline, &observed, &Approvals::default());
    assert_eq!(views.notes[0].reason, Reason::RollupsComputedWhenQueried);
    let mut session = test.open().await;
    session.apply(&table, &views).await.unwrap();
    session.close().await;
    assert_eq!(kinds(test, &table).await, ["by_hour View", "by_day View"]);
    test.sql(&format!("GRANT SELECT ON {schema}.by_day TO pg_monitor")).await;
    let computed = test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_day")).await;

    let changes = test.bring_about(&table).await;
    for name in ["by_hour", "by_day"] {
        let change = format!("rollup {schema}.{name}: kind changed from View to ContinuousAggregate");
        assert!(changes.contains(&change), "{changes:?}");
    }
    assert_eq!(kinds(test, &table).await, ["by_hour ContinuousAggregate", "by_day ContinuousAggregate"]);
    let view = test.observe(&table).await.rollups[1].view.clone().unwrap();
    assert_eq!(view.readers, [Some("pg_monitor".to_owned())]);
    assert_eq!(test.plan(&table).await, TablePlan::default());
    let kept = test.number(&format!("SELECT sum(rows)::bigint FROM {schema}.by_day")).await;
    assert!((computed - 48..=computed).contains(&kept), "{kept} of {computed}");
}
