//! A message that kills the processor becomes a dead letter; the others become rows, each once.

use worker::failpoint::POISON;

use crate::harness::{Scenario, wait_until};

#[test]
fn a_message_that_kills_the_processor_twice_is_a_dead_letter() {
    let scenario = Scenario::new("poison", 1);
    let records = scenario.producer();
    records.send_events(0..100, 1);
    records.send(0, POISON, &[]);
    records.send_events(100..200, 1);
    records.flush();
    // In the first run nobody knows which record it was; in two more it is seen in hand.
    for _ in 0..3 {
        assert!(!scenario.start().wait_for_end().success());
    }
    let processor = scenario.start();
    scenario.assert_each_once(200);
    assert_eq!(scenario.dead_letters(1), ["100|Poison|Program"]);
    assert!(processor.terminate().success());
    // It is behind: nothing is suspected any more.
    records.send_events(200..210, 1);
    records.flush();
    let _processor = scenario.start();
    wait_until(|| scenario.number("SELECT count(*) FROM {schema}.telemetry") == 210).unwrap();
}
