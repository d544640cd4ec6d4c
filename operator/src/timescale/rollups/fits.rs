//! Which settings of the spec fit a rollup that computes something else than the spec says, because another definition
//! waits. What does not fit waits along. Pure.

use super::{ObservedView, RollupMarker, definition};
use crate::pipeline::Rollup;

/// Which settings fit; those that are not here always do.
#[derive(Clone, Copy)]
pub(super) struct Fits {
    pub refresh: bool,
    pub columnstore: bool,
}

impl Fits {
    /// Of a rollup that computes what the spec says.
    pub const ALL: Self = Self { refresh: true, columnstore: true };

    pub fn of(rollup: &Rollup, marker: &RollupMarker, view: &ObservedView) -> Self {
        let refresh = fits_refresh(rollup, marker);
        // It is set up by columns, and for chunks that no refresh comes to any more.
        Self { refresh, columnstore: refresh && view.has_columns_of(rollup) }
    }

    /// What waits along, for a person.
    pub fn waiting(self) -> &'static str {
        match (self.refresh, self.columnstore) {
            (true, true) => "",
            (true, false) => ", with its columnstore",
            (false, _) => ", with its refresh and columnstore",
        }
    }
}

/// A policy must reach over two buckets at least.
pub(super) fn fits_refresh(rollup: &Rollup, marker: &RollupMarker) -> bool {
    let span = rollup.refresh.start_offset.saturating_sub(rollup.refresh.end_offset);
    definition::bucket_of(&marker.definition).is_none_or(|bucket| bucket.saturating_mul(2) <= span)
}
