//! A rollup as it shall be: what a spec says of it, in types that cannot hold anything else. No I/O.

use std::{fmt, time::Duration};

use crds::pipeline::ColumnType;

use super::{Columnstore, SqlIdent};

/// Aggregates of a table, or of another rollup, by time.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollup {
    /// The view, in the table's schema.
    pub name: SqlIdent,
    /// The rollup that it is made from, which stands before it; `None` for the table itself.
    pub from: Option<SqlIdent>,
    /// The column of what it is made from that holds the time.
    pub source_time: SqlIdent,
    /// The span of time of a row.
    pub bucket: Duration,
    /// The column with the beginning of the bucket.
    pub time_column: SqlIdent,
    /// A row for each of the values of these columns, each with its type.
    pub group_by: Vec<(SqlIdent, ValueType)>,
    /// What is computed: the column, how, and of which type it is.
    pub select: Vec<(SqlIdent, Aggregate, ValueType)>,
    /// Whether rows that were not refreshed yet do not show.
    pub materialized_only: bool,
    /// When its rows are computed.
    pub refresh: Refresh,
    /// How long its rows stay; `None` for ever.
    pub drop_after: Option<Duration>,
    /// How its rows go into the columnstore; `None` where they do not.
    pub columnstore: Option<Columnstore>,
}

/// When the rows of a rollup are computed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refresh {
    /// How far back.
    pub start_offset: Duration,
    /// Up to when.
    pub end_offset: Duration,
    /// How often.
    pub every: Duration,
}

/// The type of a column of a rollup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ValueType {
    /// One that columns of tables may have.
    Column(ColumnType),
    /// A number of any size, which sums and means of whole numbers have.
    Numeric,
}

/// What is computed of the rows of a bucket and group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Aggregate {
    /// `count(*)`.
    CountRows,
    /// A function of one column.
    Of(Function, SqlIdent),
    /// `first` or `last`: the value of one column in the row in which another is least or greatest.
    Picked(Pick, SqlIdent, SqlIdent),
}

/// PostgreSQL's aggregates that a rollup may call with one column.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Function {
    /// The mean.
    Avg,
    /// Whether all are true.
    BoolAnd,
    /// Whether any is true.
    BoolOr,
    /// How many are not NULL.
    Count,
    /// The greatest.
    Max,
    /// The least.
    Min,
    /// The deviation of a sample, by two names.
    Stddev,
    /// The deviation of all there is.
    StddevPop,
    /// The deviation of a sample.
    StddevSamp,
    /// The sum.
    Sum,
    /// The variance of all there is.
    VarPop,
    /// The variance of a sample.
    VarSamp,
    /// The variance of a sample, by another name.
    Variance,
}

/// TimescaleDB's aggregates that pick a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pick {
    /// That of the least.
    First,
    /// That of the greatest.
    Last,
}

impl Function {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Self); 13] = [
        ("avg", Self::Avg),
        ("bool_and", Self::BoolAnd),
        ("bool_or", Self::BoolOr),
        ("count", Self::Count),
        ("max", Self::Max),
        ("min", Self::Min),
        ("stddev", Self::Stddev),
        ("stddev_pop", Self::StddevPop),
        ("stddev_samp", Self::StddevSamp),
        ("sum", Self::Sum),
        ("var_pop", Self::VarPop),
        ("var_samp", Self::VarSamp),
        ("variance", Self::Variance),
    ];

    /// The name that SQL has for it.
    pub fn sql(self) -> &'static str {
        Self::ALL.iter().find(|(_, function)| *function == self).map_or("", |(name, _)| name)
    }

    /// The type of its value over a column of this type; `None` where it takes none such.
    pub fn value_type(self, argument: ValueType) -> Option<ValueType> {
        use ColumnType::{Bigint, Boolean, DoublePrecision, Integer, Jsonb, Real, Smallint, Uuid};
        use ValueType::{Column, Numeric};
        match self {
            Self::Count => Some(Column(Bigint)),
            Self::BoolAnd | Self::BoolOr => (argument == Column(Boolean)).then_some(argument),
            Self::Min | Self::Max => {
                (!matches!(argument, Column(Boolean | Jsonb | Uuid))).then_some(argument)
            }
            Self::Sum => match argument {
                Column(Smallint | Integer) => Some(Column(Bigint)),
                Column(Bigint) | Numeric => Some(Numeric),
                Column(Real | DoublePrecision) => Some(argument),
                Column(_) => None,
            },
            _ => match argument {
                Column(Smallint | Integer | Bigint) | Numeric => Some(Numeric),
                Column(Real | DoublePrecision) => Some(Column(DoublePrecision)),
                Column(_) => None,
            },
        }
    }
}

impl Pick {
    /// The name that SQL has for it.
    pub fn sql(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

impl Aggregate {
    /// The columns that it reads.
    pub fn columns(&self) -> impl Iterator<Item = &SqlIdent> {
        let (one, other) = match self {
            Self::CountRows => (None, None),
            Self::Of(_, column) => (Some(column), None),
            Self::Picked(_, value, by) => (Some(value), Some(by)),
        };
        one.into_iter().chain(other)
    }
}

impl Rollup {
    /// Its columns in order, each with its type as `format_type` spells it.
    pub fn columns(&self) -> Vec<(&SqlIdent, &'static str)> {
        let bucket = (&self.time_column, ColumnType::Timestamptz.sql());
        let groups = self.group_by.iter().map(|(name, value_type)| (name, value_type.sql()));
        let values = self.select.iter().map(|(name, _, value_type)| (name, value_type.sql()));
        std::iter::once(bucket).chain(groups).chain(values).collect()
    }

    /// The columns that it reads of what it is made from.
    pub fn source_columns(&self) -> impl Iterator<Item = &SqlIdent> {
        let groups = self.group_by.iter().map(|(name, _)| name);
        let values = self.select.iter().flat_map(|(_, aggregate, _)| aggregate.columns());
        std::iter::once(&self.source_time).chain(groups).chain(values)
    }
}

impl ValueType {
    /// The type as `format_type` spells it.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Column(column_type) => column_type.sql(),
            Self::Numeric => "numeric",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.sql())
    }
}

/// As a spec has it.
impl fmt::Display for Aggregate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CountRows => formatter.write_str("count(*)"),
            Self::Of(function, column) => write!(formatter, "{}({column})", function.sql()),
            Self::Picked(pick, value, by) => write!(formatter, "{}({value}, {by})", pick.sql()),
        }
    }
}
