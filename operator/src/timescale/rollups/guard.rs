//! Rows that a rollup still needs: a shorter retention waits for it. Pure.
//!
//! What `validate` compares of the spec itself (`startOffset` with `dropAfter`) is right once everything is as the spec
//! says. Here is what may not be so yet: a rollup that is being filled, a refresh that fails or lags, and a rollup that
//! left the spec, or whose new definition waits, and goes on with the offsets that it had.

use std::time::Duration;

use jiff::Timestamp;

use super::{ObservedAggregate, ObservedRollup, Planner, RollupMarker, fits::fits_refresh, is_refused};
use crate::{
    pipeline::{Rollup, Table},
    timescale::{Edition, ObservedTable, sql::duration_text},
};

/// Why rows of the table must not stay for a shorter time yet; `None` where nothing stands against it.
pub(in crate::timescale) fn behind(table: &Table, observed: &ObservedTable) -> Option<String> {
    if observed.edition() != Some(Edition::Community) {
        return None;
    }
    let wanted = table.wanted.as_ref()?;
    let drop_after = wanted.drop_after?;
    let is_new = |rollup: &&Rollup| {
        rollup.from.is_none()
            && observed.rollup(rollup.name.as_str()).and_then(ObservedRollup::aggregate).is_none()
    };
    if let Some(rollup) = wanted.rollups.iter().find(is_new) {
        return Some(format!("rollup {} is not made yet, and needs the rows first", rollup.name));
    }
    let of_table = observed.rollups.iter().filter_map(|found| Some((found, found.aggregate()?)));
    let of_table = of_table.filter(|(_, (_, aggregate))| aggregate.is_of_table);
    of_table.into_iter().find_map(|(found, (marker, aggregate))| {
        not_refreshed(&found.name, marker, aggregate, drop_after)
            .or_else(|| erases(found, table, &wanted.rollups, drop_after))
    })
}

/// Why rows of a rollup must not stay for a shorter time yet: those that are made from it.
pub(super) fn behind_rollup(planner: &Planner<'_>, parent: &Rollup) -> Option<String> {
    let Planner { observed, rollups, .. } = planner;
    let drop_after = parent.drop_after?;
    let is_new = |child: &&Rollup| {
        child.from.as_ref() == Some(&parent.name)
            && observed.rollup(child.name.as_str()).and_then(ObservedRollup::aggregate).is_none()
    };
    if let Some(child) = rollups.iter().find(is_new) {
        return Some(format!("rollup {} is not made yet, and needs the rows first", child.name));
    }
    let view = observed.rollup(parent.name.as_str())?.view.as_ref()?;
    let is_child = |found: &&ObservedRollup| {
        view.dependents.contains(&format!("{}.{}", planner.table.schema, found.name))
    };
    observed.rollups.iter().filter(is_child).find_map(|found| {
        let (marker, _) = found.aggregate()?;
        // Nobody fills one that left the spec.
        let is_filled_on = rollups.iter().any(|rollup| rollup.name.as_str() == found.name);
        not_filled(&found.name, marker)
            .filter(|_| is_filled_on)
            .or_else(|| erases(found, planner.table, rollups, drop_after))
    })
}

fn not_filled(name: &str, marker: &RollupMarker) -> Option<String> {
    let so_far = match marker.filled_to {
        Some(filled_to) => format!("so far up to {filled_to}"),
        None => "and that has not begun".to_owned(),
    };
    (!marker.is_filled)
        .then(|| format!("rollup {name} is being filled with the rows that were there before it, {so_far}"))
}

fn not_refreshed(
    name: &str,
    marker: &RollupMarker,
    aggregate: &ObservedAggregate,
    drop_after: Duration,
) -> Option<String> {
    let refreshed_to = aggregate.refreshed_only_to?;
    let so_far = if refreshed_to == Timestamp::MIN {
        "has not been refreshed at all".to_owned()
    } else {
        format!("is refreshed up to {refreshed_to} only")
    };
    let why = if marker.is_filled {
        "; look why its refresh does not run (timescaledb_information.job_errors)"
    } else {
        ", and is still being filled"
    };
    Some(format!(
        "rollup {name} {so_far}, and the table has later rows that are older than {} and would go \
         unseen{why}",
        duration_text(drop_after)
    ))
}

/// A refresh of what has no rows any more deletes it. The spec's own refresh does not reach so far, but one that is not
/// the spec's, and does not become it with this plan, goes on.
fn erases(found: &ObservedRollup, table: &Table, rollups: &[Rollup], drop_after: Duration) -> Option<String> {
    let (marker, aggregate) = found.aggregate()?;
    let name = &found.name;
    let (why, what_to_do) = match rollups.iter().find(|rollup| rollup.name.as_str() == name) {
        None => (
            "which is no longer in the spec",
            "put it back into timescale.rollups with a shorter startOffset, or drop it",
        ),
        Some(rollup) if !fits_refresh(rollup, marker) => {
            ("whose refresh waits with another definition", "approve that first, or set it back")
        }
        Some(rollup) if is_refused(table, rollup, found) => (
            "which the operator does not alter",
            "do first what is said of that rollup, or shorten startOffset of its policy yourself",
        ),
        Some(_) => return None,
    };
    let refresh = aggregate.refresh.as_ref()?;
    let start = refresh.start_offset.map(Duration::from_secs);
    let every = Duration::from_secs(refresh.every);
    start.is_none_or(|start| start.saturating_add(every) > drop_after).then(|| {
        format!(
            "rollup {name}, {why}, is refreshed every {} as far back as {}, and the next refresh would erase what rows \
             older than {} became; {what_to_do}",
            duration_text(every),
            start.map_or_else(|| "there are rows".to_owned(), duration_text),
            duration_text(drop_after)
        )
    })
}
