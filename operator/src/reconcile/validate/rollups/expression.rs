//! Reads `avg(temperature_c)`: the name of an aggregate that is known, and columns as its arguments. Nothing else is an
//! expression, so nothing else can reach SQL, which is printed from what is read here. Pure.

use crate::pipeline::{Aggregate, Function, Pick, SqlIdent};

/// The aggregate, if the text is one.
pub(super) fn parse(text: &str) -> Option<Aggregate> {
    let (function, arguments) = text.trim().strip_suffix(')')?.split_once('(')?;
    let function = function.trim();
    let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
    match (function, &arguments[..]) {
        ("count", ["*"]) => Some(Aggregate::CountRows),
        ("first", [value, by]) => picked(Pick::First, value, by),
        ("last", [value, by]) => picked(Pick::Last, value, by),
        (name, [column]) => {
            let (_, function) = Function::ALL.iter().find(|(known, _)| *known == name)?;
            Some(Aggregate::Of(*function, SqlIdent::parse(column)?))
        }
        _ => None,
    }
}

/// What may be written, for a person.
pub(super) fn known() -> String {
    let names: Vec<&str> = Function::ALL.iter().map(|(name, _)| *name).collect();
    format!("{}, each of one column, count(*), first(column, time) or last(column, time)", names.join(", "))
}

fn picked(pick: Pick, value: &str, by: &str) -> Option<Aggregate> {
    Some(Aggregate::Picked(pick, SqlIdent::parse(value)?, SqlIdent::parse(by)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_of_known_aggregates_over_columns_are_read() {
        for text in ["avg(c)", "count(*)", "count(c)", "last(c, time)", "var_pop(_x1)"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse(" first ( c ,time ) ").unwrap().to_string(), "first(c, time)");
    }

    #[test]
    fn nothing_else_is() {
        for text in [
            "",
            "c",
            "avg",
            "avg()",
            "avg(*)",
            "avg(c",
            "avg(c))",
            "avg(c, d)",
            "avg(avg(c))",
            "avg(c + 1)",
            "avg(\"c\")",
            "avg(C)",
            "AVG(c)",
            "pg_sleep(c)",
            "pg_read_file('x')",
            "sum(c) FILTER (WHERE d)",
            "count(DISTINCT c)",
            "first(c)",
            "last(c, d, e)",
            "avg(c); DROP TABLE t",
            "avg(c) -- )",
            "string_agg(c, d)",
            "public.avg(c)",
            "avg(t.c)",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        /// Whatever is read is one call of a known name over identifiers, and reads the same again.
        #[test]
        fn whatever_is_read_is_of_the_allowed_form(
            text in prop_oneof![
                "[a-z_]{0,9} ?\\([ -~]{0,20}\\)?",
                "(avg|sum|count|first|last|pg_sleep)\\([a-z_*\"';(), -]{0,16}\\) ?[;)a-z]{0,3}",
                "(avg|sum|count|min|first|last)\\( ?[a-z_]{1,9}(, ?[a-z_]{1,9})?\\)",
            ]
        ) {
            if let Some(aggregate) = parse(&text) {
                let printed = aggregate.to_string();
                prop_assert_eq!(parse(&printed), Some(aggregate));
                let (function, arguments) = printed.strip_suffix(')').unwrap().split_once('(').unwrap();
                prop_assert!(function.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
                let mut arguments = arguments.split(", ");
                prop_assert!(arguments.all(|argument| argument == "*" || SqlIdent::parse(argument).is_some()));
            }
        }
    }
}
