//! Tables with a natural key: a message that MQTT delivered twice makes one row, and the same key with other content is
//! no repeat.

use std::{collections::BTreeSet, ops::Range, thread, time::Duration};

use crds::{names::SecretPurpose, pipeline::ColumnType, worker::ColumnConfig};

use crate::harness::{Processor, Records, Scenario, under_load, variable, wait_until};

/// A program whose rows are never the same twice.
const NOTING: &str = "\
rows = [.]
if is_array(.) { rows = array!(.) }
. = map_values(rows) -> |row| {
  merge(object!(row), {\"noted\": now(), \"where\": %offset})
}";

/// The time of the first event.
const FIRST_SECOND: i64 = 1_795_428_000;

fn unique(scenario: &mut Scenario) {
    scenario.execute("CREATE UNIQUE INDEX telemetry_key ON {schema}.telemetry (device, time)");
    scenario.config.table.unique_by = vec!["device".into(), "time".into()];
}

fn add_column(scenario: &mut Scenario, name: &str, column_type: ColumnType) {
    scenario.execute(&format!("ALTER TABLE {{schema}}.telemetry ADD \"{name}\" {}", column_type.sql()));
    let from = vec![name.to_owned()];
    scenario.config.table.columns.push(ColumnConfig {
        name: name.to_owned(),
        column_type,
        from,
        nullable: true,
    });
}

/// A table that is unique by device and time, and a program that notes when it ran and at which offset.
fn scenario(title: &str, partitions: i32) -> Scenario {
    let mut scenario = Scenario::new(title, partitions);
    unique(&mut scenario);
    add_column(&mut scenario, "noted", ColumnType::Timestamptz);
    add_column(&mut scenario, "where", ColumnType::Bigint);
    scenario.config.program = Some(NOTING.into());
    scenario
}

fn event_with(n: i64, value: i64) -> String {
    let time = FIRST_SECOND + n;
    format!(r#"{{"time":{time},"device":"d{}","n":{n},"value":{value},"more":[{n}]}}"#, n % 7)
}

fn event(n: i64) -> String {
    event_with(n, n)
}

fn send(records: &Records, numbers: Range<i64>, partitions: i64) {
    for n in numbers {
        records.send((n % partitions) as i32, event(n).as_bytes(), &[]);
    }
}

fn wait_for_position(scenario: &Scenario, records: i64) {
    let taken = || {
        scenario.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM {schema}._iotpipeline_positions")
    };
    wait_until(|| taken() >= records).unwrap_or_else(|()| panic!("{} of {records}", taken()));
    assert_eq!(taken(), records);
}

fn assert_counted(processor: &Processor, rows: f64, repeated: f64) {
    assert_eq!(processor.metric("rows_written_total"), rows);
    assert_eq!(processor.metric("repeated_rows_total"), repeated);
}

fn letters(scenario: &Scenario) -> Vec<String> {
    scenario.query(
        "SELECT \"offset\", reason, stage, error FROM {schema}.telemetry_dead_letters ORDER BY partition, \"offset\"",
    )
}

#[test]
fn a_repeat_makes_no_row_and_is_counted() {
    let scenario = scenario("repeats", 2);
    let processor = scenario.start_ready();
    let records = scenario.producer();
    send(&records, 0..1_000, 2);
    records.flush();
    wait_for_position(&scenario, 1_000);
    let first_noted = scenario.query("SELECT min(noted), max(\"where\") FROM {schema}.telemetry");
    // In batches of their own, beside new ones, twice in one batch, and of another partition.
    send(&records, 300..600, 2);
    for n in 1_000..1_500 {
        records.send(0, event(n).as_bytes(), &[]);
        records.send(0, event(n).as_bytes(), &[]);
        records.send(1, event(n - 900).as_bytes(), &[]);
    }
    records.flush();
    wait_for_position(&scenario, 1_000 + 300 + 1_500);
    scenario.assert_each_once(1_500);
    assert_eq!(letters(&scenario), [""; 0]);
    assert_counted(&processor, 1_500.0, 300.0 + 1_000.0);
    // What is there first stays as it is.
    assert_eq!(
        scenario.query("SELECT min(noted), max(\"where\") FROM {schema}.telemetry WHERE n < 1000"),
        first_noted
    );
}

#[test]
fn the_same_key_with_other_content_is_a_dead_letter_with_all_rows_of_its_record() {
    let scenario = scenario("conflict", 1);
    let processor = scenario.start_ready();
    let records = scenario.producer();
    send(&records, 0..100, 1);
    records.flush();
    wait_for_position(&scenario, 100);
    // Offsets 100 to 103: another value, a record of which one row is another, a repeat, another member for the extra
    // column.
    let three = format!("[{},{},{}]", event(100), event_with(7, -7), event(101));
    let more = event(9).replace("\"more\":[9]", "\"more\":[10]");
    for payload in [&event_with(5, -5), &three, &event(6), &more] {
        records.send(0, payload.as_bytes(), &[]);
    }
    // Offsets 104 and 105: two with one new key, of which the first counts.
    records.send(0, event_with(100, 1).as_bytes(), &[]);
    records.send(0, event_with(100, 2).as_bytes(), &[]);
    send(&records, 101..200, 1);
    records.flush();
    wait_for_position(&scenario, 106 + 99);

    let error = |columns: &str| format!("a row with the same device, time has other values of {columns}");
    let letter = |offset: i64, columns: &str| format!("{offset}|KeyConflict|Store|{}", error(columns));
    let expected = [(100, "value"), (101, "value"), (103, "extra"), (105, "value")];
    assert_eq!(letters(&scenario), expected.map(|(offset, columns)| letter(offset, columns)));
    scenario.assert_each_once(200);
    assert_eq!(
        scenario.query("SELECT value FROM {schema}.telemetry WHERE n IN (5, 7, 100) ORDER BY n"),
        ["5", "7", "1"]
    );
    let payload = scenario.query(
        "SELECT convert_from(payload, 'UTF8') FROM {schema}.telemetry_dead_letters WHERE \"offset\" = 101",
    );
    assert_eq!(payload, [three]);
    assert_counted(&processor, 200.0, 1.0);
    assert_eq!(processor.metric("dead_letters_total{reason=\"KeyConflict\"}"), 4.0);
}

#[test]
fn a_record_is_not_refused_for_a_row_that_another_refused_record_would_have_made() {
    let scenario = scenario("chain", 1);
    let records = scenario.producer();
    send(&records, 0..10, 1);
    // Offset 10 is refused because of its second row; so its first row is never there, and offset 11 is no conflict.
    let two = format!("[{},{}]", event_with(10, -10), event_with(3, -3));
    records.send(0, two.as_bytes(), &[]);
    send(&records, 10..20, 1);
    records.flush();
    let _processor = scenario.start();
    scenario.assert_each_once(20);
    assert_eq!(scenario.dead_letters(1), ["10|KeyConflict|Store"]);
    assert_eq!(scenario.query("SELECT value FROM {schema}.telemetry WHERE n = 10"), ["10"]);
}

#[test]
fn a_whole_topic_again_changes_nothing() {
    let scenario = scenario("again", 3);
    let records = scenario.producer();
    send(&records, 0..30_000, 3);
    records.send(2, event_with(5, -5).as_bytes(), &[]);
    records.flush();
    let processor = scenario.start();
    wait_for_position(&scenario, 30_001);
    assert!(processor.terminate().success());
    scenario.execute("DELETE FROM {schema}._iotpipeline_positions");
    let processor = scenario.start();
    wait_for_position(&scenario, 30_001);
    wait_until(|| processor.metric("repeated_rows_total") == 30_000.0).unwrap();
    assert_eq!(processor.metric("rows_written_total"), 0.0);
    scenario.assert_each_once(30_000);
    assert_eq!(scenario.dead_letters(2), ["10000|KeyConflict|Store"; 2]);
}

#[test]
fn processors_killed_again_and_again_write_each_row_once() {
    const PARTITIONS: i32 = 6;
    let mut scenario = Scenario::new("unique_killed", PARTITIONS);
    scenario.execute("CREATE UNIQUE INDEX telemetry_key ON {schema}.telemetry (n, time)");
    scenario.execute("ALTER TABLE {schema}.telemetry ALTER n SET NOT NULL");
    scenario.config.table.unique_by = vec!["n".into(), "time".into()];
    scenario.config.table.columns[2].nullable = false;
    let mut last = None;
    let total = under_load(&scenario, PARTITIONS, 10, || {
        for round in 0..10 {
            let processor = scenario.start();
            thread::sleep(Duration::from_millis(700 + 130 * round));
            processor.kill();
        }
        last = Some(scenario.start());
    });
    scenario.assert_each_once(total);
    wait_for_position(&scenario, total);
    assert_eq!(letters(&scenario), [""; 0]);
}

#[test]
fn every_type_and_null_arrives_as_by_copy() {
    const TYPES: [ColumnType; 10] = [
        ColumnType::Boolean,
        ColumnType::Smallint,
        ColumnType::Integer,
        ColumnType::Bigint,
        ColumnType::Real,
        ColumnType::DoublePrecision,
        ColumnType::Text,
        ColumnType::Timestamptz,
        ColumnType::Jsonb,
        ColumnType::Uuid,
    ];
    let rows = |is_unique: bool| {
        let mut scenario = Scenario::new("types", 1);
        for (n, column_type) in TYPES.into_iter().enumerate() {
            add_column(&mut scenario, &format!("c{n}"), column_type);
        }
        if is_unique {
            unique(&mut scenario);
        }
        let values = r#""c0":true,"c1":-2,"c2":3,"c3":-4000000000,"c4":1.5,"c5":-1e300,"c6":"é\n\"","c7":0.25,
            "c8":{"a":[1,null,"x"]},"c9":"00112233-4455-6677-8899-aabbccddeeff","rest":{"b":null}"#;
        let records = scenario.producer();
        records.send(0, format!(r#"{{"time":1,"device":"","n":1,{values}}}"#).as_bytes(), &[]);
        records.send(0, br#"{"time":2,"device":"only","c8":"","c6":""}"#, &[]);
        records.flush();
        let processor = scenario.start();
        wait_for_position(&scenario, 2);
        assert!(processor.terminate().success());
        scenario.query("SELECT row_to_json(telemetry) FROM {schema}.telemetry ORDER BY time")
    };
    let (unique, copied) = (rows(true), rows(false));
    assert_eq!(unique.len(), 2);
    assert_eq!(unique, copied);
}

#[test]
fn a_row_that_the_database_refuses_is_withheld_and_its_neighbours_pass() {
    let scenario = scenario("unique_refused", 1);
    scenario.execute("ALTER TABLE {schema}.telemetry ADD CONSTRAINT warm CHECK (value > -273.15)");
    let records = scenario.producer();
    send(&records, 0..500, 1);
    records.send(0, event_with(500, -300).as_bytes(), &[]);
    records.send(0, event_with(3, -300).as_bytes(), &[]);
    records.send(0, event_with(4, -4).as_bytes(), &[]);
    send(&records, 490..1_000, 1);
    records.flush();
    let processor = scenario.start();
    scenario.assert_each_once(1_000);
    assert_eq!(
        scenario.dead_letters(3),
        ["500|Constraint|Store", "501|Constraint|Store", "502|KeyConflict|Store"]
    );
    assert_counted(&processor, 1_000.0, 10.0);
}

#[test]
fn a_table_without_the_unique_index_is_a_problem_that_heals() {
    let mut scenario = Scenario::new("keyless", 1);
    scenario.config.table.unique_by = vec!["device".into(), "time".into()];
    let records = scenario.producer();
    send(&records, 0..10, 1);
    records.flush();
    let processor = scenario.start();
    let message = processor.wait_for_problem("TableMismatch");
    assert!(message.contains("no unique index on the columns of timescale.uniqueBy"), "{message}");
    unique(&mut scenario);
    processor.wait_for("ready", |status| status.ready);
    scenario.assert_each_once(10);
    assert_eq!(letters(&scenario), [""; 0]);
}

#[test]
fn a_role_with_no_more_than_the_documented_rights_does_all_of_it() {
    let scenario = scenario("unique_role", 1);
    let name = &scenario.name;
    scenario.execute(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'x';
         GRANT USAGE ON SCHEMA {name} TO {name};
         GRANT INSERT ON {name}.telemetry, {name}.telemetry_dead_letters TO {name};
         GRANT SELECT, INSERT, UPDATE ON {name}._iotpipeline_positions TO {name};"
    ));
    scenario.mount_database(|url| {
        url.set_username(name).unwrap();
        url.set_password(Some("x")).unwrap();
    });
    let records = scenario.producer();
    send(&records, 0..100, 1);
    send(&records, 0..10, 1);
    records.send(0, event_with(5, -5).as_bytes(), &[]);
    records.flush();
    let processor = scenario.start();
    processor.wait_for_problem("PermissionMissing");
    scenario.execute(&format!("GRANT SELECT ON {name}.telemetry TO {name}"));
    scenario.assert_each_once(100);
    assert_eq!(scenario.dead_letters(1), ["110|KeyConflict|Store"]);
    drop(processor);
    scenario.execute("DROP OWNED BY {schema}; DROP ROLE {schema}");
}

#[test]
fn through_a_pooler() {
    let scenario = scenario("unique_pooled", 2);
    scenario.mount(SecretPurpose::Timescale, "uri", &variable("IOTPIPELINE_TEST_PGBOUNCER"));
    let processors = [scenario.start_ready(), scenario.start_ready()];
    let records = scenario.producer();
    send(&records, 0..2_000, 2);
    send(&records, 500..1_000, 2);
    records.send(0, event_with(5, -5).as_bytes(), &[]);
    records.flush();
    wait_for_position(&scenario, 2_501);
    scenario.assert_each_once(2_000);
    assert_eq!(scenario.dead_letters(1).len(), 1);
    assert_eq!(
        processors.iter().map(|processor| processor.metric("repeated_rows_total")).sum::<f64>(),
        500.0
    );
    assert_eq!(processors.iter().map(|processor| processor.metric("retries_total")).sum::<f64>(), 0.0);
}

/// That server has one session at a time, so nobody asks it anything while a processor runs, and takes no message of
/// more than 64 KiB, so batches are small.
#[test]
fn community_into_chunks_of_the_columnstore() {
    let mut scenario = Scenario::in_database("columnstore", "IOTPIPELINE_TEST_TIMESCALE_COMMUNITY");
    scenario.create_topic(1);
    unique(&mut scenario);
    add_column(&mut scenario, "noted", ColumnType::Timestamptz);
    scenario.config.program = Some(".noted = now()".into());
    scenario.execute(
        "ALTER TABLE {schema}.telemetry SET (timescaledb.compress, timescaledb.compress_segmentby = 'device', \
         timescaledb.compress_orderby = 'time DESC')",
    );
    let records = scenario.producer();
    let run = |taken: i64, rows: f64, repeated: f64| {
        records.flush();
        let processor = scenario.start_ready();
        let is_done = || processor.metric("records_total") >= taken as f64;
        wait_until(is_done).unwrap_or_else(|()| panic!("{:?}", processor.status()));
        assert_counted(&processor, rows, repeated);
        assert!(processor.terminate().success());
    };
    send(&records, 0..300, 1);
    run(300, 300.0, 0.0);
    let compress = "SELECT count(compress_chunk(chunk)) FROM show_chunks('{schema}.telemetry') AS chunk";
    assert_eq!(scenario.number(compress), 1);
    // Rows of the compressed chunk again, another one with the key of one of them, and new ones between them.
    send(&records, 0..100, 1);
    records.send(0, event_with(7, -7).as_bytes(), &[]);
    for n in 300..350 {
        let between = format!(r#"{{"time":{},"device":"e","n":{n}}}"#, FIRST_SECOND + n - 200);
        records.send(0, between.as_bytes(), &[]);
    }
    send(&records, 200..300, 1);
    run(251, 50.0, 200.0);

    let compressed = "SELECT bool_and(is_compressed) FROM timescaledb_information.chunks \
                      WHERE hypertable_schema = '{schema}' AND hypertable_name = 'telemetry'";
    assert_eq!(scenario.query(compressed), ["t"]);
    let numbers = scenario.query("SELECT n FROM {schema}.telemetry");
    assert_eq!((numbers.len(), numbers.iter().collect::<BTreeSet<_>>().len()), (350, 350));
    assert_eq!(scenario.query("SELECT value FROM {schema}.telemetry WHERE n = 7"), ["7"]);
    assert_eq!(scenario.dead_letters(1), ["400|KeyConflict|Store"]);
}
