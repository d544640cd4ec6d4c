//! Through PgBouncer in transaction mode, where each transaction may find another server session.

use std::{thread, time::Duration};

use crds::names::SecretPurpose;

use crate::harness::{Scenario, event, under_load, variable};

const PARTITIONS: i32 = 6;

fn through_pooler(title: &str) -> Scenario {
    let scenario = Scenario::new(title, PARTITIONS);
    scenario.mount(SecretPurpose::Timescale, "uri", &variable("IOTPIPELINE_TEST_PGBOUNCER"));
    scenario
}

#[test]
fn several_processors_and_killed_sessions_write_each_record_once() {
    let scenario = through_pooler("pooled");
    let processors = [scenario.start_ready(), scenario.start_ready(), scenario.start_ready()];
    let total = under_load(&scenario, PARTITIONS, 15, || {
        for _ in 0..15 {
            thread::sleep(Duration::from_millis(600));
            // The pooler's sessions that wrote for this test.
            scenario.query(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE pid <> pg_backend_pid() AND query LIKE '%{schema}%'",
            );
        }
        let late = scenario.start_ready();
        thread::sleep(Duration::from_secs(1));
        late.kill();
    });
    scenario.assert_each_once(total);
    assert!(scenario.dead_letters(0).is_empty());
    for processor in processors {
        assert!(processor.terminate().success());
    }
}

#[test]
fn dead_letters_and_refused_records_pass_too() {
    let scenario = through_pooler("pooled_refused");
    scenario.execute("ALTER TABLE {schema}.telemetry ADD CONSTRAINT warm CHECK (value > -273.15)");
    let processor = scenario.start_ready();
    let records = scenario.producer();
    for n in 0..2_000 {
        records.send((n % 6) as i32, event(n).as_bytes(), &[]);
        if n % 500 == 0 {
            records.send(0, br#"{"time":1,"device":"d","value":-300}"#, &[]);
            records.send(1, b"{", &[]);
        }
    }
    records.flush();
    scenario.assert_each_once(2_000);
    assert_eq!(scenario.dead_letters(8).len(), 8);
    // What it does while there is nothing to do passes as well.
    for _ in 0..40 {
        thread::sleep(Duration::from_millis(200));
        assert!(processor.status().unwrap().ready);
    }
    assert_eq!(processor.metric("retries_total"), 0.0);
}
