//! What a rollup is made from, and what can be computed of it. Pure.

use std::time::Duration;

use crds::pipeline::{ColumnType, RollupSpec, TimescaleSpec};

use crate::{
    pipeline::{Aggregate, Function, Rollup, SqlIdent, ValueType},
    reconcile::validate::problems::Problems,
};

/// What a rollup is made from: the table, or an earlier rollup.
pub(super) struct Source<'a> {
    /// For messages, such as `timescale.columns`.
    pub columns_of: String,
    /// The column of time.
    pub time_column: &'a str,
    /// All columns, each with its type and how it was computed, if it was.
    pub columns: Vec<(&'a str, ValueType, Option<&'a Aggregate>)>,
    /// How long its rows stay, with the field that says so; `None` for ever, or where that is no duration.
    pub drop_after: Option<(String, Duration)>,
    /// The rollup.
    pub rollup: Option<&'a Rollup>,
}

/// What the spec says that it is made from.
pub(super) fn source<'a>(
    spec: &'a TimescaleSpec,
    earlier: &'a [Rollup],
    rollup: &RollupSpec,
    problems: &mut Problems,
) -> Option<Source<'a>> {
    let Some(from) = &rollup.from else {
        let columns = spec.columns.iter();
        let drop_after = spec.retention.as_ref().and_then(|retention| retention.drop_after.parse());
        return Some(Source {
            columns_of: "timescale.columns".to_owned(),
            time_column: &spec.time_column,
            columns: columns
                .map(|column| (column.name.as_str(), ValueType::Column(column.column_type), None))
                .collect(),
            drop_after: drop_after.map(|time| ("timescale.retention.dropAfter".to_owned(), time)),
            rollup: None,
        });
    };
    let found = earlier.iter().find(|earlier| earlier.name.as_str() == from);
    // Where it is listed before and refused, that is said already.
    let is_listed_before =
        spec.rollups.iter().take_while(|other| other.name != rollup.name).any(|other| other.name == *from);
    problems.refuse_if(!is_listed_before, || {
        format!(
            "timescale.rollups {}: from {from:?} is no rollup that stands before it in the list; list that one first, or \
             leave from out to make it from the table",
            rollup.name
        )
    });
    let found = found?;
    let time = (found.time_column.as_str(), ValueType::Column(ColumnType::Timestamptz), None);
    let groups = found.group_by.iter().map(|(name, value_type)| (name.as_str(), *value_type, None));
    let values = found.select.iter().map(|(name, how, value_type)| (name.as_str(), *value_type, Some(how)));
    Some(Source {
        columns_of: format!("the columns of rollup {from}"),
        time_column: found.time_column.as_str(),
        columns: std::iter::once(time).chain(groups).chain(values).collect(),
        drop_after: found.drop_after.map(|time| (format!("retention.dropAfter of rollup {from}"), time)),
        rollup: Some(found),
    })
}

impl Source<'_> {
    /// The type of a column; `None` where there is none of that name.
    pub(super) fn value_type(&self, name: &str) -> Option<ValueType> {
        self.columns.iter().find(|(column, _, _)| *column == name).map(|(_, value_type, _)| *value_type)
    }

    /// The type of an aggregate over these columns, or why it cannot be.
    pub(super) fn type_of(&self, aggregate: &Aggregate) -> Result<ValueType, String> {
        let missing = |name: &SqlIdent| format!("{name} must be one of {}", self.columns_of);
        let typed = |name: &SqlIdent| self.value_type(name.as_str()).ok_or_else(|| missing(name));
        match aggregate {
            Aggregate::CountRows => match self.counting_column() {
                Some(counts) => Err(self.counts_buckets(counts)),
                None => Ok(ValueType::Column(ColumnType::Bigint)),
            },
            Aggregate::Of(function, column) => {
                let value_type = typed(column)?;
                self.refuse_mean_of_means(*function, column)?;
                function.value_type(value_type).ok_or_else(|| {
                    format!(
                        "{column} is of type {value_type}, of which there is no {}; name another column, or count it, or take \
                         its first or last value",
                        function.sql()
                    )
                })
            }
            Aggregate::Picked(_, value, by) => {
                let value_type = typed(value)?;
                if typed(by)? == ValueType::Column(ColumnType::Timestamptz) {
                    return Ok(value_type);
                }
                Err(format!(
                    "{by}, by which the row is picked, must be of type timestamptz, such as {}",
                    self.time_column
                ))
            }
        }
    }

    /// A bucket with one row would weigh as much as one with a thousand.
    fn refuse_mean_of_means(&self, function: Function, column: &SqlIdent) -> Result<(), String> {
        let computed = self.columns.iter().find(|(name, _, _)| *name == column.as_str());
        match (function, computed.and_then(|(_, _, how)| *how)) {
            (Function::Avg, Some(Aggregate::Of(Function::Avg, of))) => Err(format!(
                "a mean of means is not the mean of all rows, because buckets have different numbers of them; select \
                 sum({of}) and count({of}) there, their sums here, and divide them when you read"
            )),
            (Function::Count, Some(Aggregate::CountRows | Aggregate::Of(Function::Count, _))) => {
                Err(self.counts_buckets(column.as_str()))
            }
            _ => Ok(()),
        }
    }

    fn counts_buckets(&self, column: &str) -> String {
        format!("this would count rows of the other rollup, and not what they count; write sum({column})")
    }

    fn counting_column(&self) -> Option<&str> {
        let counts = |how: &Option<&Aggregate>| matches!(how, Some(Aggregate::CountRows));
        self.columns.iter().find(|(_, _, how)| counts(how)).map(|(name, _, _)| *name)
    }
}
