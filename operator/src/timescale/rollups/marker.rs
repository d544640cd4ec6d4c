//! What is written down of a rollup: rows of the table of markers, as those of tables. Pure: SQL only.

use crds::{names::MARKER_TABLE, worker::PipelineId};

use super::definition;
use crate::{
    pipeline::{Rollup, Table},
    timescale::{
        Retention, TableStep,
        bookkeeping::{identity, retention_seconds},
        sql::{literal, qualified},
    },
};

/// The first version of the bookkeeping that knows of rollups.
pub(in crate::timescale) const ROLLUPS_SINCE: i32 = 5;

/// Says that this pipeline makes the rollup now, and what it computes. The time tells the order in which several were made
/// in one transaction.
pub(super) fn claim(table: &Table, rollup: &Rollup, pipeline: &PipelineId) -> String {
    let schema = table.schema.as_str();
    format!(
        "{}INSERT INTO {} (table_name, cluster_name, namespace, pipeline, drop_after_seconds, rollup_of, definition, \
         is_filled, created_at) VALUES ({}, {}, {}, {}, {}, false, clock_timestamp());\n",
        forget(schema, rollup.name.as_str()).sql,
        qualified(schema, MARKER_TABLE),
        literal(rollup.name.as_str()),
        identity(pipeline),
        retention_seconds(Retention::of(rollup.drop_after)),
        literal(table.name.as_str()),
        literal(&definition::text(table, rollup)),
    )
}

/// Forgets a rollup that is not there any more.
pub(super) fn forget(schema: &str, name: &str) -> TableStep {
    let sql = format!(
        "DELETE FROM {} WHERE table_name = {} AND rollup_of IS NOT NULL;\n",
        qualified(schema, MARKER_TABLE),
        literal(name)
    );
    TableStep { changes: Vec::new(), sql }
}
