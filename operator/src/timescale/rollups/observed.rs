//! What is known of rollups. No I/O.

use jiff::Timestamp;

use crate::{
    pipeline::Rollup,
    timescale::{ExpiredChunks, ObservedColumnstore, ObservedPolicy, ObservedTable, Retention},
};

/// A rollup that the spec names, or that was made for the table once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedRollup {
    /// Its name.
    pub name: String,
    /// What the bookkeeping says of it; `None` where it was not made for this table.
    pub marker: Option<RollupMarker>,
    /// The view, or whatever has its name.
    pub view: Option<ObservedView>,
}

/// What the bookkeeping says of a rollup.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RollupMarker {
    /// What it computes.
    pub definition: String,
    /// Up to when it is filled with the rows that were there before it; `None` where that has not begun.
    pub filled_to: Option<Timestamp>,
    /// Whether it is filled, so that its policy does the rest.
    pub is_filled: bool,
    /// How long its rows stay, as it was last applied.
    pub retention: Option<Retention>,
}

/// A view as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedView {
    /// What kind of view.
    pub kind: ViewKind,
    /// Whether the role owns it, by itself or as a member of the owner.
    pub owned: bool,
    /// Its columns in order, each with its type as `format_type` spells it.
    pub columns: Vec<(String, String)>,
    /// The roles that may read it, beside the owner; `None` for all of them.
    pub readers: Vec<Option<String>>,
    /// The views that are made from it, as `schema.name`.
    pub dependents: Vec<String>,
}

/// The kinds of things that may have a rollup's name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ViewKind {
    /// A continuous aggregate.
    Aggregate(Box<ObservedAggregate>),
    /// A plain view.
    View,
    /// No view at all.
    Other,
}

/// A continuous aggregate as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedAggregate {
    /// Whether it is made from the table, and not from another one.
    pub is_of_table: bool,
    /// Whether only what was refreshed shows.
    pub materialized_only: bool,
    /// The beginning of its oldest chunk; `None` where it has none.
    pub oldest: Option<Timestamp>,
    /// Its refresh policy, if any.
    pub refresh: Option<ObservedRefresh>,
    /// Its retention policy, if any.
    pub retention: Option<ObservedPolicy>,
    /// How its chunks go into the columnstore, where that is enabled.
    pub columnstore: Option<ObservedColumnstore>,
    /// The policy that sends them there, if any.
    pub columnstore_policy: Option<ObservedPolicy>,
    /// What would go now if its rows stayed as long as the spec says; read only where that is a shorter time than before.
    pub expired: Option<ExpiredChunks>,
    /// Up to when it was refreshed, where the table has rows after that which would go if they stayed as long as the spec
    /// says; read only where that is a shorter time than before.
    pub refreshed_only_to: Option<Timestamp>,
}

/// A refresh policy as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedRefresh {
    /// How far back, seconds; `None` where it reaches back to the beginning.
    pub start_offset: Option<u64>,
    /// Up to when, seconds; `None` where it reaches up to the end.
    pub end_offset: Option<u64>,
    /// How often, seconds.
    pub every: u64,
    /// Whether it runs at all.
    pub scheduled: bool,
}

impl ObservedTable {
    /// A rollup by its name.
    pub(super) fn rollup(&self, name: &str) -> Option<&ObservedRollup> {
        self.rollups.iter().find(|rollup| rollup.name == name)
    }
}

impl ObservedView {
    /// Whether these are its columns.
    pub(super) fn has_columns_of(&self, rollup: &Rollup) -> bool {
        let columns = rollup.columns();
        let wanted = columns.iter().map(|(name, sql_type)| (name.as_str(), *sql_type));
        wanted.eq(self.columns.iter().map(|(name, sql_type)| (name.as_str(), sql_type.as_str())))
    }
}

impl ObservedRollup {
    /// The continuous aggregate, where it is one that was made for the table.
    pub(super) fn aggregate(&self) -> Option<(&RollupMarker, &ObservedAggregate)> {
        match (&self.marker, &self.view) {
            (Some(marker), Some(ObservedView { kind: ViewKind::Aggregate(aggregate), .. })) => {
                Some((marker, aggregate))
            }
            _ => None,
        }
    }
}
