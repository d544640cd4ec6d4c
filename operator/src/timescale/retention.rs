//! How rows go: by a native policy on the Community edition, by the operator's own hand on the Apache-2 edition.
//! Pure.

use std::{fmt, time::Duration};

use crds::{names::APPROVE_ANNOTATION, status::Reason, worker::PipelineId};
use jiff::Timestamp;

use super::{
    Edition, InstalledExtension, ObservedRetention, ObservedTable, Retention, TableStep,
    bookkeeping::record_retention,
    sql::{duration_text, identifier, interval, regclass},
};
use crate::{
    change::{Change, Refusal},
    pipeline::{Table, WantedTable},
};

/// How often expired chunks are looked for: a 24th of the time that rows stay, at least once an hour and at
/// most once a minute. Both editions keep to it, so rows go at the same time on both.
pub fn check_interval(drop_after: Duration) -> Duration {
    (drop_after / 24).clamp(Duration::from_secs(60), Duration::from_secs(3600))
}

/// Whether it is time to drop expired chunks, `last_run` being the last time this operator did.
pub fn drop_is_due(last_run: Option<Timestamp>, now: Timestamp, drop_after: Duration) -> bool {
    last_run.is_none_or(|last_run| {
        let elapsed = now.as_second().saturating_sub(last_run.as_second());
        // A clock that was set back must not stop retention.
        elapsed < 0 || elapsed.unsigned_abs() >= check_interval(drop_after).as_secs()
    })
}

/// How long rows stay for now: as the spec says, or as was last applied where the spec's shorter time waits for
/// approval. `approval` is the value of the pipeline's annotation.
pub fn retention_in_force(table: &Table, observed: &ObservedTable, approval: Option<&str>) -> Retention {
    let Some(wanted) = &table.wanted else { return Retention::ForEver };
    match held(table, wanted, observed, approval) {
        Some(_) => applied(wanted, observed),
        None => Retention::of(wanted.drop_after),
    }
}

/// What the spec asks for and a person must approve first, because it deletes data.
pub(super) fn plan_approval(
    table: &Table,
    wanted: &WantedTable,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    approval: Option<&str>,
) -> Option<Refusal> {
    let change = held(table, wanted, observed, approval)?;
    let expired = observed.expired.unwrap_or_default();
    let rows = expired.rows.map(|rows| format!(" with about {rows} rows")).unwrap_or_default();
    let oldest = expired.oldest.map(|oldest| format!(", the oldest from {oldest}")).unwrap_or_default();
    let Change { object, field, from, to } = &change;
    Some(Refusal {
        reason: Reason::ApprovalRequired,
        message: format!(
            "{object}: {field} from {from} to {to} would delete {number} chunks{rows} now{oldest}; until it is \
             approved, the old value stays in force. Set timescale.retention back, or approve with: kubectl annotate \
             --overwrite iotp {name} -n {namespace} {APPROVE_ANNOTATION}={hash}",
            number = expired.number,
            name = pipeline.name,
            namespace = pipeline.namespace,
            hash = change.approval(),
        ),
    })
}

/// Brings about that rows stay as long as `retention` says, and notes it.
pub(super) fn plan_retention(
    table: &Table,
    retention: Retention,
    extension: &InstalledExtension,
    observed: &ObservedTable,
) -> Vec<TableStep> {
    let policy = observed.table.as_ref().and_then(|table| table.retention.as_ref());
    let mut steps = Vec::new();
    // A new table's marker says it already.
    if observed.marker.is_some() && observed.applied_retention != Some(retention) {
        let is_change = |applied: &Retention| extension.edition == Edition::Apache2 && *applied != retention;
        let change = observed.applied_retention.filter(is_change).map(|applied| Change {
            object: format!("table {table}"),
            field: "retention".to_owned(),
            from: applied.change_text(),
            to: retention.change_text(),
        });
        steps.push(TableStep {
            changes: change.into_iter().collect(),
            sql: record_retention(table.schema.as_str(), table.name.as_str(), retention),
        });
    }
    steps.extend(plan_policy(table, retention.drop_after(), extension, policy));
    steps
}

/// The change of the spec that waits for approval.
fn held(
    table: &Table,
    wanted: &WantedTable,
    observed: &ObservedTable,
    approval: Option<&str>,
) -> Option<Change> {
    let (from, to) = (applied(wanted, observed), Retention::of(wanted.drop_after));
    let has_chunks = observed
        .table
        .as_ref()
        .and_then(|table| table.hypertable.as_ref())
        .is_some_and(|hypertable| hypertable.has_chunks);
    let change = (has_chunks && to < from).then(|| Change {
        object: format!("table {table}"),
        field: "timescale.retention.dropAfter".to_owned(),
        from: from.to_string(),
        to: to.to_string(),
    });
    change.filter(|change| approval != Some(change.approval().as_str()))
}

/// How long rows stayed so far. Where an older operator made the table and noted nothing, the policy says it, and
/// without policies what the spec says now.
fn applied(wanted: &WantedTable, observed: &ObservedTable) -> Retention {
    observed.applied_retention.unwrap_or_else(|| match observed.edition() {
        Some(Edition::Community) => {
            let policy = observed.table.as_ref().and_then(|table| table.retention.as_ref());
            Retention::of(policy.and_then(|policy| policy.drop_after))
        }
        Some(Edition::Apache2) | None => Retention::of(wanted.drop_after),
    })
}

impl Retention {
    /// What a spec means.
    pub(super) fn of(drop_after: Option<Duration>) -> Self {
        drop_after.map_or(Self::ForEver, Self::For)
    }

    /// After which time rows go, if they do.
    pub fn drop_after(self) -> Option<Duration> {
        match self {
            Self::For(duration) => Some(duration),
            Self::ForEver => None,
        }
    }

    /// As a [`Change`] has it, where nothing stands for no retention.
    fn change_text(self) -> String {
        self.drop_after().map(duration_text).unwrap_or_default()
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(duration) => formatter.write_str(&duration_text(*duration)),
            Self::ForEver => formatter.write_str("for ever"),
        }
    }
}

/// Makes the native policy what it shall be. Another time is another policy: TimescaleDB's own `if_not_exists`
/// would keep the old one and merely warn.
fn plan_policy(
    wanted: &Table,
    drop_after: Option<Duration>,
    extension: &InstalledExtension,
    found: Option<&ObservedRetention>,
) -> Option<TableStep> {
    if extension.edition == Edition::Apache2 || is_as_wanted(drop_after, found) {
        return None;
    }
    let functions = identifier(&extension.schema);
    let table = regclass(wanted.schema.as_str(), wanted.name.as_str());
    let mut sql = String::new();
    if found.is_some() {
        sql.push_str(&format!("SELECT {functions}.remove_retention_policy({table});\n"));
    }
    if let Some(drop_after) = drop_after {
        sql.push_str(&format!(
            "SELECT {functions}.add_retention_policy({table}, drop_after => {}, schedule_interval => {});\n",
            interval(drop_after),
            interval(check_interval(drop_after)),
        ));
    }
    let change = Change {
        object: format!("table {wanted}"),
        field: "retention".to_owned(),
        from: found.map(describe).unwrap_or_default(),
        to: drop_after.map(duration_text).unwrap_or_default(),
    };
    Some(TableStep { changes: vec![change], sql })
}

fn is_as_wanted(wanted: Option<Duration>, found: Option<&ObservedRetention>) -> bool {
    match (wanted, found) {
        (None, None) => true,
        (Some(drop_after), Some(found)) => {
            found.scheduled
                && found.drop_after == Some(drop_after)
                && found.check_interval == check_interval(drop_after)
        }
        _ => false,
    }
}

fn describe(found: &ObservedRetention) -> String {
    let time = found.drop_after.map_or_else(|| "another rule".to_owned(), duration_text);
    let pause = if found.scheduled { "" } else { ", paused" };
    format!("{time} (looked for every {}{pause})", duration_text(found.check_interval))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timescale::{
        ExpiredChunks, TablePlan, plan,
        test_support::{DAY, as_wanted, pipeline, sql, table_of, wanted},
    };

    const HOUR: u64 = 3600;

    /// The plan for rows that stay so many days, where something was applied before.
    fn plan_for(days: Option<u32>, observed: &ObservedTable, approval: Option<&str>) -> TablePlan {
        plan(&table(days), &pipeline("line"), observed, approval)
    }

    fn table(days: Option<u32>) -> Table {
        let mut table = wanted();
        table.wanted.as_mut().unwrap().drop_after = days.map(|days| days * DAY);
        table
    }

    /// A database where 90 days were applied.
    fn ninety(edition: Edition) -> ObservedTable {
        let mut observed = as_wanted();
        observed.extension.installed.as_mut().unwrap().edition = edition;
        if edition == Edition::Apache2 {
            table_of(&mut observed).retention = None;
        }
        observed.expired = Some(ExpiredChunks {
            number: 60,
            oldest: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            rows: Some(1_200_000),
        });
        observed
    }

    fn approval_in(plan: &TablePlan) -> String {
        let message = &plan.refusals[0].message;
        message.rsplit_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn a_shorter_time_waits_for_its_own_approval_and_the_old_one_stays_in_force() {
        for edition in [Edition::Community, Edition::Apache2] {
            let observed = ninety(edition);
            let held = plan_for(Some(30), &observed, None);
            assert_eq!((held.steps.len(), held.refusals.len()), (0, 1), "{held:?}");
            assert_eq!(held.refusals[0].reason, Reason::ApprovalRequired);
            insta::assert_snapshot!("held", held.refusals[0].message);
            assert_eq!(retention_in_force(&table(Some(30)), &observed, None), Retention::For(90 * DAY));

            let approval = approval_in(&held);
            assert_eq!(plan_for(Some(30), &observed, Some("000000000000")), held);
            assert_eq!(plan_for(Some(7), &observed, Some(&approval)).refusals.len(), 1);

            let approved = plan_for(Some(30), &observed, Some(&approval));
            assert!(sql(&approved).contains("SET drop_after_seconds = 2592000 "), "{approved:?}");
            assert_eq!(sql(&approved).contains("add_retention_policy"), edition == Edition::Community);
            assert_eq!(approved.steps.iter().flat_map(|step| &step.changes).count(), 1);
            assert_eq!(
                retention_in_force(&table(Some(30)), &observed, Some(&approval)),
                Retention::For(30 * DAY)
            );
        }
    }

    #[test]
    fn a_first_retention_waits_too_and_a_longer_one_does_not() {
        for edition in [Edition::Community, Edition::Apache2] {
            let mut kept = ninety(edition);
            kept.applied_retention = Some(Retention::ForEver);
            table_of(&mut kept).retention = None;
            let first = plan_for(Some(90), &kept, None);
            assert!(first.refusals[0].message.contains("from for ever to 90 days"), "{first:?}");
            assert_eq!(retention_in_force(&table(Some(90)), &kept, None), Retention::ForEver);

            for longer in [Some(91), None] {
                let plan = plan_for(longer, &ninety(edition), None);
                assert!(sql(&plan).contains("SET drop_after_seconds"), "{plan:?}");
            }
        }
    }

    #[test]
    fn a_table_without_chunks_is_changed_at_once() {
        let mut empty = ninety(Edition::Community);
        table_of(&mut empty).hypertable.as_mut().unwrap().has_chunks = false;
        assert!(sql(&plan_for(Some(1), &empty, None)).contains("INTERVAL '1 day'"));
    }

    #[test]
    fn drift_is_mended_towards_what_was_approved() {
        let mut removed = ninety(Edition::Community);
        table_of(&mut removed).retention = None;
        // As the spec says, or as it was before the edit that waits.
        for (days, refusals) in [(90, 0), (30, 1)] {
            let plan = plan_for(Some(days), &removed, None);
            assert_eq!(plan.refusals.len(), refusals);
            assert_eq!(plan.steps.len(), 1);
            assert!(plan.steps[0].sql.contains("drop_after => INTERVAL '90 days'"), "{plan:?}");
        }
    }

    #[test]
    fn where_an_older_operator_noted_nothing_the_policy_tells() {
        let mut community = ninety(Edition::Community);
        community.applied_retention = None;
        assert_eq!(plan_for(Some(30), &community, None).refusals.len(), 1);
        let noted = plan_for(Some(90), &community, None);
        assert!(sql(&noted).ends_with("SET drop_after_seconds = 7776000 WHERE table_name = 'line';\n"));
        let mut apache2 = ninety(Edition::Apache2);
        apache2.applied_retention = None;
        assert!(sql(&plan_for(Some(30), &apache2, None)).contains("SET drop_after_seconds = 2592000 "));
    }

    #[test]
    fn expired_chunks_are_looked_for_between_every_minute_and_every_hour() {
        let seconds = |drop_after| check_interval(Duration::from_secs(drop_after)).as_secs();
        assert_eq!([seconds(90 * 24 * HOUR), seconds(12 * HOUR), seconds(60)], [HOUR, HOUR / 2, 60]);
    }

    #[test]
    fn dropping_is_due_at_first_after_the_interval_and_when_the_clock_was_set_back() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let due = |last_run, now| drop_is_due(last_run, at(now), Duration::from_secs(24 * HOUR));
        assert!(due(None, 10_000));
        assert!(!due(Some(at(10_000)), 13_599));
        assert!(due(Some(at(10_000)), 13_600));
        assert!(due(Some(at(10_000)), 9_999));
    }
}
