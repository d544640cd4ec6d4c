//! Several bridges on one shared subscription: none of them takes anything with it when it leaves.

use std::{iter, thread, time::Duration};

use crds::{names::bridge_client_id, worker::WorkerStatus};
use rumqttc_v5::QoS;

use crate::support::{
    Bridge, Scenario,
    broker::{Answers, Outbound, false_broker, publish, take_session},
    records::{assert_each_once, assert_nothing_lost, message, read_topic},
    wait_until,
};

/// How many messages flow while something is done to the bridges.
const TOTAL: usize = 30_000;

/// Publishes in pieces of so many, so that it takes a few seconds.
const PIECE: usize = 500;

#[test]
fn bridges_share_the_messages_and_those_that_leave_end_their_sessions() {
    let mut scenario = Scenario::new("shared");
    scenario.config.share(None);
    let mut bridges: Vec<_> = (0..3).map(|ordinal| ready(&scenario, ordinal)).collect();
    thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_for_a_while(&scenario));
        wait_until(|| bridges.iter().all(|bridge| delivered(bridge) > 0.0)).expect("each has its share");
        // As their pods are rolled: the last one first, and the others go on.
        let leaving = scenario.with(|config| config.share(Some(1)));
        for ordinal in [2, 1] {
            assert!(bridges.pop().unwrap().terminate().success());
            let bridge = leaving.start_as(ordinal);
            let end = bridge.wait_for("retired", has_ended).retirement.unwrap();
            assert_eq!(end.in_flight, 0);
            bridges.insert(1, bridge);
        }
        assert!(!publisher.is_finished(), "nothing flowed meanwhile");
        publisher.join().unwrap();
    });
    assert_each_once(&read_topic(&scenario.name, TOTAL), TOTAL);
    let stays = &bridges[0];
    assert!(stays.status().unwrap().ready && stays.status().unwrap().retirement.is_none());
    drop(bridges);
    for ordinal in [1, 2] {
        let (_client, had_it) = take_session(&bridge_client_id(&scenario.name, ordinal));
        assert!(!had_it, "the broker still has the session of bridge {ordinal}");
    }
    let (_client, had_it) = take_session(&scenario.name);
    assert!(had_it, "the bridge that stays has its session");
}

#[test]
fn a_bridge_that_is_killed_goes_on_with_its_session() {
    let mut scenario = Scenario::new("shared-killed");
    scenario.config.share(None);
    let _first = ready(&scenario, 0);
    let second = ready(&scenario, 1);
    let _second = thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_for_a_while(&scenario));
        wait_until(|| delivered(&second) > 0.0).expect("it has its share");
        second.kill();
        // The broker goes on giving it messages.
        thread::sleep(Duration::from_millis(500));
        let second = ready(&scenario, 1);
        wait_until(|| delivered(&second) > 0.0).expect("it goes on");
        publisher.join().unwrap();
        second
    });
    assert_nothing_lost(&read_topic(&scenario.name, TOTAL), TOTAL);
}

#[test]
fn an_orphaned_session_is_emptied_and_ended() {
    let mut scenario = Scenario::new("shared-orphan");
    scenario.config.share(None);
    let _first = ready(&scenario, 0);
    ready(&scenario, 1).kill();
    let total = 1_000;
    publish(&scenario.name, QoS::AtLeastOnce, (0..total).map(|number| message(&scenario, number)));
    let leaving = scenario.with(|config| config.share(Some(1)));
    let bridge = leaving.start_as(1);
    let end = bridge.wait_for("retired", has_ended).retirement.unwrap();
    assert!(end.passed_on > 0, "its share of the messages");
    assert_each_once(&read_topic(&scenario.name, total), total);
    let (_client, had_it) = take_session(&bridge_client_id(&scenario.name, 1));
    assert!(!had_it);
}

#[test]
fn a_bridge_that_the_broker_refuses_leaves_once_its_session_has_expired() {
    let mut scenario = Scenario::new("shared-refused");
    scenario.config.share(Some(1));
    scenario.config.session_expiry_seconds = 2;
    // Not authorized.
    let refuses = Answers { connack: 0x87, ..Answers::default() };
    (scenario.config.host, scenario.config.port) = ("127.0.0.1".to_owned(), false_broker(refuses));
    let bridge = scenario.start_as(1);
    bridge.wait_for_problem("BrokerRefused");
    let status = bridge.wait_for("retired", has_ended);
    assert!(status.ready, "those that follow it are not held up");
}

#[test]
fn one_bridge_begins_to_share_and_stops_without_losing_a_message() {
    let alone = Scenario::new("shared-once");
    let own = alone.config.subscriptions[0].filter.clone();
    let shared = alone.with(|config| {
        config.share(None);
        config.unsubscribe = vec![own.clone()];
    });
    let again = alone.with(|config| config.unsubscribe = vec![shared.config.subscriptions[0].filter.clone()]);
    thread::scope(|scope| {
        let bridge = alone.start_ready();
        let publisher = scope.spawn(|| publish_for_a_while(&alone));
        wait_until(|| delivered(&bridge) > 0.0).expect("messages flow");
        assert!(bridge.terminate().success());
        let bridge = ready(&shared, 0);
        let before = delivered(&bridge);
        wait_until(|| delivered(&bridge) > before + 100.0).expect("they flow on");
        assert!(bridge.terminate().success());
        let _bridge = again.start_ready();
        assert!(!publisher.is_finished(), "nothing flowed meanwhile");
        publisher.join().unwrap();
        assert_nothing_lost(&read_topic(&alone.name, TOTAL), TOTAL);
        // And nothing is left of what was shared: each message comes once.
        publish(
            &alone.name,
            QoS::AtLeastOnce,
            iter::once(Outbound::new(format!("{}/end", alone.name), "end")),
        );
        let records = read_topic(&alone.name, TOTAL + 1);
        assert_eq!(records.iter().filter(|record| record.payload == b"end").count(), 1);
    });
}

#[test]
fn a_broker_without_shared_subscriptions_is_told_of() {
    let says_so = Answers { lacks_shared: true, ..Answers::default() };
    let refuses = Answers { suback: 0x9e, ..Answers::default() };
    for answers in [says_so, refuses] {
        let mut scenario = Scenario::new("unshared");
        scenario.config.share(None);
        (scenario.config.host, scenario.config.port) = ("127.0.0.1".to_owned(), false_broker(answers));
        let problem =
            scenario.start_as(0).wait_for_problem("SharedSubscriptionsUnsupported").problem.unwrap();
        assert!(problem.message.contains("spec.mqtt.session"), "{}", problem.message);
    }
    // Who shares nothing does not mind.
    let mut scenario = Scenario::new("unshared");
    (scenario.config.host, scenario.config.port) = ("127.0.0.1".to_owned(), false_broker(says_so));
    scenario.start_ready();
}

fn ready(scenario: &Scenario, ordinal: u32) -> Bridge {
    let bridge = scenario.start_as(ordinal);
    bridge.wait_for("ready", |status| status.ready);
    bridge
}

fn has_ended(status: &WorkerStatus) -> bool {
    status.retirement.is_some_and(|retirement| retirement.ended)
}

fn delivered(bridge: &Bridge) -> f64 {
    bridge.metric("iotpipeline_bridge_messages_delivered_total")
}

/// For some 20 seconds.
fn publish_for_a_while(scenario: &Scenario) {
    for first in (0..TOTAL).step_by(PIECE) {
        let piece = first..first + PIECE;
        publish(&scenario.name, QoS::AtLeastOnce, piece.map(|number| message(scenario, number)));
        thread::sleep(Duration::from_millis(400));
    }
}
