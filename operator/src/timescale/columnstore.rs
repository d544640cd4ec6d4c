//! How chunks go into the columnstore: its settings, and the policy that sends them there. Pure.
//!
//! Settings hold for chunks that go there from now on. What is there already stays as it is: nothing is ever taken out
//! of the columnstore or arranged anew, and where the spec no longer has one, only the policy goes.

use std::time::Duration;

use crds::status::Reason;

use super::{
    Edition, InstalledExtension, ObservedColumnstore, ObservedRelation, ObservedTable, TableStep,
    policy::{PolicyKind, WantedPolicy, plan_policy},
    sql::{duration_text, identifiers, literal, ordering, qualified},
};
use crate::{
    change::{Change, Note},
    pipeline::{Columnstore, SortOrder, Table, WantedTable},
};

#[cfg(test)]
mod tests;

/// The first TimescaleDB that has what is used here under its present names.
const SINCE_VERSION: (u32, u32) = (2, 18);

/// How chunks are sent there.
pub(super) const POLICY: PolicyKind = PolicyKind { statement: "CALL", name: "columnstore", age: "after" };

/// Makes settings and policy what they shall be. `missing_columns` are wanted by the spec and will not be there.
pub(super) fn plan(
    wanted: &Table,
    wanted_table: &WantedTable,
    observed: &ObservedTable,
    extension: &InstalledExtension,
    missing_columns: &[String],
) -> Vec<TableStep> {
    let relation = observed.table.as_ref();
    if !extension.has_columnstore() || relation.is_some_and(|relation| !is_ours_to_set(wanted, relation)) {
        return Vec::new();
    }
    let plan_policy = |policy| {
        let hypertable = (wanted.schema.as_str(), wanted.name.as_str());
        let found = relation.and_then(|relation| relation.columnstore_policy.as_ref());
        let change = |from, to| change(wanted, "after", from, to);
        plan_policy(&POLICY, hypertable, &extension.schema, policy, found, change)
    };
    let Some(columnstore) = &wanted_table.columnstore else {
        return plan_policy(None).into_iter().collect();
    };
    let settings = Settings::of(columnstore);
    if settings.columns().any(|column| missing_columns.contains(column)) {
        return Vec::new();
    }
    let policy = WantedPolicy {
        after: columnstore.after,
        check_interval: check_interval(wanted_table.chunk_interval),
    };
    settings.plan(wanted, relation).into_iter().chain(plan_policy(Some(policy))).collect()
}

/// What a person should know of the columnstore that the spec asks for.
pub(super) fn note(
    wanted_table: &WantedTable,
    observed: &ObservedTable,
    extension: &InstalledExtension,
) -> Option<Note> {
    let columnstore = wanted_table.columnstore.as_ref()?;
    if extension.has_columnstore() { late_rows(columnstore) } else { Some(unsupported(observed, extension)) }
}

/// How often chunks that are old enough are looked for: twice for each chunk that there is, at least twice a day and at
/// most once a minute. More often would only arrange chunks anew, more often, into which late rows came.
fn check_interval(chunk_interval: Duration) -> Duration {
    Duration::from_secs((chunk_interval.as_secs() / 2).clamp(60, 12 * 3600))
}

impl InstalledExtension {
    /// Whether there is a columnstore.
    pub(super) fn has_columnstore(&self) -> bool {
        self.edition == Edition::Community && !is_too_old(&self.version)
    }
}

/// A version that cannot be read is a newer one.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let parsed = numbers.next().flatten().zip(numbers.next().flatten());
    parsed.is_some_and(|parsed: (u32, u32)| parsed < SINCE_VERSION)
}

/// A table that became something else is refused, and gets no columnstore.
fn is_ours_to_set(wanted: &Table, relation: &ObservedRelation) -> bool {
    let is_over = |time_column: &String| time_column == wanted.time_column.as_str();
    relation.hypertable.as_ref().is_some_and(|hypertable| is_over(&hypertable.time_column))
}

/// The settings of a columnstore, as SQL takes them.
pub(super) struct Settings {
    segment_by: Vec<String>,
    order_by: Vec<(String, SortOrder)>,
}

impl Settings {
    pub fn of(columnstore: &Columnstore) -> Self {
        let order_by = columnstore.order_by.iter().map(|(name, order)| (name.to_string(), *order));
        Self {
            segment_by: columnstore.segment_by.iter().map(ToString::to_string).collect(),
            order_by: order_by.collect(),
        }
    }

    fn columns(&self) -> impl Iterator<Item = &String> {
        self.segment_by.iter().chain(self.order_by.iter().map(|(name, _)| name))
    }

    /// Writes all of them wherever one differs, so that TimescaleDB chooses none by itself.
    fn plan(&self, table: &Table, relation: Option<&ObservedRelation>) -> Option<TableStep> {
        let found = relation.and_then(|relation| relation.columnstore.as_ref());
        if found.is_some_and(|found| self.is_found(found)) {
            return None;
        }
        let order_by = describe_order(&self.as_observed().order_by);
        let changes = [
            ("segmentBy", found.map(|found| found.segment_by.join(", ")), self.segment_by.join(", ")),
            ("orderBy", found.map(|found| describe_order(&found.order_by)), order_by),
        ];
        let changes = changes
            .into_iter()
            .map(|(setting, from, to)| change(table, setting, from.unwrap_or_default(), to))
            .filter(|change| change.from != change.to);
        Some(TableStep {
            changes: changes.collect(),
            sql: format!(
                "ALTER TABLE {} SET ({});\n",
                qualified(table.schema.as_str(), table.name.as_str()),
                self.sql()
            ),
        })
    }

    /// What `ALTER … SET` takes.
    pub fn sql(&self) -> String {
        format!(
            "timescaledb.enable_columnstore = true, timescaledb.segmentby = {}, timescaledb.orderby = {}",
            literal(&identifiers(&self.segment_by)),
            literal(&ordering(&self.order_by)),
        )
    }

    pub fn is_found(&self, found: &ObservedColumnstore) -> bool {
        *found == self.as_observed()
    }

    /// As the server has them.
    pub fn as_observed(&self) -> ObservedColumnstore {
        ObservedColumnstore {
            segment_by: self.segment_by.clone(),
            order_by: self.order_by.iter().map(|(name, order)| (name.clone(), Some(*order))).collect(),
        }
    }
}

fn change(table: &Table, setting: &str, from: String, to: String) -> Change {
    Change::new(format!("table {table}"), format!("columnstore {setting}"), from, to)
}

pub(super) fn describe_order(columns: &[(String, Option<SortOrder>)]) -> String {
    let described = columns.iter().map(|(name, order)| match order {
        Some(SortOrder::Ascending) => name.clone(),
        Some(SortOrder::Descending) => format!("{name} DESC"),
        None => format!("{name} with its NULLs elsewhere"),
    });
    described.collect::<Vec<_>>().join(", ")
}

fn unsupported(observed: &ObservedTable, extension: &InstalledExtension) -> Note {
    let (why, what_to_do) = match extension.edition {
        Edition::Apache2 => ("is of the Apache-2 edition", "install the Community edition".to_owned()),
        Edition::Community => {
            let (major, minor) = SINCE_VERSION;
            ("is too old", format!("upgrade it to {major}.{minor} or later"))
        }
    };
    Note {
        reason: Reason::ColumnstoreUnsupported,
        message: format!(
            "as the spec says, but for timescale.columnstore: TimescaleDB {} in database {} {why} and has none, so \
             all rows stay in the rowstore; {what_to_do}, or leave timescale.columnstore out",
            extension.version, observed.database,
        ),
    }
}

/// Rows that come later than their chunk went into the columnstore are written all the same. That is no mistake to refuse:
/// who accepts what comes late after an outage need not wait as long with every chunk.
fn late_rows(columnstore: &Columnstore) -> Option<Note> {
    let after = columnstore.after;
    let accepted = match columnstore.max_late {
        Some(max_late) if max_late <= after => return None,
        Some(max_late) => {
            format!("processing.acceptTime.maxLate accepts rows that are {} late", duration_text(max_late))
        }
        None => "without processing.acceptTime.maxLate rows of any age are accepted".to_owned(),
    };
    Some(Note {
        reason: Reason::LateRowsInColumnstore,
        message: format!(
            "as the spec says; timescale.columnstore.after is {}, and {accepted}: those that find their chunk in the \
             columnstore are written too, which takes longer, and the chunk is arranged anew. Where many come so late, \
             raise after, or set maxLate to no more than it",
            duration_text(after),
        ),
    })
}
