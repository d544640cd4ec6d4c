//! The columnstore of a spec. Every setting gets a value here: TimescaleDB's own choice would be another one in another
//! version. Synchronous, no client.

use std::time::Duration;

use crds::pipeline::{AcceptTimeSpec, ColumnType, ColumnstoreSpec, TimescaleSpec};

use super::{problems::Problems, stores::ordered_column};
use crate::pipeline::{Columnstore, SortOrder, SqlIdent};

/// `Some(None)` where the spec asks for none.
pub(super) fn columnstore(
    spec: &TimescaleSpec,
    accept_time: &AcceptTimeSpec,
    problems: &mut Problems,
) -> Option<Option<Columnstore>> {
    let Some(columnstore) = &spec.columnstore else { return Some(None) };
    let after = problems.duration("timescale.columnstore.after", &columnstore.after);
    refuse_expired(spec, columnstore, after, problems);
    let segment_by = segment_by(spec, columnstore, problems);
    let order_by = order_by(spec, columnstore, problems);
    Some(Some(Columnstore {
        after: after?,
        segment_by: segment_by?,
        order_by: order_by?,
        // Where it is no duration, that is said where the processor is told of it.
        max_late: accept_time.max_late.as_ref().and_then(|max_late| max_late.parse()),
    }))
}

/// Chunks that are dropped before they are old enough would never go into the columnstore.
fn refuse_expired(
    spec: &TimescaleSpec,
    columnstore: &ColumnstoreSpec,
    after: Option<Duration>,
    problems: &mut Problems,
) {
    let Some(retention) = &spec.retention else { return };
    let ages = after.zip(retention.drop_after.parse());
    problems.refuse_if(ages.is_some_and(|(after, drop_after)| after >= drop_after), || {
        format!(
            "timescale.columnstore.after {} is not less than timescale.retention.dropAfter {}, so every chunk would be \
             dropped before it goes into the columnstore; lower after, raise dropAfter, or leave columnstore out",
            columnstore.after, retention.drop_after
        )
    });
}

fn segment_by(
    spec: &TimescaleSpec,
    columnstore: &ColumnstoreSpec,
    problems: &mut Problems,
) -> Option<Vec<SqlIdent>> {
    let names = &columnstore.segment_by;
    let columns = names.iter().enumerate().map(|(index, name)| {
        let is_repeated = names.iter().take(index).any(|earlier| earlier == name);
        let column = SqlIdent::parse(name).filter(|column| may_be_named(spec, column));
        problems.require(column.filter(|_| !is_repeated && *name != spec.time_column), || {
            format!(
                "timescale.columnstore.segmentBy {name:?} must be one of timescale.columns, named once, and neither \
                 timescale.timeColumn nor of type jsonb"
            )
        })
    });
    // Every problem is noted before one of them ends the whole.
    columns.collect::<Vec<_>>().into_iter().collect()
}

fn order_by(
    spec: &TimescaleSpec,
    columnstore: &ColumnstoreSpec,
    problems: &mut Problems,
) -> Option<Vec<(SqlIdent, SortOrder)>> {
    let entries = &columnstore.order_by;
    if entries.is_empty() {
        return default_order(spec, columnstore);
    }
    let columns = entries.iter().enumerate().map(|(index, entry)| {
        let column = ordered_column(entry).filter(|(name, _)| {
            let earlier = entries.iter().take(index).filter_map(|earlier| ordered_column(earlier));
            let mut named = columnstore.segment_by.iter().cloned().chain(earlier.map(|(name, _)| name.to_string()));
            may_be_named(spec, name) && named.all(|other| other != name.as_str())
        });
        problems.require(column, || {
            format!(
                "timescale.columnstore.orderBy entry {entry:?} must be one of timescale.columns, alone or followed by ASC \
                 or DESC, not of type jsonb, named once and not in segmentBy"
            )
        })
    });
    let mut columns: Vec<_> = columns.collect::<Vec<_>>().into_iter().collect::<Option<_>>()?;
    // TimescaleDB would add it too.
    if columns.iter().all(|(name, _): &(SqlIdent, _)| name.as_str() != spec.time_column) {
        columns.push((SqlIdent::parse(&spec.time_column)?, SortOrder::Descending));
    }
    Some(columns)
}

/// With a natural key its columns, so that the row that a late one might repeat is found without unpacking much; the
/// newest rows first, as they are asked for most. The key makes no segments by itself: it may hold a column that is
/// another in every row, such as a sequence number, and each row would be a segment of its own.
fn default_order(spec: &TimescaleSpec, columnstore: &ColumnstoreSpec) -> Option<Vec<(SqlIdent, SortOrder)>> {
    let time_alone = std::slice::from_ref(&spec.time_column);
    let key = if spec.unique_by.is_empty() { time_alone } else { spec.unique_by.as_slice() };
    let rest = key.iter().filter(|name| !columnstore.segment_by.contains(name));
    rest.map(|name| {
        let order = if *name == spec.time_column { SortOrder::Descending } else { SortOrder::Ascending };
        Some((SqlIdent::parse(name)?, order))
    })
    .collect()
}

/// Whether it is one of the columns, and of a type of which rows have an order that means something.
fn may_be_named(spec: &TimescaleSpec, name: &SqlIdent) -> bool {
    let column = spec.columns.iter().find(|column| column.name == name.as_str());
    column.is_some_and(|column| column.column_type != ColumnType::Jsonb)
}
