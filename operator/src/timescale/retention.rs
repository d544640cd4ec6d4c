//! How rows go: by a native policy on the Community edition, by the operator's own hand on the Apache-2 edition. The
//! table and its dead letters have a retention each, and whatever is said here holds for both. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use crds::{
    names::dead_letter_table,
    status::{ChangeClass, Reason},
    worker::PipelineId,
};
use jiff::Timestamp;

use super::{
    Edition, InstalledExtension, ObservedRelation, ObservedTable, TableStep, bookkeeping,
    policy::{PolicyKind, WantedPolicy, plan_policy},
    rollups,
    sql::{duration_text, qualified},
};
use crate::{
    change::{Approvals, Change, Refusal},
    pipeline::{SqlIdent, Table},
};

#[cfg(test)]
mod tests;

/// How the Community edition drops chunks.
pub(super) const POLICY: PolicyKind =
    PolicyKind { statement: "SELECT", name: "retention", age: "drop_after" };

/// What is known of how long the rows of a hypertable stay, beside its policy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KnownRetention {
    /// What was last applied; `None` where nothing says so.
    pub applied: Option<Retention>,
    /// What would go now if rows stayed as long as the spec says; read only where that is a shorter time than before, and
    /// where the operator itself drops chunks.
    pub expired: Option<ExpiredChunks>,
}

/// How long rows stay. The shorter, the less.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Retention {
    /// So long at least.
    For(Duration),
    /// Until somebody deletes them.
    ForEver,
}

/// Chunks whose rows are all older than the spec wants them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ExpiredChunks {
    /// How many.
    pub number: i64,
    /// When the oldest of them begins.
    pub oldest: Option<Timestamp>,
    /// About how many rows they have; `None` where the server cannot tell.
    pub rows: Option<i64>,
}

/// How often expired chunks are looked for: a 24th of the time that rows stay, at least once an hour and at
/// most once a minute. Both editions keep to it, so rows go at the same time on both.
pub fn check_interval(drop_after: Duration) -> Duration {
    // Whole seconds, as the server is told them: otherwise what it has would never be what is wanted.
    Duration::from_secs((drop_after.as_secs() / 24).clamp(60, 3600))
}

/// Whether it is time to drop expired chunks, `last_run` being the last time this operator did.
pub fn drop_is_due(last_run: Option<Timestamp>, now: Timestamp, drop_after: Duration) -> bool {
    last_run.is_none_or(|last_run| {
        let elapsed = now.as_second().saturating_sub(last_run.as_second());
        // A clock that was set back must not stop retention.
        elapsed < 0 || elapsed.unsigned_abs() >= check_interval(drop_after).as_secs()
    })
}

/// How long the rows of each hypertable that the pipeline keeps stay for now, by the hypertable's name.
pub fn retentions_in_force(
    table: &Table,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    approvals: &Approvals,
) -> BTreeMap<String, Retention> {
    Kept::of(table, pipeline, observed)
        .into_iter()
        .filter(|kept| kept.is_marked && kept.hypertable_has_chunks().is_some())
        .map(|kept| (kept.name.clone(), kept.in_force(approvals)))
        .collect()
}

/// The chunks of a hypertable whose rows are all older than that, for a person.
pub fn expired_chunks(schema: &SqlIdent, hypertable: &str, drop_after: Duration) -> String {
    format!("chunks of table {schema}.{hypertable} older than {}", duration_text(drop_after))
}

/// What is said of a shorter time that waits: for what needs the rows, or else for a person.
pub(super) fn waits(
    change: &Change,
    behind: Option<&str>,
    expired: ExpiredChunks,
    pipeline: &PipelineId,
    approvals: &Approvals,
) -> Refusal {
    let Change { object, field, from, to, class: _ } = change;
    if let Some(behind) = behind {
        let message = format!(
            "{object}: {field} from {from} to {to} waits: {behind}; until then the old value stays in force"
        );
        return Refusal { reason: Reason::RollupBehind, message };
    }
    let rows = expired.rows.map(|rows| format!(" with about {rows} rows")).unwrap_or_default();
    let oldest = expired.oldest.map(|oldest| format!(", the oldest from {oldest}")).unwrap_or_default();
    Refusal {
        reason: Reason::ApprovalRequired,
        message: format!(
            "{object}: {field} from {from} to {to} would delete {number} chunks{rows} now{oldest}; until it is approved, \
             the old value stays in force. Set it back, or approve with: {command}",
            number = expired.number,
            command = approvals.command(change, pipeline),
        ),
    }
}

/// The hypertables with chunks that have expired by what is in force, and after which time they do.
pub fn hypertables_with_expired_chunks(
    table: &Table,
    pipeline: &PipelineId,
    observed: &ObservedTable,
    approvals: &Approvals,
) -> BTreeMap<String, Duration> {
    Kept::of(table, pipeline, observed)
        .into_iter()
        .filter(|kept| kept.is_marked && kept.known.expired.is_some_and(|expired| expired.number > 0))
        // Those that go by a time that is held are not in force, and others were not counted.
        .filter(|kept| kept.in_force(approvals) == kept.wanted)
        .filter_map(|kept| Some((kept.name.clone(), kept.wanted.drop_after()?)))
        .collect()
}

/// A hypertable of which the pipeline keeps the rows for as long as its spec says: the table, or its dead letters.
pub(super) struct Kept<'a> {
    schema: &'a str,
    name: String,
    is_dead_letters: bool,
    relation: Option<&'a ObservedRelation>,
    /// Whether the bookkeeping says that it is this pipeline's.
    is_marked: bool,
    /// Whether it is there, nobody's, and taken over.
    is_adopted_now: bool,
    known: &'a KnownRetention,
    /// The field of the spec that says how long.
    field: &'static str,
    wanted: Retention,
    /// How long rows stayed so far.
    former: Retention,
    /// Why rows must not stay for a shorter time yet, whatever a person says: a rollup needs them.
    behind: Option<String>,
}

impl<'a> Kept<'a> {
    /// Those that are this pipeline's, or will be once they are made.
    pub fn of(table: &'a Table, pipeline: &PipelineId, observed: &'a ObservedTable) -> Vec<Self> {
        let may_be_ours = |marker: &Option<PipelineId>| marker.as_ref().is_none_or(|owner| owner == pipeline);
        let adopt = table.wanted.as_ref().is_some_and(|wanted| wanted.adopt);
        let mut kept = Vec::new();
        if let Some(wanted) = table.wanted.as_ref().filter(|_| may_be_ours(&observed.marker)) {
            let (relation, known) = (observed.table.as_ref(), &observed.retention);
            let wanted = Retention::of(wanted.drop_after);
            let is_adopted_now = adopt && observed.marker.is_none() && relation.is_some();
            // Where an older operator dropped chunks itself, it did so as the spec says and noted nothing. Of a table that
            // is adopted nobody did.
            let unnoted = if is_adopted_now { Retention::ForEver } else { wanted };
            kept.push(Self {
                schema: table.schema.as_str(),
                name: table.name.to_string(),
                is_dead_letters: false,
                relation,
                is_marked: observed.marker.is_some(),
                is_adopted_now,
                known,
                field: "timescale.retention.dropAfter",
                wanted,
                former: former(observed.edition(), relation, known, unnoted),
                behind: rollups::behind(table, observed),
            });
        }
        if may_be_ours(&observed.dead_letter_marker) {
            let (relation, known) = (observed.dead_letters.as_ref(), &observed.dead_letter_retention);
            kept.push(Self {
                schema: table.schema.as_str(),
                name: dead_letter_table(table.name.as_str()),
                is_dead_letters: true,
                relation,
                is_marked: observed.dead_letter_marker.is_some(),
                is_adopted_now: adopt && observed.dead_letter_marker.is_none() && relation.is_some(),
                known,
                field: "timescale.deadLetters.retention.dropAfter",
                wanted: Retention::of(table.dead_letters_drop_after),
                // An older operator kept them for ever.
                former: former(observed.edition(), relation, known, Retention::ForEver),
                behind: None,
            });
        }
        kept
    }

    /// How long rows stay for now: as the spec says, or as before where the spec's shorter time waits for approval.
    pub fn in_force(&self, approvals: &Approvals) -> Retention {
        if self.held(approvals).is_some() { self.former } else { self.wanted }
    }

    /// Says that the hypertable is this pipeline's, where nothing does.
    pub fn claim(&self, pipeline: &PipelineId, approvals: &Approvals) -> Option<TableStep> {
        let retention = self.in_force(approvals);
        let Self { schema, name, is_dead_letters, is_adopted_now, .. } = self;
        (!self.is_marked)
            .then(|| bookkeeping::claim(schema, name, pipeline, retention, *is_dead_letters, *is_adopted_now))
    }

    /// Brings about that rows stay as long as they shall for now, and notes it.
    pub fn plan(&self, extension: &InstalledExtension, approvals: &Approvals) -> Vec<TableStep> {
        // Something else that has its name is refused, and has no retention.
        if self.relation.is_some_and(|relation| relation.hypertable.is_none()) {
            return Vec::new();
        }
        let retention = self.in_force(approvals);
        self.plan_note(retention, extension.edition)
            .into_iter()
            .chain(self.plan_policy(retention.drop_after(), extension))
            .collect()
    }

    /// What the spec asks for and a person must approve first, because it deletes data.
    pub fn approval_required(&self, pipeline: &PipelineId, approvals: &Approvals) -> Option<Refusal> {
        let expired = self.known.expired.unwrap_or_default();
        Some(waits(&self.held(approvals)?, self.behind.as_deref(), expired, pipeline, approvals))
    }

    /// What a person runs so that the operator's role may alter what is there; `None` where it may.
    pub fn missing_ownership(&self, role: &str) -> Option<String> {
        let is_kept = self.is_marked || self.is_adopted_now;
        let is_foreign = is_kept && self.relation.is_some_and(|relation| !relation.owned);
        is_foreign.then(|| format!("ALTER TABLE {} OWNER TO {role};", qualified(self.schema, &self.name)))
    }

    /// The change of the spec that waits for approval, or for a rollup.
    pub fn held(&self, approvals: &Approvals) -> Option<Change> {
        let class = self.class_of(self.former, self.wanted);
        let change = self.change(self.field, self.former.to_string(), self.wanted.to_string()).classed(class);
        let may_be_made = self.behind.is_none() && approvals.include(&change);
        (class == ChangeClass::Destructive && !may_be_made).then_some(change)
    }

    /// A shorter time deletes rows, where there may be any.
    fn class_of(&self, from: Retention, to: Retention) -> ChangeClass {
        let may_delete = self.hypertable_has_chunks() == Some(true) && to < from;
        if may_delete { ChangeClass::Destructive } else { ChangeClass::Safe }
    }

    /// `None` where there is no hypertable.
    fn hypertable_has_chunks(&self) -> Option<bool> {
        self.relation?.hypertable.as_ref().map(|hypertable| hypertable.has_chunks)
    }

    /// Notes how long rows stay. A new hypertable's marker says it already.
    fn plan_note(&self, retention: Retention, edition: Edition) -> Option<TableStep> {
        if !self.is_marked || self.known.applied == Some(retention) {
            return None;
        }
        // With policies, their change is the one to tell.
        let is_change = |applied: &Retention| edition == Edition::Apache2 && *applied != retention;
        let change = self.known.applied.filter(is_change).map(|applied| {
            self.change("retention", applied.change_text(), retention.change_text())
                .classed(self.class_of(applied, retention))
        });
        Some(TableStep {
            changes: change.into_iter().collect(),
            sql: bookkeeping::record_retention(self.schema, &self.name, retention),
        })
    }

    /// Makes the native policy what it shall be.
    fn plan_policy(&self, drop_after: Option<Duration>, extension: &InstalledExtension) -> Option<TableStep> {
        if extension.edition == Edition::Apache2 {
            return None;
        }
        let found = self.relation.and_then(|relation| relation.retention.as_ref());
        let wanted = drop_after
            .map(|drop_after| WantedPolicy { after: drop_after, check_interval: check_interval(drop_after) });
        // A policy that is paused keeps all rows.
        let so_far = Retention::of(found.filter(|found| found.scheduled).and_then(|found| found.after));
        let class = self.class_of(so_far, Retention::of(drop_after));
        let change = |from, to| self.change("retention", from, to).classed(class);
        plan_policy(&POLICY, (self.schema, &self.name), &extension.schema, wanted, found, change)
    }

    fn change(&self, field: &str, from: String, to: String) -> Change {
        Change::new(format!("table {}.{}", self.schema, self.name), field, from, to)
    }
}

/// How long rows stayed so far. Where nothing was noted, the policy says it, and without policies `unnoted`.
fn former(
    edition: Option<Edition>,
    relation: Option<&ObservedRelation>,
    known: &KnownRetention,
    unnoted: Retention,
) -> Retention {
    known.applied.unwrap_or_else(|| match edition {
        Some(Edition::Community) => {
            let policy = relation.and_then(|relation| relation.retention.as_ref());
            Retention::of(policy.and_then(|policy| policy.after))
        }
        Some(Edition::Apache2) | None => unnoted,
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
