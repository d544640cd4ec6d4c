//! Rollups: continuous aggregates on the Community edition, plain views of the same names and columns on the Apache-2
//! edition. This file decides what is made, made anew, left and refused. Pure.
//!
//! What a rollup computes cannot be altered, only dropped and computed again from the rows that are still there. So each
//! definition is written down when the rollup is made, and another one waits for approval. A rollup that leaves the spec
//! stays, with its policies: absence is never a reason to delete.

use std::collections::BTreeMap;

use crds::{
    status::{ChangeClass, Reason},
    worker::PipelineId,
};

use super::{Edition, InstalledExtension, ObservedTable, Retention, TableStep, sql::qualified};
use crate::{
    change::{Approvals, Change, Note, Refusal},
    pipeline::{Rollup, SqlIdent, Table, WantedTable},
};

mod definition;
mod fill;
mod fits;
mod guard;
mod marker;
mod messages;
mod observed;
mod policies;
#[cfg(test)]
mod tests;

pub use fill::{FillProgress, RollupFill, rollup_is_filling};
pub(super) use fill::{delete, fill};
use fits::Fits;
pub(super) use guard::behind;
pub(super) use marker::ROLLUPS_SINCE;
pub use observed::{
    ObservedAggregate, ObservedRefresh, ObservedRollup, ObservedView, RollupMarker, ViewKind,
};

/// What to do about all rollups of a table.
#[derive(Default)]
pub(super) struct RollupsPlan {
    pub steps: Vec<TableStep>,
    pub fills: Vec<RollupFill>,
    pub held: Vec<Change>,
    pub refusals: Vec<Refusal>,
    pub notes: Vec<Note>,
}

/// What becomes of one rollup of the spec.
#[derive(Clone, Debug)]
enum Decision {
    /// It is what it shall be, but perhaps for its settings.
    Keep,
    /// It is made, in the place of what is there, if anything.
    Make { drop: Option<&'static str>, change: Change },
    /// Another definition waits for approval.
    Hold(Change),
    /// It cannot be dropped, because of what is made from it; so this change waits, if it is one to approve.
    Block(Refusal, Option<Change>),
    /// What it is made from is missing or waits, and that is told there.
    Skip,
    /// What has its name is not the operator's to alter.
    Refuse(Refusal),
}

/// Everything that the decisions look at.
struct Planner<'a> {
    table: &'a Table,
    rollups: &'a [Rollup],
    pipeline: &'a PipelineId,
    observed: &'a ObservedTable,
    extension: &'a InstalledExtension,
    approvals: &'a Approvals,
    /// Columns of the table that the spec wants and that will not be there.
    missing_columns: &'a [String],
}

/// Makes all rollups what they shall be.
pub(super) fn plan(
    table: &Table,
    wanted: &WantedTable,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    extension: &InstalledExtension,
    approvals: &Approvals,
    missing_columns: &[String],
) -> RollupsPlan {
    // What became something else than a hypertable is refused, and gets none.
    if observed.table.is_some() && !observed.is_hypertable() {
        return RollupsPlan::default();
    }
    let rollups = &wanted.rollups;
    Planner { table, rollups, pipeline, observed, extension, approvals, missing_columns }.plan()
}

impl Planner<'_> {
    fn plan(&self) -> RollupsPlan {
        let mut plan = RollupsPlan::default();
        let decisions = self.decisions();
        let in_order =
            || self.rollups.iter().filter_map(|rollup| Some((rollup, decisions.get(&rollup.name)?)));
        // Those that are made from others go first and come last.
        for (rollup, decision) in in_order().collect::<Vec<_>>().into_iter().rev() {
            if let Decision::Make { drop: Some(drop), .. } = decision {
                let sql = format!("DROP {drop} {};\n", self.sql_name(rollup.name.as_str()));
                plan.steps.push(TableStep { changes: Vec::new(), sql });
            }
        }
        for (rollup, decision) in in_order() {
            match decision {
                Decision::Make { change, .. } => self.make(rollup, change, &mut plan),
                Decision::Hold(change) => {
                    plan.refusals.push(self.approval_required(rollup, change));
                    plan.held.push(change.clone());
                    self.keep(rollup, &mut plan);
                }
                Decision::Block(refusal, change) => {
                    plan.refusals.push(refusal.clone());
                    // Its approval is not used.
                    plan.held.extend(change.clone());
                    self.keep(rollup, &mut plan);
                }
                Decision::Keep | Decision::Skip => self.keep(rollup, &mut plan),
                Decision::Refuse(refusal) => plan.refusals.push(refusal.clone()),
            }
        }
        self.leave(&mut plan);
        plan.notes.extend(self.note_views());
        plan
    }

    /// What becomes of each.
    fn decisions(&self) -> BTreeMap<SqlIdent, Decision> {
        let mut decisions = self.decisions_where(&|change| self.approvals.include(change));
        // Nobody shall approve what is refused afterwards.
        let approved = self.decisions_where(&|_| true);
        for (name, decision) in &mut decisions {
            if let (Decision::Hold(_), Some(blocked @ Decision::Block(..))) = (&*decision, approved.get(name))
            {
                *decision = blocked.clone();
            }
        }
        decisions
    }

    /// What becomes of each where these changes are approved. One that cannot be dropped keeps those that it is made from,
    /// so this is decided again until no more is found in the way.
    fn decisions_where(&self, is_approved: &dyn Fn(&Change) -> bool) -> BTreeMap<SqlIdent, Decision> {
        let mut blocked: BTreeMap<SqlIdent, Decision> = BTreeMap::new();
        loop {
            let mut decisions: BTreeMap<SqlIdent, Decision> = BTreeMap::new();
            for rollup in self.rollups {
                let source = rollup.from.as_ref().and_then(|from| decisions.get(from));
                let decision = match blocked.get(&rollup.name) {
                    Some(decision) => decision.clone(),
                    None => self.decide(rollup, source, is_approved),
                };
                decisions.insert(rollup.name.clone(), decision);
            }
            let found = self.rollups.iter().find_map(|rollup| {
                let Some(Decision::Make { drop: Some(_), change }) = decisions.get(&rollup.name) else {
                    return None;
                };
                let blockers = self.blockers(&rollup.name, &decisions);
                (!blockers.is_empty()).then_some((rollup, change, blockers))
            });
            let Some((rollup, change, blockers)) = found else { return decisions };
            let waits = (change.class == ChangeClass::Destructive).then(|| change.clone());
            blocked.insert(rollup.name.clone(), Decision::Block(self.in_the_way(rollup, &blockers), waits));
        }
    }

    /// The views that are made from a rollup, or from one that goes with it, and stay.
    fn blockers(&self, name: &SqlIdent, decisions: &BTreeMap<SqlIdent, Decision>) -> Vec<String> {
        let goes = |dependent: &String| {
            decisions.iter().find(|(name, decision)| {
                matches!(decision, Decision::Make { drop: Some(_), .. })
                    && *dependent == self.display_name(name)
            })
        };
        let view = self.observed.rollup(name.as_str()).and_then(|found| found.view.as_ref());
        let dependents = view.iter().flat_map(|view| &view.dependents);
        dependents
            .flat_map(|dependent| match goes(dependent) {
                Some((name, _)) => self.blockers(name, decisions),
                None => vec![dependent.clone()],
            })
            .collect()
    }

    fn decide(
        &self,
        rollup: &Rollup,
        source: Option<&Decision>,
        is_approved: &dyn Fn(&Change) -> bool,
    ) -> Decision {
        let is_missing =
            |column: &SqlIdent| self.missing_columns.iter().any(|missing| missing == column.as_str());
        let lacks_column = rollup.from.is_none() && rollup.source_columns().any(is_missing);
        let source_is_made = matches!(source, Some(Decision::Make { .. }));
        let source_waits = lacks_column
            || matches!(
                source,
                Some(Decision::Hold(_) | Decision::Block(..) | Decision::Skip | Decision::Refuse(_))
            );
        let found = self.observed.rollup(rollup.name.as_str());
        let Some((found, view)) = found.and_then(|found| Some((found, found.view.as_ref()?))) else {
            let made =
                Decision::Make { drop: None, change: self.change(rollup, "", "", rollup.name.as_str()) };
            return if source_waits { Decision::Skip } else { made };
        };
        let Some(marker) = found.marker.as_ref().filter(|_| view.kind != ViewKind::Other) else {
            return Decision::Refuse(self.not_ours(rollup));
        };
        if !view.owned {
            return Decision::Refuse(self.not_owned(rollup, view));
        }
        let (drop, kind) = match &view.kind {
            ViewKind::Aggregate(_) => ("MATERIALIZED VIEW", "ContinuousAggregate"),
            _ => ("VIEW", "View"),
        };
        let definition = definition::text(self.table, rollup);
        let change = match &view.kind {
            // Another edition has neither continuous aggregates to make nor the means to alter those that are there.
            ViewKind::Aggregate(_) if !self.makes_aggregates() => return Decision::Keep,
            ViewKind::Aggregate(aggregate) if marker.definition != definition => {
                let has_rows = aggregate.oldest.is_some();
                let class = if has_rows { ChangeClass::Destructive } else { ChangeClass::Safe };
                self.change(rollup, "definition", &marker.definition, &definition).classed(class)
            }
            _ if marker.definition != definition => {
                self.change(rollup, "definition", &marker.definition, &definition)
            }
            _ if !is_as_made(rollup, marker, view) => return Decision::Refuse(self.replaced(rollup)),
            _ if kind == "View" && self.makes_aggregates() => {
                self.change(rollup, "kind", kind, "ContinuousAggregate")
            }
            _ if source_is_made => self.change(rollup, "source", "", "made anew"),
            _ => return Decision::Keep,
        };
        match change.class {
            _ if source_waits => Decision::Skip,
            // What is lost of those that are made from another is told and approved there.
            ChangeClass::Destructive if !source_is_made && !is_approved(&change) => Decision::Hold(change),
            _ => Decision::Make { drop: Some(drop), change },
        }
    }

    fn make(&self, rollup: &Rollup, change: &Change, plan: &mut RollupsPlan) {
        let name = rollup.name.as_str();
        let found = self.observed.rollup(name);
        let mut sql = definition::create(self.table, rollup, self.extension, self.makes_aggregates());
        for reader in found.and_then(|found| found.view.as_ref()).iter().flat_map(|view| &view.readers) {
            sql.push_str(&definition::grant(self.table, rollup, reader.as_deref()));
        }
        sql.push_str(&marker::claim(self.table, rollup, self.pipeline));
        plan.steps.push(TableStep { changes: vec![change.clone()], sql });
        if self.makes_aggregates() {
            let made =
                RollupMarker { retention: Some(Retention::of(rollup.drop_after)), ..RollupMarker::default() };
            let nothing = ObservedAggregate {
                materialized_only: rollup.materialized_only,
                ..ObservedAggregate::default()
            };
            plan.steps.extend(policies::plan(
                self,
                rollup,
                &made,
                &nothing,
                Fits::ALL,
                Retention::of(rollup.drop_after),
            ));
            plan.fills.push(RollupFill::of(rollup, rollup.bucket));
        }
    }

    /// Gives the one that is there the settings of the spec, as far as they fit it.
    fn keep(&self, rollup: &Rollup, plan: &mut RollupsPlan) {
        let Some((marker, aggregate)) = self.aggregate(rollup).filter(|_| self.makes_aggregates()) else {
            return;
        };
        let retention = policies::RollupRetention::of(self, rollup, marker, aggregate);
        plan.held.extend(retention.held(self.approvals));
        plan.refusals.extend(retention.refusal(self));
        plan.steps.extend(policies::plan(
            self,
            rollup,
            marker,
            aggregate,
            self.fits(rollup),
            retention.in_force(self.approvals),
        ));
        let bucket = definition::bucket_of(&marker.definition).unwrap_or(rollup.bucket);
        plan.fills.extend((!marker.is_filled).then(|| RollupFill::of(rollup, bucket)));
    }

    /// What fits the one that is there.
    fn fits(&self, rollup: &Rollup) -> Fits {
        let found = self.observed.rollup(rollup.name.as_str());
        let found = found.and_then(|found| found.marker.as_ref().zip(found.view.as_ref()));
        found.map_or(Fits::ALL, |(marker, view)| Fits::of(rollup, marker, view))
    }

    fn aggregate(&self, rollup: &Rollup) -> Option<(&RollupMarker, &ObservedAggregate)> {
        self.observed.rollup(rollup.name.as_str()).and_then(ObservedRollup::aggregate)
    }

    /// What was made for the table and is not in the spec: where a person has dropped it, its marker goes too.
    fn leave(&self, plan: &mut RollupsPlan) {
        let is_wanted = |name: &str| self.rollups.iter().any(|rollup| rollup.name.as_str() == name);
        let mut left = Vec::new();
        // Those that are made from others go first.
        for found in self.observed.rollups.iter().rev().filter(|found| !is_wanted(&found.name)) {
            match &found.view {
                None => plan.steps.push(marker::forget(self.table.schema.as_str(), &found.name)),
                Some(view) => {
                    let kind = if view.kind == ViewKind::View { "VIEW" } else { "MATERIALIZED VIEW" };
                    left.push(format!("DROP {kind} {};", self.sql_name(&found.name)));
                }
            }
        }
        if !left.is_empty() {
            plan.notes.push(Note {
                reason: Reason::RollupsLeft,
                message: format!(
                    "as the spec says; rollups that are no longer in timescale.rollups stay as they are, with their \
                     policies. To drop them run: {}",
                    left.join(" ")
                ),
            });
        }
    }

    fn makes_aggregates(&self) -> bool {
        self.extension.edition == Edition::Community
    }

    fn sql_name(&self, name: &str) -> String {
        qualified(self.table.schema.as_str(), name)
    }

    fn display_name(&self, name: &SqlIdent) -> String {
        format!("{}.{name}", self.table.schema)
    }

    fn change(&self, rollup: &Rollup, field: &str, from: &str, to: &str) -> Change {
        Change::new(format!("rollup {}", self.display_name(&rollup.name)), field, from, to)
    }
}

/// Whether `decide` refuses a continuous aggregate, so that its policies stay whatever the spec says of them.
fn is_refused(table: &Table, rollup: &Rollup, found: &ObservedRollup) -> bool {
    let Some((marker, view)) = found.marker.as_ref().zip(found.view.as_ref()) else { return true };
    let is_another = marker.definition != definition::text(table, rollup);
    !view.owned || !is_another && !is_as_made(rollup, marker, view)
}

/// Whether a view has the columns of the rollup, and is no plain one in the place of what was filled.
fn is_as_made(rollup: &Rollup, marker: &RollupMarker, view: &ObservedView) -> bool {
    let was_filled = marker.is_filled || marker.filled_to.is_some();
    view.has_columns_of(rollup) && !(was_filled && view.kind == ViewKind::View)
}
