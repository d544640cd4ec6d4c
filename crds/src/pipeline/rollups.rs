//! `spec.timescale.rollups[]`: aggregates of the table by time, kept up to date.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::timescale::{ColumnstoreSpec, RetentionSpec};
use crate::units::DurationText;

/// One rollup: a view in the table's schema with a row for each bucket of time and each group. On TimescaleDB's Community
/// edition a continuous aggregate; on the Apache-2 edition a plain view of the same name and columns, computed when queried.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.from) || self.from != self.name")
        .message("a rollup cannot be made from itself")
        .field_path(".from"),
    validation = Rule::new("!has(self.groupBy) || self.groupBy.all(column, !(column in self.select) && column != (has(self.timeColumn) ? self.timeColumn : 'bucket'))")
        .message("the columns of groupBy and select and the timeColumn are columns of one view; give each a name of its own")
        .field_path(".groupBy"),
    validation = Rule::new("!((has(self.timeColumn) ? self.timeColumn : 'bucket') in self.select)")
        .message("timeColumn names the column of the bucket, default bucket; select needs other names")
        .field_path(".select"),
)]
pub struct RollupSpec {
    /// The view, in the table's schema. One that leaves the list stays in the database.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('_iotpipeline_')").message("names that begin with _iotpipeline_ are the operator's own"))]
    pub name: String,
    /// The rollup that this one is made from, which stands before it in the list; by default the table itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub from: Option<String>,
    /// The span of time of a row, in UTC; weeks begin on Mondays. With `from` a multiple of that rollup's. A change makes
    /// the rollup anew, and waits for approval.
    pub bucket: DurationText,
    /// The column with the beginning of the bucket; default `bucket`. A change makes the rollup anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    pub time_column: Option<String>,
    /// Columns, typically the device: a row for each of their values. With `from`, columns of that rollup. A change makes
    /// the rollup anew, and waits for approval.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b == a))")
        .message("groupBy may name each column once"))]
    pub group_by: Vec<String>,
    /// What is computed, by the name of its column: one call of an aggregate over columns, such as
    /// `avg(temperature_c)`, `count(*)` or `last(temperature_c, time)`. docs/table.md lists them. With `from`, over columns
    /// of that rollup. A change makes the rollup anew, and waits for approval.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 32), inner(length(min = 1, max = 160)))]
    pub select: BTreeMap<String, String>,
    /// false (default): rows that were not refreshed yet are computed when queried. true: they show once they are
    /// refreshed.
    #[serde(default)]
    pub materialized_only: bool,
    /// When rows are computed, and anew where late messages changed them.
    pub refresh: RefreshSpec,
    /// How long its rows stay, however long those of the table do; without it for ever. A shorter time waits for approval.
    /// On the Apache-2 edition a rollup shows what rows the table has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
    /// When its chunks go into the columnstore, and how; as for the table. By default rows are ordered by time, the newest
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columnstore: Option<ColumnstoreSpec>,
}

/// When a rollup is refreshed: `every` so often, all that changed between `startOffset` and `endOffset` ago.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefreshSpec {
    /// How far back: rows that come later than this do not reach the rollup any more. At least two buckets before
    /// `endOffset`; together with `every` no more than the `retention.dropAfter` of what the rollup is made from, because
    /// a refresh erases what has no rows any more.
    pub start_offset: DurationText,
    /// Up to when. Buckets that messages still come for are better left to the next refresh.
    pub end_offset: DurationText,
    /// How often. No more than what `startOffset` leaves beside `endOffset` and a bucket, so that no bucket is missed.
    pub every: DurationText,
}
