//! A spec with everything in it, edited in every field, one at a time: what changes in the database is what that field
//! says, and nothing else.

use std::{collections::BTreeSet, fmt::Write as _};

use operator::pipeline::Table;
use serde_json::{Value, json};

use super::{
    catalogue::catalogue,
    spec::{EditableSpec, insert_into},
    support::{Test, contradiction},
};

/// Every field of `timescale` that may change, each with another value than before: a JSON pointer, and what is set there.
/// Those that say no more than how the database is reached, or what is written, change nothing. What would delete
/// something is approved.
fn edits() -> Vec<(&'static str, Value)> {
    vec![
        ("/secretRef/name", json!("other")),
        ("/adminSecretRef", json!({"name": "tsdb"})),
        ("/tls", json!({"mode": "Require"})),
        ("/columns/0/from", json!(".time")),
        ("/columns/3/nullable", json!(true)),
        // Refused, because rows may lack a value; and set back.
        ("/columns/3/nullable", json!(false)),
        ("/columns/3/nullable", json!(true)),
        ("/columns/12", json!({"name": "added", "type": "bigint"})),
        ("/columns/13", json!({"name": "added_text", "type": "text", "from": ".text"})),
        ("/columns/13", json!(null)),
        ("/extraColumn", json!("more")),
        ("/extraColumn", json!(null)),
        ("/chunkInterval", json!("2d")),
        ("/chunkInterval", json!(null)),
        ("/indexes/2", json!({"columns": ["a_text", "added DESC"]})),
        ("/indexes/1/columns", json!(["a_bigint DESC"])),
        ("/indexes", json!(null)),
        ("/uniqueBy", json!(["time", "device"])),
        ("/uniqueBy", json!(null)),
        ("/uniqueBy", json!(["device", "time"])),
        ("/retention/dropAfter", json!("120d")),
        ("/retention/dropAfter", json!("60d")),
        ("/retention", json!(null)),
        ("/deadLetters/retention/dropAfter", json!("14d")),
        ("/deadLetters", json!(null)),
        ("/columnstore/after", json!("8d")),
        ("/columnstore/segmentBy", json!(["device", "a_integer"])),
        ("/columnstore/orderBy", json!(["a_bigint", "time"])),
        ("/columnstore/orderBy", json!(null)),
        ("/columnstore/segmentBy", json!(null)),
        ("/columnstore", json!(null)),
        ("/rollups/0/materializedOnly", json!(false)),
        ("/rollups/0/refresh/startOffset", json!("2d")),
        ("/rollups/0/refresh/endOffset", json!("2h")),
        ("/rollups/0/refresh/every", json!("1h")),
        ("/rollups/0/retention/dropAfter", json!("500d")),
        ("/rollups/0/retention/dropAfter", json!("30d")),
        ("/rollups/0/retention", json!(null)),
        ("/rollups/0/columnstore/after", json!("14d")),
        ("/rollups/0/columnstore/segmentBy", json!(null)),
        ("/rollups/0/columnstore/orderBy", json!(["device", "hour"])),
        ("/rollups/0/columnstore", json!(null)),
        ("/rollups/1/materializedOnly", json!(true)),
        ("/rollups/1/refresh/startOffset", json!("6d")),
        ("/rollups/1/refresh/endOffset", json!("1d")),
        ("/rollups/1/refresh/every", json!("2h")),
        ("/rollups/1/retention/dropAfter", json!("700d")),
        ("/rollups/1/columnstore/after", json!("20d")),
        ("/rollups/1/columnstore/orderBy", json!(["total", "day"])),
        ("/rollups/1/columnstore", json!(null)),
        // What is computed: with it, what is made from it is made anew.
        ("/rollups/1/bucket", json!("2d")),
        ("/rollups/1/timeColumn", json!("days")),
        ("/rollups/1/groupBy", json!(null)),
        ("/rollups/1/select/least", json!("min(mean)")),
        ("/rollups/0/bucket", json!("2h")),
        ("/rollups/0/timeColumn", json!(null)),
        ("/rollups/0/groupBy", json!(["device", "a_text"])),
        ("/rollups/0/select/newest", json!("first(a_bigint, time)")),
        // From the table rather than the other rollup.
        (
            "/rollups/1",
            json!({
                "name": "day",
                "bucket": "1d",
                "select": {"rows": "count(*)"},
                "refresh": {"startOffset": "6d", "endOffset": "1d", "every": "2h"},
            }),
        ),
        ("/rollups/1/name", json!("daily")),
        ("/rollups", json!(null)),
    ]
}

pub async fn every_field_changes_what_it_says(test: &Test) {
    let mut spec = EditableSpec::full(test.schema.as_str());
    let table = spec.table("edited").unwrap();
    // Up to the present, so that policies of rollups come, and old enough that something would be deleted.
    assert_eq!(test.bring_about_generation(&table, 1, true, "full").await, []);
    test.sql(&insert_into(&table, "now() - row * interval '5 hours'", 200)).await;
    assert_eq!(test.bring_about_generation(&table, 1, true, "filled").await, []);

    let mut before = known(test, &table, 1, "filled").await;
    let mut told = format!("a spec with everything in it:\n{}", lines("+", before.iter()));
    for (number, (pointer, value)) in edits().into_iter().enumerate() {
        let generation = 2 + i64::try_from(number).unwrap();
        let context = format!("{pointer}: {value}");
        spec.set(pointer, value);
        let table = spec.table("edited").unwrap_or_else(|error| panic!("{context}: {error}"));
        test.bring_about_generation(&table, generation, true, &context).await;
        let after = known(test, &table, generation, &context).await;
        writeln!(told, "\n{context}").unwrap();
        told.push_str(&lines("-", before.difference(&after)));
        told.push_str(&lines("+", after.difference(&before)));
        before = after;
    }
    let edition = test.edition.to_string().to_lowercase();
    insta::assert_snapshot!(format!("every_field_on_{edition}"), told);
}

/// What the database knows, and what the operator says of it. Nothing is left to do.
async fn known(test: &Test, table: &Table, generation: i64, context: &str) -> BTreeSet<String> {
    let rest = test.plan_generation(table, generation, false).await;
    assert_eq!((rest.steps, rest.held, rest.fills), (vec![], vec![], vec![]), "{context}");
    let refusals = rest.refusals.iter().map(|refusal| refusal.reason);
    let notes = rest.notes.iter().map(|note| note.reason);
    let said = refusals.chain(notes).chain(rest.builds.iter().filter_map(contradiction));
    let mut known = catalogue(test, "edited").await;
    known.extend(said.map(|reason| format!("said {reason}")));
    known
}

fn lines<'a>(sign: &str, lines: impl Iterator<Item = &'a String>) -> String {
    lines.map(|line| format!("  {sign} {line}\n")).collect()
}
