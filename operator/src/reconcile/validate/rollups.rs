//! The rollups of a spec, each against what it is made from. Synchronous, no client.
//!
//! Why the offsets are compared, from TimescaleDB's source (`src/chunk.c` and `tsl/src/continuous_aggs/refresh.c`) and tried on
//! 2.23: `drop_chunks` notes the span of each chunk that it drops as changed (`continuous_agg_invalidate_raw_ht`), and a
//! refresh deletes what it has of changed buckets and computes them from the rows that are there, which are none. It
//! touches only buckets that lie whole between `startOffset` and `endOffset` ago
//! (`compute_inscribed_bucketed_refresh_window`), and a chunk goes when its end is `dropAfter` ago. So nothing is erased where
//! `startOffset` is at most `dropAfter`; and because a refresh that began earlier may still be running when a chunk goes,
//! the time between two is added.

mod expression;
mod source;

use std::{collections::BTreeSet, time::Duration};

use crds::{
    names::dead_letter_table,
    pipeline::{ColumnType, ColumnstoreSpec, RefreshSpec, RollupSpec, TimescaleSpec},
};

use self::source::{Source, source};
use super::{problems::Problems, stores::ordered_column};
use crate::pipeline::{Aggregate, Columnstore, Refresh, Rollup, SortOrder, SqlIdent, ValueType};

#[cfg(test)]
mod tests;

/// The column of the bucket, where the spec names none.
const DEFAULT_TIME_COLUMN: &str = "bucket";

/// All rollups of the spec, in its order: each after what it is made from.
pub(super) fn rollups(spec: &TimescaleSpec, problems: &mut Problems) -> Option<Vec<Rollup>> {
    let mut rollups: Vec<Rollup> = Vec::with_capacity(spec.rollups.len());
    for rollup in &spec.rollups {
        let found_before = problems.found.len();
        refuse_taken_name(spec, &rollups, rollup, problems);
        let source = source(spec, &rollups, rollup, problems);
        let parsed = source.and_then(|source| parse(rollup, &source, problems));
        // Every problem is noted before one of them ends the whole; of one whose source is refused nothing more is known.
        if let Some(parsed) = parsed.filter(|_| problems.found.len() == found_before) {
            rollups.push(parsed);
        }
    }
    (rollups.len() == spec.rollups.len()).then_some(rollups)
}

fn refuse_taken_name(spec: &TimescaleSpec, earlier: &[Rollup], rollup: &RollupSpec, problems: &mut Problems) {
    let name = &rollup.name;
    let is_taken = *name == spec.table.name
        || *name == dead_letter_table(&spec.table.name)
        || earlier.iter().any(|earlier| earlier.name.as_str() == name);
    problems.refuse_if(is_taken, || {
        format!("timescale.rollups name {name:?} is that of the table, of its dead letters or of an earlier rollup; choose another")
    });
}

fn parse(spec: &RollupSpec, source: &Source<'_>, problems: &mut Problems) -> Option<Rollup> {
    let field = format!("timescale.rollups {}", spec.name);
    let name = problems
        .require(SqlIdent::parse(&spec.name).filter(|_| !spec.name.starts_with("_iotpipeline_")), || {
            format!("timescale.rollups name {:?} is no name of a view; use a-z 0-9 _, at most 63, not beginning with _iotpipeline_", spec.name)
        });
    let time_column = spec.time_column.as_deref().unwrap_or(DEFAULT_TIME_COLUMN);
    let bucket = problems.duration(&format!("{field}: bucket"), &spec.bucket);
    refuse_unfit_bucket(&field, bucket, source, problems);
    let group_by = group_by(&field, spec, source, problems);
    let select = select(&field, spec, source, problems);
    refuse_repeated_columns(&field, time_column, spec, problems);
    let refresh = bucket.and_then(|bucket| refresh(&field, &spec.refresh, bucket, source, problems));
    let drop_after = problems.optional_duration(
        &format!("{field}: retention.dropAfter"),
        spec.retention.as_ref().map(|retention| &retention.drop_after),
    );
    if let (Some(refresh), Some(Some(drop_after))) = (refresh, drop_after) {
        refuse_refresh_beyond(&field, refresh, "its own retention.dropAfter", drop_after, problems);
    }
    let time_column = problems.require(SqlIdent::parse(time_column), || {
        format!("{field}: timeColumn {time_column:?} is no column name; use a-z 0-9 _, at most 63")
    });
    let mut rollup = Rollup {
        name: name?,
        from: spec.from.as_deref().and_then(SqlIdent::parse),
        source_time: SqlIdent::parse(source.time_column)?,
        bucket: bucket?,
        time_column: time_column?,
        group_by: group_by?,
        select: select?,
        materialized_only: spec.materialized_only,
        refresh: refresh?,
        drop_after: drop_after?,
        columnstore: None,
    };
    if let Some(columnstore) = &spec.columnstore {
        rollup.columnstore = Some(self::columnstore(&field, columnstore, &rollup, problems)?);
    }
    Some(rollup)
}

/// TimescaleDB makes the buckets of a rollup from whole ones of the other.
fn refuse_unfit_bucket(field: &str, bucket: Option<Duration>, source: &Source<'_>, problems: &mut Problems) {
    let Some((bucket, parent)) = bucket.zip(source.rollup) else { return };
    problems.refuse_if(!bucket.as_secs().is_multiple_of(parent.bucket.as_secs()), || {
        format!(
            "{field}: bucket must be a multiple of {}, the bucket of rollup {} that it is made from",
            text(parent.bucket),
            parent.name
        )
    });
}

fn group_by(
    field: &str,
    spec: &RollupSpec,
    source: &Source<'_>,
    problems: &mut Problems,
) -> Option<Vec<(SqlIdent, ValueType)>> {
    let columns = spec.group_by.iter().map(|name| {
        let found = source.value_type(name).filter(|value_type| {
            name != source.time_column && *value_type != ValueType::Column(ColumnType::Jsonb)
        });
        problems.require(SqlIdent::parse(name).zip(found), || {
            format!(
                "{field}: groupBy {name:?} must be one of {}, not the column of time and not of type jsonb",
                source.columns_of
            )
        })
    });
    columns.collect::<Vec<_>>().into_iter().collect()
}

fn select(
    field: &str,
    spec: &RollupSpec,
    source: &Source<'_>,
    problems: &mut Problems,
) -> Option<Vec<(SqlIdent, Aggregate, ValueType)>> {
    problems.refuse_if(spec.select.is_empty(), || {
        format!("{field}: select is empty; write what to compute, such as rows: count(*)")
    });
    let values = spec.select.iter().map(|(name, text)| {
        let output = problems.require(SqlIdent::parse(name), || {
            format!("{field}: {name:?} in select is no column name; use a-z 0-9 _, at most 63")
        });
        let aggregate = problems.require(expression::parse(text), || {
            format!(
                "{field}: {name}: {text:?} is not one call of an aggregate over columns; write one of {}",
                expression::known()
            )
        })?;
        let value_type = source.type_of(&aggregate);
        if let Err(why) = &value_type {
            problems.refuse_if(true, || format!("{field}: {name}: {aggregate}: {why}"));
        }
        Some((output?, aggregate, value_type.ok()?))
    });
    values.collect::<Vec<_>>().into_iter().collect()
}

fn refuse_repeated_columns(field: &str, time_column: &str, spec: &RollupSpec, problems: &mut Problems) {
    let mut names = BTreeSet::new();
    let all = std::iter::once(time_column)
        .chain(spec.group_by.iter().map(String::as_str))
        .chain(spec.select.keys().map(String::as_str));
    for name in all {
        problems.refuse_if(!names.insert(name), || {
            format!(
                "{field}: {name:?} would be two columns of the view; timeColumn ({DEFAULT_TIME_COLUMN} by default), groupBy \
                 and select need names of their own"
            )
        });
    }
}

fn refresh(
    field: &str,
    spec: &RefreshSpec,
    bucket: Duration,
    source: &Source<'_>,
    problems: &mut Problems,
) -> Option<Refresh> {
    let start_offset = problems.duration(&format!("{field}: refresh.startOffset"), &spec.start_offset);
    let end_offset = problems.duration(&format!("{field}: refresh.endOffset"), &spec.end_offset);
    let every = problems.duration(&format!("{field}: refresh.every"), &spec.every);
    let refresh = Refresh { start_offset: start_offset?, end_offset: end_offset?, every: every? };

    let least = refresh.end_offset + 2 * bucket;
    problems.refuse_if(refresh.start_offset < least, || {
        format!(
            "{field}: refresh.startOffset {} must be at least {}: endOffset and two buckets",
            spec.start_offset,
            text(least)
        )
    });
    // A bucket is refreshed in its time from endOffset after its end to startOffset after its beginning.
    let most = refresh.start_offset.saturating_sub(refresh.end_offset + bucket);
    problems.refuse_if(refresh.start_offset >= least && refresh.every > most, || {
        format!(
            "{field}: refresh.every {} must be at most {}, which is startOffset without endOffset and a bucket, or buckets \
             are missed",
            spec.every,
            text(most)
        )
    });
    if let Some((retention, drop_after)) = &source.drop_after {
        refuse_refresh_beyond(field, refresh, retention, *drop_after, problems);
    }
    if let Some(parent) = source.rollup {
        let least = parent.refresh.start_offset + bucket + refresh.every;
        problems.refuse_if(refresh.start_offset < least, || {
            format!(
                "{field}: refresh.startOffset {} must be at least {}, which is that of rollup {} with this one's bucket and \
                 every, so that what changes there is taken up here",
                spec.start_offset,
                text(least),
                parent.name
            )
        });
    }
    Some(refresh)
}

fn refuse_refresh_beyond(
    field: &str,
    refresh: Refresh,
    retention: &str,
    drop_after: Duration,
    problems: &mut Problems,
) {
    let reach = refresh.start_offset + refresh.every;
    problems.refuse_if(reach > drop_after, || {
        format!(
            "{field}: a refresh reaches {} back (startOffset {} and every {}), and {retention} is {}: it would erase the \
             aggregates of rows that are dropped; lower startOffset, or raise dropAfter to at least {}",
            text(reach),
            text(refresh.start_offset),
            text(refresh.every),
            text(drop_after),
            text(reach),
        )
    });
}

fn columnstore(
    field: &str,
    spec: &ColumnstoreSpec,
    rollup: &Rollup,
    problems: &mut Problems,
) -> Option<Columnstore> {
    let after = problems.duration(&format!("{field}: columnstore.after"), &spec.after);
    let reach = rollup.refresh.start_offset + rollup.refresh.every;
    problems.refuse_if(after.is_some_and(|after| after < reach), || {
        format!(
            "{field}: columnstore.after {} must be at least {}, which is startOffset with every, so that no refresh writes \
             into the columnstore",
            spec.after,
            text(reach)
        )
    });
    let ages = after.zip(rollup.drop_after);
    problems.refuse_if(ages.is_some_and(|(after, drop_after)| after >= drop_after), || {
        format!(
            "{field}: columnstore.after {} is not less than its retention.dropAfter, so every chunk would be dropped first; \
             lower after, raise dropAfter, or leave columnstore out",
            spec.after
        )
    });
    let is_column = |name: &SqlIdent| {
        rollup.columns().iter().any(|(column, sql)| *column == name && *sql != ColumnType::Jsonb.sql())
    };
    let segment_by = spec.segment_by.iter().map(|name| {
        let column = SqlIdent::parse(name).filter(|name| is_column(name) && *name != rollup.time_column);
        problems.require(column, || {
            format!("{field}: columnstore.segmentBy {name:?} must be a column of the rollup, not {} and not of type jsonb", rollup.time_column)
        })
    });
    let segment_by: Option<Vec<_>> = segment_by.collect::<Vec<_>>().into_iter().collect();
    let segment_by = segment_by?;
    let mut seen: BTreeSet<SqlIdent> = segment_by.iter().cloned().collect();
    problems.refuse_if(seen.len() < segment_by.len(), || {
        format!("{field}: columnstore.segmentBy names a column more than once")
    });
    let order_by = spec.order_by.iter().map(|entry| {
        let column = ordered_column(entry).filter(|(name, _)| is_column(name) && seen.insert(name.clone()));
        problems.require(column, || {
            format!(
                "{field}: columnstore.orderBy entry {entry:?} must be a column of the rollup, alone or followed by ASC or \
                 DESC, not of type jsonb, named once and not in segmentBy"
            )
        })
    });
    let order_by: Option<Vec<_>> = order_by.collect::<Vec<_>>().into_iter().collect();
    let mut order_by = order_by?;
    // TimescaleDB would add it too.
    if order_by.iter().all(|(name, _)| *name != rollup.time_column) {
        order_by.push((rollup.time_column.clone(), SortOrder::Descending));
    }
    Some(Columnstore { after: after?, segment_by, order_by, max_late: None })
}

/// Such as `90d 30m`, for people: a spec takes one number and unit.
fn text(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut parts = Vec::new();
    for (unit_seconds, unit) in [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")] {
        if seconds >= unit_seconds {
            parts.push(format!("{}{unit}", seconds / unit_seconds));
            seconds %= unit_seconds;
        }
    }
    parts.join(" ")
}
