//! What a rollup computes, as SQL: printed from what was read of the spec, with every name quoted. Pure.

use std::time::Duration;

use crate::{
    pipeline::{Aggregate, Rollup, Table},
    timescale::{
        InstalledExtension,
        sql::{identifier, interval, parse_interval, qualified},
    },
};

/// What a rollup computes, to compare and for people. The schemas of table and extension are left out: they do not change
/// what is computed.
pub(super) fn text(table: &Table, rollup: &Rollup) -> String {
    query(rollup, &identifier(source(table, rollup)), "")
}

/// The bucket of what `text` has printed.
pub(super) fn bucket_of(definition: &str) -> Option<Duration> {
    parse_interval(definition.strip_prefix("SELECT time_bucket(")?.split_once(',')?.0)
}

/// Makes the view. A continuous aggregate is made empty: what is in the table already comes into it afterwards, step by
/// step.
pub(super) fn create(
    table: &Table,
    rollup: &Rollup,
    extension: &InstalledExtension,
    is_aggregate: bool,
) -> String {
    let schema = table.schema.as_str();
    let name = qualified(schema, rollup.name.as_str());
    let functions = format!("{}.", identifier(&extension.schema));
    let query = query(rollup, &qualified(schema, source(table, rollup)), &functions);
    if !is_aggregate {
        return format!("CREATE VIEW {name} AS {query};\n");
    }
    format!(
        "CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous, timescaledb.materialized_only = {}) AS {query} WITH \
         NO DATA;\n",
        rollup.materialized_only
    )
}

/// Lets a role read it, or all of them.
pub(super) fn grant(table: &Table, rollup: &Rollup, reader: Option<&str>) -> String {
    let reader = reader.map_or_else(|| "PUBLIC".to_owned(), identifier);
    format!("GRANT SELECT ON {} TO {reader};\n", qualified(table.schema.as_str(), rollup.name.as_str()))
}

fn source<'a>(table: &'a Table, rollup: &'a Rollup) -> &'a str {
    rollup.from.as_ref().unwrap_or(&table.name).as_str()
}

/// `functions` is the prefix of TimescaleDB's own.
fn query(rollup: &Rollup, source: &str, functions: &str) -> String {
    let time = identifier(rollup.source_time.as_str());
    let bucket = format!(
        "{functions}time_bucket({}, {time}) AS {}",
        interval(rollup.bucket),
        identifier(rollup.time_column.as_str())
    );
    let groups = rollup.group_by.iter().map(|(name, _)| identifier(name.as_str()));
    let values = rollup.select.iter().map(|(name, aggregate, _)| {
        format!("{} AS {}", call(aggregate, functions), identifier(name.as_str()))
    });
    let columns: Vec<_> = std::iter::once(bucket).chain(groups).chain(values).collect();
    let positions: Vec<_> = (1..=1 + rollup.group_by.len()).map(|position| position.to_string()).collect();
    format!("SELECT {} FROM {source} GROUP BY {}", columns.join(", "), positions.join(", "))
}

fn call(aggregate: &Aggregate, functions: &str) -> String {
    match aggregate {
        Aggregate::CountRows => "count(*)".to_owned(),
        Aggregate::Of(function, column) => format!("{}({})", function.sql(), identifier(column.as_str())),
        Aggregate::Picked(pick, value, by) => {
            format!("{functions}{}({}, {})", pick.sql(), identifier(value.as_str()), identifier(by.as_str()))
        }
    }
}
