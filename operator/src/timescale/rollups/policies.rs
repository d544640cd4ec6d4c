//! The settings and policies of a continuous aggregate: refresh, retention, columnstore. All arguments are written out,
//! and another policy replaces the one that is there. Pure.

use std::time::Duration;

use crds::status::ChangeClass;

use super::{Fits, ObservedAggregate, ObservedRefresh, Planner, RollupMarker, guard};
use crate::{
    change::{Approvals, Change, Refusal},
    pipeline::Rollup,
    timescale::{
        ObservedColumnstore, ObservedPolicy, Retention, TableStep, bookkeeping, check_interval,
        columnstore::{self, Settings, describe_order},
        policy::{PolicyKind, WantedPolicy, plan_policy},
        retention,
        sql::{duration_text, interval},
    },
};

/// How a continuous aggregate is refreshed.
const REFRESH: PolicyKind =
    PolicyKind { statement: "SELECT", name: "continuous_aggregate", age: "start_offset" };

/// How often chunks are looked for that are old enough for the columnstore: they are long, and nothing is written into
/// them any more.
const COLUMNSTORE_CHECK_INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// Makes them what they shall be. The refresh policy waits until the rollup is filled: what it refreshes is not computed
/// when queried any more, nor is anything older.
pub(super) fn plan(
    planner: &Planner<'_>,
    rollup: &Rollup,
    marker: &RollupMarker,
    found: &ObservedAggregate,
    fits: Fits,
    retention: Retention,
) -> Vec<TableStep> {
    let policies = Policies { planner, rollup };
    let sets_columnstore = fits.columnstore && planner.extension.has_columnstore();
    let mut steps = Vec::new();
    steps.extend(policies.materialized_only(found));
    steps.extend(policies.columnstore_settings(found).filter(|_| sets_columnstore));
    if marker.is_filled {
        steps.extend(policies.refresh(found).filter(|_| fits.refresh));
        // TimescaleDB asks for the other one first.
        steps.extend(policies.columnstore_policy(found).filter(|_| sets_columnstore));
    }
    steps.extend(policies.retention_note(marker, retention));
    steps.extend(policies.retention(found, retention));
    steps
}

struct Policies<'a> {
    planner: &'a Planner<'a>,
    rollup: &'a Rollup,
}

impl Policies<'_> {
    fn step(&self, field: &str, from: String, to: String, sql: String) -> TableStep {
        TableStep { changes: vec![self.planner.change(self.rollup, field, &from, &to)], sql }
    }

    fn alter(&self, settings: &str) -> String {
        format!(
            "ALTER MATERIALIZED VIEW {} SET ({settings});\n",
            self.planner.sql_name(self.rollup.name.as_str())
        )
    }

    fn materialized_only(&self, found: &ObservedAggregate) -> Option<TableStep> {
        let wanted = self.rollup.materialized_only;
        (found.materialized_only != wanted).then(|| {
            let sql = self.alter(&format!("timescaledb.materialized_only = {wanted}"));
            self.step("materializedOnly", found.materialized_only.to_string(), wanted.to_string(), sql)
        })
    }

    fn refresh(&self, found: &ObservedAggregate) -> Option<TableStep> {
        let wanted = self.rollup.refresh;
        let as_observed = ObservedRefresh {
            start_offset: Some(wanted.start_offset.as_secs()),
            end_offset: Some(wanted.end_offset.as_secs()),
            every: wanted.every.as_secs(),
            scheduled: true,
        };
        let found = found.refresh.as_ref();
        if found == Some(&as_observed) {
            return None;
        }
        let settings = [
            (REFRESH.age, interval(wanted.start_offset)),
            ("end_offset", interval(wanted.end_offset)),
            ("schedule_interval", interval(wanted.every)),
        ];
        let sql =
            REFRESH.replace(self.name(), &self.planner.extension.schema, found.is_some(), Some(&settings));
        Some(self.step("refresh", found.map(describe).unwrap_or_default(), describe(&as_observed), sql))
    }

    fn columnstore_settings(&self, found: &ObservedAggregate) -> Option<TableStep> {
        let wanted = self.rollup.columnstore.as_ref()?;
        let settings = Settings::of(wanted);
        if found.columnstore.as_ref().is_some_and(|found| settings.is_found(found)) {
            return None;
        }
        let sql = self.alter(&settings.sql());
        let found = found.columnstore.as_ref().map(describe_columnstore).unwrap_or_default();
        Some(self.step("columnstore", found, describe_columnstore(&settings.as_observed()), sql))
    }

    fn columnstore_policy(&self, found: &ObservedAggregate) -> Option<TableStep> {
        let wanted = self.rollup.columnstore.as_ref().map(|columnstore| WantedPolicy {
            after: columnstore.after,
            check_interval: COLUMNSTORE_CHECK_INTERVAL,
        });
        let found = found.columnstore_policy.as_ref();
        self.policy(&columnstore::POLICY, wanted, found, |from, to| {
            self.planner.change(self.rollup, "columnstore after", &from, &to)
        })
    }

    fn policy(
        &self,
        kind: &PolicyKind,
        wanted: Option<WantedPolicy>,
        found: Option<&ObservedPolicy>,
        change: impl FnOnce(String, String) -> Change,
    ) -> Option<TableStep> {
        plan_policy(kind, self.name(), &self.planner.extension.schema, wanted, found, change)
    }

    fn name(&self) -> (&str, &str) {
        (self.planner.table.schema.as_str(), self.rollup.name.as_str())
    }

    fn retention_note(&self, marker: &RollupMarker, retention: Retention) -> Option<TableStep> {
        (marker.retention != Some(retention)).then(|| TableStep {
            changes: Vec::new(),
            sql: bookkeeping::record_retention(
                self.planner.table.schema.as_str(),
                self.rollup.name.as_str(),
                retention,
            ),
        })
    }

    fn retention(&self, found: &ObservedAggregate, retention: Retention) -> Option<TableStep> {
        let has_rows = found.oldest.is_some();
        let found = found.retention.as_ref();
        let wanted =
            retention.drop_after().map(|after| WantedPolicy { after, check_interval: check_interval(after) });
        let so_far = Retention::of(found.filter(|found| found.scheduled).and_then(|found| found.after));
        let class = if has_rows && retention < so_far { ChangeClass::Destructive } else { ChangeClass::Safe };
        self.policy(&retention::POLICY, wanted, found, |from, to| {
            self.planner.change(self.rollup, "retention", &from, &to).classed(class)
        })
    }
}

/// How long the rows of a rollup stay: a shorter time deletes some, and waits for a person.
pub(super) struct RollupRetention<'a> {
    change: Option<Change>,
    wanted: Retention,
    former: Retention,
    found: &'a ObservedAggregate,
    /// Why rows must not go yet, whatever a person says.
    behind: Option<String>,
}

impl<'a> RollupRetention<'a> {
    pub(super) fn of(
        planner: &Planner<'_>,
        rollup: &Rollup,
        marker: &RollupMarker,
        found: &'a ObservedAggregate,
    ) -> Self {
        let wanted = Retention::of(rollup.drop_after);
        let policy = found.retention.as_ref();
        let former =
            marker.retention.unwrap_or_else(|| Retention::of(policy.and_then(|policy| policy.after)));
        let is_shorter = wanted < former && found.oldest.is_some();
        let change = is_shorter.then(|| {
            planner
                .change(rollup, "retention.dropAfter", &former.to_string(), &wanted.to_string())
                .classed(ChangeClass::Destructive)
        });
        let behind = change.as_ref().and_then(|_| guard::behind_rollup(planner, rollup));
        Self { change, wanted, former, found, behind }
    }

    /// How long rows stay for now.
    pub(super) fn in_force(&self, approvals: &Approvals) -> Retention {
        if self.held(approvals).is_some() { self.former } else { self.wanted }
    }

    pub(super) fn held(&self, approvals: &Approvals) -> Option<Change> {
        self.change.clone().filter(|change| self.behind.is_some() || !approvals.include(change))
    }

    pub(super) fn refusal(&self, planner: &Planner<'_>) -> Option<Refusal> {
        let Planner { pipeline, approvals, .. } = planner;
        let expired = self.found.expired.unwrap_or_default();
        Some(retention::waits(&self.held(approvals)?, self.behind.as_deref(), expired, pipeline, approvals))
    }
}

fn describe_columnstore(found: &ObservedColumnstore) -> String {
    let order = describe_order(&found.order_by);
    match &found.segment_by[..] {
        [] => format!("ordered by {order}"),
        segments => format!("segments by {}, ordered by {order}", segments.join(", ")),
    }
}

/// A refresh policy in a few words.
fn describe(found: &ObservedRefresh) -> String {
    let text = |seconds: u64| duration_text(Duration::from_secs(seconds));
    let ago = |offset: Option<u64>, none: &str| offset.map_or_else(|| none.to_owned(), text);
    let pause = if found.scheduled { "" } else { ", paused" };
    format!(
        "{} to {} ago every {}{pause}",
        ago(found.start_offset, "all"),
        ago(found.end_offset, "nothing"),
        text(found.every)
    )
}
