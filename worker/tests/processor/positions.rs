//! Where partitions begin and go on: the database decides.

use std::{thread, time::Duration};

use crds::{pipeline::OnOffsetLost, worker::StartFrom};

use crate::harness::{Scenario, event, wait_until};

#[test]
fn a_position_that_someone_moved_is_followed() {
    let scenario = Scenario::new("moved", 1);
    let processor = scenario.start_ready();
    let records = scenario.producer();
    records.send_events(0..100, 1);
    records.flush();
    scenario.assert_each_once(100);
    // A restored backup: rows and position go back together.
    scenario.execute(
        "BEGIN; DELETE FROM {schema}.telemetry WHERE n >= 40; \
         UPDATE {schema}._iotpipeline_positions SET next_offset = 40; COMMIT",
    );
    records.send_events(100..200, 1);
    records.flush();
    scenario.assert_each_once(200);
    assert!(processor.metric("fenced_total") >= 1.0);
}

#[test]
fn positions_are_shown_as_offsets_of_the_consumer_group() {
    let scenario = Scenario::new("shown", 2);
    let processor = scenario.start_ready();
    let records = scenario.producer();
    records.send_events(0..100, 2);
    records.flush();
    scenario.assert_each_once(100);
    let shown = [Some(50), Some(50)];
    wait_until(|| scenario.group_offsets(2) == shown).unwrap_or_else(|()| {
        panic!("the group's offsets are {:?}", scenario.group_offsets(2));
    });
    // A scaler by lag sees none either once another processor has them.
    processor.terminate();
    let _other = scenario.start_ready();
    records.send_events(100..120, 2);
    records.flush();
    wait_until(|| scenario.group_offsets(2) == [Some(60), Some(60)]).unwrap();
}

#[test]
fn positions_do_not_depend_on_the_consumer_group() {
    let mut scenario = Scenario::new("group", 2);
    let records = scenario.producer();
    records.send_events(0..100, 2);
    records.flush();
    let processor = scenario.start();
    scenario.assert_each_once(100);
    processor.terminate();
    scenario.config.consumer_group += "-other";
    scenario.config.start_from = StartFrom::Earliest;
    records.send_events(100..150, 2);
    records.flush();
    let _processor = scenario.start();
    scenario.assert_each_once(150);
}

#[test]
fn latest_skips_what_was_there_but_nothing_of_a_partition_that_comes_later() {
    let mut scenario = Scenario::new("latest", 2);
    scenario.config.start_from = StartFrom::Latest;
    let records = scenario.producer();
    records.send_events(1000..1100, 2);
    records.flush();
    let processor = scenario.start_ready();
    wait_until(|| scenario.number("SELECT count(*) FROM {schema}._iotpipeline_positions") == 2).unwrap();
    records.send_events(0..100, 2);
    records.flush();
    scenario.assert_each_once(100);
    processor.terminate();
    scenario.grow_topic(3);
    // A producer that has not seen the topic with fewer partitions.
    let records = scenario.producer();
    records.send(2, event(100).as_bytes(), &[]);
    records.flush();
    let _processor = scenario.start();
    scenario.assert_each_once(101);
}

#[test]
fn a_time_is_a_place_to_begin() {
    let mut scenario = Scenario::new("time", 2);
    let records = scenario.producer();
    records.send_events(1000..1100, 2);
    records.flush();
    thread::sleep(Duration::from_millis(100));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    scenario.config.start_from = StartFrom::Timestamp(i64::try_from(now).unwrap());
    thread::sleep(Duration::from_millis(100));
    records.send_events(0..100, 2);
    records.flush();
    let _processor = scenario.start();
    scenario.assert_each_once(100);
}

#[test]
fn records_that_retention_took_are_never_skipped_in_silence() {
    let scenario = Scenario::new("lost", 1);
    let records = scenario.producer();
    records.send_events(0..100, 1);
    records.flush();
    let processor = scenario.start();
    scenario.assert_each_once(100);
    processor.terminate();
    records.send_events(100..300, 1);
    records.flush();
    scenario.delete_records(200);
    let processor = scenario.start();
    processor.wait_for_problem("OffsetLost");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(scenario.number("SELECT count(*) FROM {schema}.telemetry"), 100);
}

#[test]
fn where_the_pipeline_says_so_it_goes_on_without_lost_records_and_tells_which() {
    let mut scenario = Scenario::new("skipped", 1);
    scenario.config.on_offset_lost = OnOffsetLost::Earliest;
    let records = scenario.producer();
    records.send_events(0..100, 1);
    records.flush();
    let processor = scenario.start();
    scenario.assert_each_once(100);
    processor.terminate();
    records.send_events(1000..1100, 1);
    records.send_events(100..200, 1);
    records.flush();
    scenario.delete_records(200);
    let processor = scenario.start();
    scenario.assert_each_once(200);
    assert_eq!(scenario.dead_letters(1), ["100|OffsetLost|Read"]);
    assert_eq!(processor.metric("dead_letters_total{reason=\"OffsetLost\"}"), 1.0);
    processor.terminate();

    // As if the topic had been created again, with fewer records than the position says.
    scenario.execute("UPDATE {schema}._iotpipeline_positions SET next_offset = 5000, last_offset = 4999");
    scenario.execute("DELETE FROM {schema}.telemetry WHERE n >= 100");
    let _processor = scenario.start();
    scenario.assert_each_once(200);
    assert_eq!(scenario.dead_letters(2), ["100|OffsetLost|Read", "5000|TopicRecreated|Read"]);
}

#[test]
fn a_topic_that_was_created_again_is_told_from_the_old_one() {
    let scenario = Scenario::new("recreated", 1);
    let records = scenario.producer();
    records.send_events(0..100, 1);
    records.flush();
    let processor = scenario.start();
    scenario.assert_each_once(100);
    processor.terminate();
    // The new topic has grown past the old position: only the record before it tells.
    scenario.execute("UPDATE {schema}._iotpipeline_positions SET next_offset = 50, last_offset = 49");
    let processor = scenario.start();
    processor.wait_for_problem("TopicRecreated");
    scenario.execute("UPDATE {schema}._iotpipeline_positions SET next_offset = 5000, last_offset = 4999");
    drop(processor);
    scenario.start().wait_for_problem("TopicRecreated");
    assert_eq!(scenario.number("SELECT count(*) FROM {schema}.telemetry"), 100);
}
