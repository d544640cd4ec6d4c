//! The difference between a table as it is and as it shall be. Pure.

use crds::worker::PipelineId;

use super::{ObservedTable, TablePlan};
use crate::pipeline::Table;

/// What to do so that `wanted` holds.
pub fn plan(wanted: &Table, pipeline: &PipelineId, observed: &ObservedTable) -> TablePlan {
    let _ = (wanted, pipeline, observed);
    TablePlan::default()
}
