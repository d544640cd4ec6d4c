//! Bad input: each record becomes a row or a dead letter, the lag returns to zero, and memory stays bounded. The table
//! of docs/dead-letters.md says the same.

use std::{thread, time::Duration};

use crds::{pipeline::ColumnType, worker::ColumnConfig};

use crate::harness::{Scenario, wait_until};

/// The processor's limit of memory is 256 MiB by default; a bound below it shows that no record of this list brings
/// it near to being killed, over and over again, by what it reads anew each time.
const MOST_MEMORY: u64 = 200 * 1024 * 1024;

/// What is sent, and what becomes of it: `row`, `dropped`, or reason and stage.
struct Case {
    what: &'static str,
    payload: Option<Vec<u8>>,
    becomes: &'static str,
}

fn case(what: &'static str, payload: impl Into<Vec<u8>>, becomes: &'static str) -> Case {
    Case { what, payload: Some(payload.into()), becomes }
}

/// An event whose other members are these.
fn event(members: &str) -> String {
    format!(r#"{{"time":1795428000,"device":"d",{members}}}"#)
}

fn at(time: &str) -> String {
    format!(r#"{{"time":{time},"device":"d"}}"#)
}

fn cases() -> Vec<Case> {
    let mebibytes = |count: usize| count * 1024 * 1024;
    let filled = |value: &str, bytes: usize| value.repeat(bytes / value.len());
    let list = |value: &str, bytes: usize| format!("[{}{value}]", filled(&format!("{value},"), bytes));
    let rows = |count: usize| format!("[{}]", vec![at("1795428000"); count].join(","));
    let many_keys: String = (0..100_000).map(|n| format!(r#""k{n}":{n},"#)).collect();
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    vec![
        case("a good one", event(r#""n":1"#), "row"),
        Case { what: "no value (a tombstone)", payload: None, becomes: "Empty|Decode" },
        case("no bytes", "", "Empty|Decode"),
        case("white space", " \t\r\n ", "InvalidJson|Decode"),
        case("malformed JSON", "{\"time\":", "InvalidJson|Decode"),
        case("more after the value", "{} {}", "InvalidJson|Decode"),
        case("a byte order mark", "\u{feff}{}", "InvalidJson|Decode"),
        case("invalid UTF-8", b"{\"device\":\"\xc3\x28\"}".to_vec(), "InvalidUtf8|Decode"),
        case("a lone surrogate", event(r#""s":"\ud800""#), "InvalidJson|Decode"),
        case("NaN", event(r#""value":NaN"#), "InvalidJson|Decode"),
        case("Infinity", event(r#""value":Infinity"#), "InvalidJson|Decode"),
        case("1e400", event(r#""value":1e400"#), "InvalidJson|Decode"),
        case("-0", event(r#""value":-0"#), "row"),
        case("-0.0", event(r#""value":-0.0"#), "row"),
        case("null", "null", "dropped"),
        case("an empty array", "[]", "dropped"),
        case("a number", "42", "NotAnObject|Program"),
        case("text", "\"text\"", "NotAnObject|Program"),
        case("an array in an array", "[[]]", "NotAnObject|Program"),
        case("an empty object", "{}", "MissingField|Encode"),
        case("a missing field", r#"{"time":1795428000}"#, "MissingField|Encode"),
        case("null where a value must be", r#"{"time":null,"device":"d"}"#, "MissingField|Encode"),
        case("duplicate members, the last counts", event(r#""n":"x","n":2"#), "row"),
        case("text for a number", event(r#""value":"21.5""#), "WrongType|Encode"),
        case("an object for text", r#"{"time":1795428000,"device":{}}"#, "WrongType|Encode"),
        case("a fraction for an integer", event(r#""n":1.5"#), "WrongType|Encode"),
        case("one more than smallint", event(r#""small":32768"#), "OutOfRange|Encode"),
        case("one less than smallint", event(r#""small":-32769"#), "OutOfRange|Encode"),
        case("one more than integer", event(r#""whole":2147483648"#), "OutOfRange|Encode"),
        case("one more than bigint", event(r#""n":9223372036854775808"#), "OutOfRange|Encode"),
        case("more than real", event(r#""single":1e39"#), "OutOfRange|Encode"),
        case("the largest double", event(r#""value":1.7976931348623157e308"#), "row"),
        case("U+0000 in text", r#"{"time":1795428000,"device":"a\u0000b"}"#, "NulCharacter|Encode"),
        case("U+0000 in jsonb", event(r#""x":["\u0000"]"#), "NulCharacter|Encode"),
        case("U+0000 in a name", event(r#""\u0000":1"#), "NulCharacter|Encode"),
        case("1970", at("0"), "row"),
        case("before 1970", at("-1"), "row"),
        case("9999", at("\"9999-12-31T23:59:59.999999Z\""), "row"),
        case("the year 1", at("\"0001-01-01T00:00:00Z\""), "row"),
        case("the year 10000", at("\"+010000-01-01T00:00:00Z\""), "WrongType|Encode"),
        case("the year 0", at("\"0000-12-31T23:59:59Z\""), "OutOfRange|Encode"),
        case("a number far beyond all times", at("1e300"), "OutOfRange|Encode"),
        case("a time without an offset", at("\"2026-11-23T10:00:00\""), "WrongType|Encode"),
        case("no time", at("\"yesterday\""), "WrongType|Encode"),
        case("10,000 levels", deep(10_000), "TooDeep|Decode"),
        case("10,000 levels that never end", "[".repeat(10_000), "TooDeep|Decode"),
        case("128 levels", event(&format!("\"x\":{}", deep(126))), "row"),
        case("1,000 rows", rows(1_000), "rows"),
        case("1,001 rows", rows(1_001), "TooManyRows|Program"),
        case("100,000 members", event(&format!("{many_keys}\"n\":3")), "row"),
        case("5 MiB of text", event(&format!("\"s\":\"{}\"", "x".repeat(mebibytes(5)))), "row"),
        case(
            "text too long for an index",
            format!(r#"{{"time":1795428000,"device":"{}"}}"#, incompressible(mebibytes(1))),
            "TooLarge|Store",
        ),
        case("5 MiB of no JSON", "x".repeat(mebibytes(5)), "InvalidJson|Decode"),
        case("5 MiB of numbers", list("0", mebibytes(5)), "TooLarge|Decode"),
        case("5 MiB of objects", list(r#"{"a":0}"#, mebibytes(5)), "TooLarge|Decode"),
        case("5 MiB of arrays", list("[]", mebibytes(5)), "TooLarge|Decode"),
    ]
}

/// Text that PostgreSQL cannot make small.
fn incompressible(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + u8::try_from(state % 26).unwrap())
    };
    (0..bytes).map(|_| next()).collect()
}

fn scenario() -> Scenario {
    let mut scenario = Scenario::without_topic("bad_input");
    scenario.topic_config = vec![("max.message.bytes", "8000000")];
    scenario.create_topic(1);
    scenario.execute(
        "ALTER TABLE {schema}.telemetry ADD small smallint, ADD whole integer, ADD single real; \
         CREATE INDEX ON {schema}.telemetry (device, time DESC)",
    );
    for (name, column_type) in
        [("small", ColumnType::Smallint), ("whole", ColumnType::Integer), ("single", ColumnType::Real)]
    {
        let from = vec![name.to_owned()];
        let column = ColumnConfig { name: name.to_owned(), column_type, from, nullable: true };
        scenario.config.table.columns.push(column);
    }
    scenario
}

#[test]
fn every_bad_record_becomes_a_row_or_a_dead_letter() {
    let scenario = scenario();
    let processor = scenario.start_ready();
    let cases = cases();
    let records = scenario.producer();
    for case in &cases {
        records.send_record(0, "k\0y", case.payload.as_deref(), &[]);
    }
    // Headers and keys are bad input too.
    let names: Vec<String> = (0..1_000).map(|n| format!("header-{n}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "a\0value")).collect();
    records.send_record(0, "", Some(b"{"), &headers);
    records.send(0, at("1795428001").as_bytes(), &headers);
    records.flush();

    let count = i64::try_from(cases.len()).unwrap() + 2;
    wait_until(|| {
        scenario.number("SELECT coalesce(max(next_offset), 0) FROM {schema}._iotpipeline_positions") == count
    })
    .unwrap_or_else(|()| panic!("{:?}", processor.status()));
    wait_until(|| processor.metric("lag{partition=\"0\"}") == 0.0).unwrap();

    let letters = scenario.dead_letters(0);
    let mut expected = Vec::new();
    for (offset, case) in cases.iter().enumerate() {
        let found = letters.iter().find_map(|letter| letter.strip_prefix(&format!("{offset}|")));
        let should = (!matches!(case.becomes, "row" | "rows" | "dropped")).then_some(case.becomes);
        assert_eq!(found, should, "{}", case.what);
        expected.extend(should);
    }
    assert_eq!(letters.len(), expected.len() + 1);
    let rows = cases.iter().map(|case| match case.becomes {
        "row" => 1,
        "rows" => 1_000,
        _ => 0,
    });
    assert_eq!(scenario.number("SELECT count(*) FROM {schema}.telemetry"), rows.sum::<i64>() + 1);
    assert_eq!(scenario.query("SELECT value FROM {schema}.telemetry WHERE value = 0"), ["0", "0"]);
    assert_eq!(scenario.query("SELECT n FROM {schema}.telemetry WHERE n = 2"), ["2"]);
    let headers = scenario.query(
        "SELECT count(*), min(value) FROM {schema}.telemetry_dead_letters, jsonb_each_text(headers) \
         WHERE \"offset\" >= 50",
    );
    assert_eq!(headers, ["1000|a\u{fffd}value"]);
    let keys =
        scenario.query("SELECT DISTINCT encode(key, 'hex') FROM {schema}.telemetry_dead_letters ORDER BY 1");
    assert_eq!(keys, ["", "6b0079"]);

    let peak = processor.peak_memory();
    assert!(peak < MOST_MEMORY, "{} MiB", peak / 1024 / 1024);
}

#[test]
fn a_stub_becomes_a_dead_letter_that_tells_of_the_whole_message() {
    let scenario = scenario();
    let _processor = scenario.start();
    let records = scenario.producer();
    let hash = "5e".repeat(32);
    let mut headers = vec![
        ("mqtt.topic", "plant/7"),
        ("mqtt.qos", "1"),
        ("ingested_at", "2026-11-23T10:00:00.000001Z"),
        ("iotpipeline.stub", "RecordTooLarge"),
        ("iotpipeline.payload_bytes", "7000000"),
        ("iotpipeline.payload_sha256", &hash),
    ];
    // The beginning of a message, and one that would pass for a whole one.
    let beginning = event(&format!("\"s\":\"{}", "x".repeat(70_000)));
    let whole = event(&format!("\"s\":\"{}\"", "x".repeat(70_000)));
    records.send(0, &beginning.as_bytes()[..64 * 1024], &headers);
    records.send(0, whole.as_bytes(), &headers);
    records.send(0, b"{\"time\":", &headers);
    // A mark that does not parse marks nothing.
    headers.pop();
    records.send(0, at("1795428000").as_bytes(), &headers);
    records.send(0, b"{", &headers);
    records.flush();
    let expected = [
        "0|RecordTooLarge|Bridge",
        "1|RecordTooLarge|Bridge",
        "2|RecordTooLarge|Bridge",
        "4|InvalidJson|Decode",
    ];
    assert_eq!(scenario.dead_letters(4), expected);
    let letter = scenario.query(
        "SELECT DISTINCT payload_bytes, encode(payload_sha256, 'hex') = repeat('5e', 32), \
         convert_from(key, 'UTF8'), headers ->> 'mqtt.topic', max(length(payload)) OVER () \
         FROM {schema}.telemetry_dead_letters WHERE reason = 'RecordTooLarge'",
    );
    assert_eq!(letter, ["7000000|t|device|plant/7|65536"]);
    wait_until(|| scenario.number("SELECT count(*) FROM {schema}.telemetry") == 1).unwrap();
}

#[test]
fn a_record_of_others_does_not_run_a_program_that_reads_what_only_the_bridge_knows() {
    let mut scenario = scenario();
    scenario.config.program = Some(".device = split(%topic, \"/\")[1]".into());
    let processor = scenario.start();
    let records = scenario.producer();
    records.send(0, at("1795428000").as_bytes(), &[]);
    records.flush();
    assert_eq!(scenario.dead_letters(1), ["0|ForeignRecord|Program"]);
    drop(processor);
    // Where there is no bridge the program says what becomes of it.
    scenario.config.has_bridge = false;
    scenario.config.program = Some(".device = split(%topic, \"/\")[1] ?? \"unknown\"".into());
    let _processor = scenario.start();
    records.send(0, at("1795428000").as_bytes(), &[]);
    let headers = [("mqtt.topic", "plant/7"), ("ingested_at", "2026-11-23T10:00:00Z")];
    records.send(0, at("1795428001").as_bytes(), &headers);
    records.flush();
    wait_until(|| scenario.number("SELECT count(*) FROM {schema}.telemetry") == 2).unwrap();
    assert_eq!(scenario.query("SELECT device FROM {schema}.telemetry ORDER BY time"), ["unknown", "7"]);
}

#[test]
fn where_most_messages_are_rejected_it_pauses_instead_of_draining_the_topic() {
    let mut scenario = Scenario::new("breaker", 1);
    let records = scenario.producer();
    (0..3000).for_each(|_| records.send(0, b"no JSON", &[]));
    records.send_events(0..10, 1);
    records.flush();
    let processor = scenario.start();
    let message = processor.wait_for_problem("TooManyRejected");
    assert!(message.contains("1000 of the last 1000 messages were rejected, 1000 of them as InvalidJson"));
    // What was rejected until then is kept, and nothing more happens, while the processor stays in its group.
    thread::sleep(Duration::from_secs(15));
    assert_eq!(scenario.dead_letters(1000).len(), 1000);
    assert_eq!(scenario.number("SELECT next_offset FROM {schema}._iotpipeline_positions"), 1000);
    assert_eq!(processor.status().unwrap().partitions, [0]);
    processor.terminate();
    // Somebody wants them all the same.
    scenario.config.max_rejected_percent = 100;
    let _processor = scenario.start();
    scenario.assert_each_once(10);
    assert_eq!(scenario.dead_letters(3000).len(), 3000);
}
