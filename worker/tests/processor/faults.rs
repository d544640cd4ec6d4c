//! Each record becomes its rows once, although processors are killed, added and removed, stopped for longer than
//! their session, and cut off from the database.

use std::{thread, time::Duration};

use crds::worker::WorkerStatus;

use crate::harness::{Scenario, under_load};

const PARTITIONS: i32 = 6;

#[test]
fn a_processor_killed_again_and_again() {
    let scenario = Scenario::new("killed", PARTITIONS);
    let mut last = None;
    let total = under_load(&scenario, PARTITIONS, 12, || {
        for round in 0..12 {
            let processor = scenario.start();
            // Some die before they have joined, some in the middle of a batch.
            thread::sleep(Duration::from_millis(700 + 130 * round));
            processor.kill();
        }
        last = Some(scenario.start());
    });
    scenario.assert_each_once(total);
    assert!(last.unwrap().terminate().success());
}

#[test]
fn processors_are_added_and_removed() {
    let scenario = Scenario::new("scaled", PARTITIONS);
    let first = scenario.start_ready();
    let total = under_load(&scenario, PARTITIONS, 15, || {
        let second = scenario.start_ready();
        second.wait_for("an owner", |status| status.partitions.len() == 3);
        first.wait_for("an owner of half", |status| status.partitions.len() == 3);
        thread::sleep(Duration::from_secs(2));
        assert!(second.terminate().success());
        first.wait_for("the only owner", |status| status.partitions.len() == 6);
        let third = scenario.start_ready();
        third.wait_for("an owner", |status| !status.partitions.is_empty());
        third.kill();
    });
    scenario.assert_each_once(total);
}

#[test]
fn a_processor_tells_for_how_long_it_waits_for_the_database() {
    let scenario = Scenario::new("waits", 1);
    let processor = scenario.start_ready();
    let waits = |status: &WorkerStatus| status.database_wait_percent;
    scenario.with_locked_table(|| {
        let records = scenario.producer();
        records.send_events(0..100, 1);
        records.flush();
        processor.wait_for("held up", |status| waits(status).is_some_and(|percent| percent >= 60));
    });
    scenario.assert_each_once(100);
    processor.wait_for("held up no more", |status| waits(status).is_some_and(|percent| percent < 10));
}

#[test]
fn a_member_without_a_partition_is_ready() {
    let scenario = Scenario::new("spare", 1);
    let _first = scenario.start_ready();
    let second = scenario.start_ready();
    assert!(second.status().unwrap().partitions.is_empty());
}

#[test]
fn a_processor_that_was_stopped_longer_than_its_session_writes_nothing_twice() {
    let scenario = Scenario::new("zombie", PARTITIONS);
    let zombie = scenario.start_ready();
    let successor = scenario.start_ready();
    let total = under_load(&scenario, PARTITIONS, 20, || {
        thread::sleep(Duration::from_secs(2));
        zombie.signal("STOP");
        successor.wait_for("the only owner", |status| status.partitions.len() == 6);
        thread::sleep(Duration::from_secs(3));
        zombie.signal("CONT");
    });
    scenario.assert_each_once(total);
}

#[test]
fn connections_that_the_server_ends() {
    let scenario = Scenario::new("terminated", PARTITIONS);
    let processor = scenario.start_ready();
    let total = under_load(&scenario, PARTITIONS, 10, || {
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(400));
            // This test's processor alone: the one that last said something about this schema.
            scenario.query(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE application_name = 'iotpipeline-processor' AND query LIKE '%{schema}%'",
            );
        }
    });
    scenario.assert_each_once(total);
    assert!(processor.metric("retries_total") >= 1.0);
    assert!(scenario.dead_letters(0).is_empty());
}

#[test]
fn a_database_that_stands_still() {
    let scenario = Scenario::new("slow", PARTITIONS);
    let processor = scenario.start_ready();
    let total = under_load(&scenario, PARTITIONS, 15, || {
        thread::sleep(Duration::from_secs(1));
        scenario.with_locked_table(|| {
            thread::sleep(Duration::from_secs(12));
            // It waits, and is still a member of its group.
            assert_eq!(processor.status().unwrap().partitions.len(), 6);
        });
    });
    scenario.assert_each_once(total);
}

#[test]
fn a_missing_table_is_a_problem_that_heals() {
    let scenario = Scenario::new("missing", 1);
    scenario.execute("ALTER TABLE {schema}.telemetry RENAME TO elsewhere");
    let records = scenario.producer();
    records.send_events(0..10, 1);
    records.flush();
    let processor = scenario.start();
    processor.wait_for_problem("TableMissing");
    scenario.execute("ALTER TABLE {schema}.elsewhere RENAME TO telemetry");
    processor.wait_for("ready", |status| status.ready);
    scenario.assert_each_once(10);
    assert!(scenario.dead_letters(0).is_empty());
}

#[test]
fn a_missing_topic_is_a_problem_that_heals() {
    let scenario = Scenario::without_topic("topicless");
    let processor = scenario.start();
    processor.wait_for_problem("TopicMissing");
    scenario.create_topic(2);
    let records = scenario.producer();
    records.send_events(0..10, 2);
    records.flush();
    processor.wait_for("ready", |status| status.ready);
    scenario.assert_each_once(10);
}

/// A server that refuses more than so many rows in a transaction as TimescaleDB does where it would have to decompress too
/// much for them.
fn refuse_more_than(scenario: &Scenario, rows: i32) {
    scenario.execute(&format!(
        "CREATE OR REPLACE FUNCTION {{schema}}.few() RETURNS trigger LANGUAGE plpgsql AS $$ \
         DECLARE n int := coalesce(nullif(current_setting('test.rows', true), ''), '0')::int + 1; \
         BEGIN PERFORM set_config('test.rows', n::text, true); \
         IF n > {rows} THEN RAISE EXCEPTION 'too many' USING ERRCODE = '53400'; END IF; RETURN NEW; END $$"
    ));
}

#[test]
fn what_the_server_cannot_take_at_once_comes_in_smaller_batches() {
    let scenario = Scenario::new("smaller", 2);
    refuse_more_than(&scenario, 5);
    scenario.execute(
        "CREATE TRIGGER few BEFORE INSERT ON {schema}.telemetry FOR EACH ROW EXECUTE FUNCTION {schema}.few()",
    );
    let records = scenario.producer();
    records.send_events(0..100, 2);
    records.flush();
    let processor = scenario.start();
    scenario.assert_each_once(100);

    // Not even one: it waits for a person, and nothing becomes a dead letter.
    refuse_more_than(&scenario, 0);
    records.send_events(100..110, 2);
    records.flush();
    let message = processor.wait_for_problem("DecompressionLimit");
    assert!(message.contains("max_tuples_decompressed_per_dml_transaction"), "{message}");
    refuse_more_than(&scenario, 1000);
    scenario.assert_each_once(110);
    assert_eq!(scenario.number("SELECT count(*) FROM {schema}.telemetry_dead_letters"), 0);
}
