//! What of a spec's rollups is accepted, and what each refusal says.

use serde_json::{Value, json};

use super::*;

/// A table with hourly and daily values, after a change of the whole.
fn spec(change: impl FnOnce(&mut Value)) -> TimescaleSpec {
    let mut spec = json!({
        "secretRef": {"name": "db"},
        "table": {"schema": "plant", "name": "line"},
        "columns": [
            {"name": "time", "type": "timestamptz"},
            {"name": "device", "type": "text", "nullable": false},
            {"name": "c", "type": "double precision"},
            {"name": "n", "type": "bigint"},
            {"name": "tags", "type": "jsonb"},
        ],
        "timeColumn": "time",
        "retention": {"dropAfter": "90d"},
        "rollups": [
            {
                "name": "hourly", "bucket": "1h", "groupBy": ["device"],
                "select": {"avg_c": "avg(c)", "sum_c": "sum(c)", "rows": "count(*)", "tags": "last(tags, time)"},
                "refresh": {"startOffset": "3d", "endOffset": "1h", "every": "30m"},
                "retention": {"dropAfter": "730d"},
                "columnstore": {"after": "30d", "segmentBy": ["device"]},
            },
            {
                "name": "daily", "from": "hourly", "bucket": "1d", "timeColumn": "day",
                "select": {"rows": "sum(rows)", "latest": "last(avg_c, bucket)"},
                "refresh": {"startOffset": "10d", "endOffset": "1d", "every": "1h"},
            },
        ],
    });
    change(&mut spec);
    serde_json::from_value(spec).unwrap()
}

fn parsed(spec: &TimescaleSpec) -> Result<Vec<Rollup>, String> {
    let mut problems = Problems::default();
    match rollups(spec, &mut problems) {
        Some(rollups) if problems.found.is_empty() => Ok(rollups),
        _ => Err(problems.found.into_iter().map(|(_, message)| message).collect::<Vec<_>>().join("\n")),
    }
}

/// What is said of the spec in which the value at `pointer` is replaced.
fn refusal(pointer: &str, value: Value) -> String {
    let change = |spec: &mut Value| {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[name] = value.clone();
    };
    format!("{pointer} {value}\n{}\n", parsed(&spec(change)).unwrap_err())
}

#[test]
fn every_column_has_its_type() {
    let rollups = parsed(&spec(|_| ())).unwrap();
    let columns = rollups.iter().map(|rollup| {
        let columns = rollup.columns().into_iter().map(|(name, sql_type)| format!("{name} {sql_type}"));
        format!("{}: {}", rollup.name, columns.collect::<Vec<_>>().join(", "))
    });
    assert_eq!(
        columns.collect::<Vec<_>>(),
        [
            "hourly: bucket timestamp with time zone, device text, avg_c double precision, rows bigint, sum_c double \
             precision, tags jsonb",
            "daily: day timestamp with time zone, latest double precision, rows numeric",
        ]
    );
}

#[test]
fn a_columnstore_is_ordered_by_the_bucket() {
    let rollups = parsed(&spec(|_| ())).unwrap();
    let columnstore = rollups[0].columnstore.as_ref().unwrap();
    assert_eq!(columnstore.order_by, [(SqlIdent::parse("bucket").unwrap(), SortOrder::Descending)]);
}

#[test]
fn what_is_wrong_is_said_with_what_to_write() {
    let hourly = |field: &str| format!("/rollups/0/{field}");
    let daily = |field: &str| format!("/rollups/1/{field}");
    let refusals = [
        refusal(&hourly("name"), json!("line_dead_letters")),
        refusal(&daily("name"), json!("hourly")),
        refusal(&daily("name"), json!("_iotpipeline_x")),
        refusal(&daily("from"), json!("daily")),
        refusal(&daily("from"), json!("nothing")),
        refusal(&hourly("bucket"), json!("1 hour")),
        refusal(&daily("bucket"), json!("90m")),
        refusal(&hourly("groupBy"), json!(["time"])),
        refusal(&hourly("groupBy"), json!(["nothing", "tags"])),
        refusal(&daily("groupBy"), json!(["c"])),
        refusal(&hourly("timeColumn"), json!("device")),
        refusal(&hourly("select"), json!({})),
        refusal(&hourly("select"), json!({"X": "avg(c)"})),
        refusal(&hourly("select"), json!({"x": "pg_sleep(c)"})),
        refusal(&hourly("select"), json!({"x": "avg(device)"})),
        refusal(&hourly("select"), json!({"x": "max(tags)"})),
        refusal(&hourly("select"), json!({"x": "sum(nothing)"})),
        refusal(&hourly("select"), json!({"x": "last(c, n)"})),
        refusal(&daily("select"), json!({"x": "avg(avg_c)"})),
        refusal(&daily("select"), json!({"x": "count(*)"})),
        refusal(&daily("select"), json!({"x": "count(rows)"})),
        refusal(&hourly("refresh/startOffset"), json!("2h")),
        refusal(&hourly("refresh/every"), json!("71h")),
        refusal(&hourly("refresh/startOffset"), json!("90d")),
        refusal(&daily("refresh/startOffset"), json!("4d")),
        refusal(&hourly("retention/dropAfter"), json!("3d")),
        refusal(&hourly("columnstore"), json!({"after": "3d"})),
        refusal(&hourly("columnstore"), json!({"after": "800d", "segmentBy": ["bucket"]})),
        refusal(&hourly("columnstore"), json!({"after": "30d", "orderBy": ["device DESC", "tags"]})),
    ];
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn a_refresh_may_reach_as_far_back_as_rows_stay() {
    let with =
        |drop_after: &str| parsed(&spec(|spec| spec["retention"] = json!({"dropAfter": drop_after}))).is_ok();
    // startOffset 3d and every 30m.
    assert!(with("4350m"));
    assert!(!with("4349m"));
    assert!(parsed(&spec(|spec| spec["retention"] = Value::Null)).is_ok());
}
