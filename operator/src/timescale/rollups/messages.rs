//! What is said of rollups to a person. Pure.

use crds::status::Reason;

use super::{ObservedView, Planner, ViewKind};
use crate::{
    change::{Change, Note, Refusal},
    pipeline::Rollup,
    timescale::sql::{duration_text, identifier},
};

impl Planner<'_> {
    pub(super) fn note_views(&self) -> Option<Note> {
        if self.rollups.is_empty() || self.makes_aggregates() {
            return None;
        }
        let names: Vec<_> = self.rollups.iter().map(|rollup| self.display_name(&rollup.name)).collect();
        Some(Note {
            reason: Reason::RollupsComputedWhenQueried,
            message: format!(
                "as the spec says, but for timescale.rollups: TimescaleDB {} is of the Apache-2 edition and has no \
                 continuous aggregates, so these are plain views, computed when queried from the rows that the table has, \
                 and their refresh, retention and columnstore mean nothing: {}. Install the Community edition to have \
                 them computed beforehand",
                self.extension.version,
                names.join(", ")
            ),
        })
    }

    pub(super) fn approval_required(&self, rollup: &Rollup, change: &Change) -> Refusal {
        let oldest = self.aggregate(rollup).and_then(|(_, aggregate)| aggregate.oldest);
        let oldest = oldest.map(|oldest| format!("It has aggregates from {oldest} on, ")).unwrap_or_default();
        let parent = self.rollups.iter().find(|other| Some(&other.name) == rollup.from.as_ref());
        let (source, kept) = match parent {
            Some(parent) => (format!("rollup {}", parent.name), parent.drop_after),
            None => ("the table".to_owned(), self.table.wanted.as_ref().and_then(|wanted| wanted.drop_after)),
        };
        let kept = match kept {
            Some(kept) => format!("rows of {source} stay for {}", duration_text(kept)),
            None => format!("rows of {source} stay until somebody deletes them"),
        };
        // Each stands after the one that it is made from.
        let mut going = vec![&rollup.name];
        for other in self.rollups {
            if other.from.as_ref().is_some_and(|from| going.contains(&from)) {
                going.push(&other.name);
            }
        }
        let others: Vec<_> = going.iter().skip(1).map(|name| name.as_str()).collect();
        let others = match &others[..] {
            [] => String::new(),
            others => {
                format!(" The rollups that are made from it are made anew with it: {}.", others.join(", "))
            }
        };
        let Change { object, from, to, .. } = change;
        Refusal {
            reason: Reason::ApprovalRequired,
            message: format!(
                "{object}: what it computes cannot be altered, from {from} to {to}; it would be dropped and made anew from \
                 the rows that are there. {oldest}{kept}: what is older is lost.{others} Until it is approved, it stays as \
                 it was{waiting}. Set it back, add the new one under another name, or approve with: {}",
                self.approvals.command(change, self.pipeline),
                waiting = self.fits(rollup).waiting(),
            ),
        }
    }

    fn refuse(&self, rollup: &Rollup, reason: Reason, what: &str) -> Refusal {
        Refusal { reason, message: format!("rollup {}: {what}", self.display_name(&rollup.name)) }
    }

    pub(super) fn not_ours(&self, rollup: &Rollup) -> Refusal {
        let what = "something of that name exists, and this pipeline did not make it; choose another name in \
                    timescale.rollups, or rename or drop what is there";
        self.refuse(rollup, Reason::RollupRefused, what)
    }

    pub(super) fn replaced(&self, rollup: &Rollup) -> Refusal {
        let what = "the view of that name is of another kind or has other columns than the one that was made, so somebody put \
                    another in its place; rename or drop it, and the rollup is made anew";
        self.refuse(rollup, Reason::RollupRefused, what)
    }

    pub(super) fn not_owned(&self, rollup: &Rollup, view: &ObservedView) -> Refusal {
        let kind = if view.kind == ViewKind::View { "VIEW" } else { "MATERIALIZED VIEW" };
        let sql = format!("ALTER {kind} {} OWNER TO", self.sql_name(rollup.name.as_str()));
        let what = format!(
            "role {} does not own it and so may not change it; run: {sql} {};",
            self.observed.role,
            identifier(&self.observed.role)
        );
        self.refuse(rollup, Reason::PermissionMissing, &what)
    }

    pub(super) fn in_the_way(&self, rollup: &Rollup, blockers: &[String]) -> Refusal {
        let what = format!(
            "it must be dropped and made anew, and other views are made from it, or from what goes with it: {}; drop them \
             first, and create them again afterwards. Until then it stays as it was{}",
            blockers.join(", "),
            self.fits(rollup).waiting(),
        );
        self.refuse(rollup, Reason::RollupRefused, &what)
    }
}
