//! The one place where names and values become SQL. Pure.

use std::time::Duration;

use crate::pipeline::SortOrder;

/// The units of lengths of time, each in seconds.
const UNITS: [(u64, &str); 4] = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];

/// A name as SQL takes it, whatever is in it.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names, one after the other.
pub(super) fn identifiers(names: &[String]) -> String {
    names.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ")
}

/// An order of rows: names, each with its direction.
pub(super) fn ordering(columns: &[(String, SortOrder)]) -> String {
    let list = columns.iter().map(|(name, order)| match order {
        SortOrder::Ascending => identifier(name),
        SortOrder::Descending => format!("{} DESC", identifier(name)),
    });
    list.collect::<Vec<_>>().join(", ")
}

/// A name in a schema.
pub(super) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// A text as SQL takes it, whatever is in it.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A table as an argument of TimescaleDB's functions.
pub(super) fn regclass(schema: &str, name: &str) -> String {
    format!("{}::regclass", literal(&qualified(schema, name)))
}

/// A length of time as an argument of TimescaleDB's functions.
pub(super) fn interval(duration: Duration) -> String {
    format!("INTERVAL {}", literal(&duration_text(duration)))
}

/// What `interval` has printed.
pub(super) fn parse_interval(sql: &str) -> Option<Duration> {
    let (number, unit) = sql.strip_prefix("INTERVAL '")?.strip_suffix('\'')?.split_once(' ')?;
    let (unit_seconds, _) = UNITS.into_iter().find(|(_, name)| unit.trim_end_matches('s') == *name)?;
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(unit_seconds)?))
}

/// A length of time in the largest unit that divides it, such as `90 days`; for SQL and for people.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let is_whole = |(unit_seconds, _): &(u64, &str)| seconds.is_multiple_of(*unit_seconds);
    let (unit_seconds, unit) = UNITS.into_iter().find(is_whole).unwrap_or((1, "second"));
    let number = seconds / unit_seconds;
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_or_value_holds_it_stays_one() {
        assert_eq!(identifier("a\"; DROP TABLE b; --"), "\"a\"\"; DROP TABLE b; --\"");
        assert_eq!(literal("a'; DROP TABLE b; --"), "'a''; DROP TABLE b; --'");
        assert_eq!(literal("a\\'; DROP"), "E'a\\\\''; DROP'");
        assert_eq!(regclass("s'", "t\""), "'\"s''\".\"t\"\"\"'::regclass");
    }

    #[test]
    fn durations_are_told_in_the_largest_unit() {
        let text = |seconds| duration_text(Duration::from_secs(seconds));
        assert_eq!(
            [text(7_776_000), text(86_400), text(7_200), text(90 * 60), text(61)],
            ["90 days", "1 day", "2 hours", "90 minutes", "61 seconds"]
        );
        assert_eq!(interval(Duration::from_secs(3600)), "INTERVAL '1 hour'");
        for seconds in [0, 1, 61, 3600, 7200, 86_400, 7_776_000] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse_interval(&interval(duration)), Some(duration));
        }
        assert_eq!(parse_interval("INTERVAL '1 month'"), None);
    }
}
