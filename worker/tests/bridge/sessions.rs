//! The session at the MQTT broker: who has it, what it holds, how it ends.

use std::time::{Duration, Instant};

use crds::{pipeline::ProtocolVersion, worker::Subscription};
use rumqttc_v5::QoS;

use crate::support::{
    Scenario,
    broker::{Answers, Outbound, false_broker, publish, take_session},
    records::{assert_each_once, assert_nothing_lost, message, read_topic},
};

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V5, ProtocolVersion::V311];

#[test]
fn a_session_taken_over_is_told() {
    let mut scenario = Scenario::new("takeover");
    let port = false_broker(Answers { disconnect: Some(0x8e), ..Answers::default() });
    (scenario.config.host, scenario.config.port) = ("127.0.0.1".to_owned(), port);
    let problem = scenario.start().wait_for_problem("SessionTakenOver").problem.unwrap();
    assert!(problem.message.contains(&scenario.name), "{}", problem.message);
}

#[test]
fn two_bridges_of_one_client_id_lose_nothing() {
    let scenario = Scenario::new("twins");
    let first = scenario.start_ready();
    let _second = scenario.start_ready();
    publish(&scenario.name, QoS::AtLeastOnce, (0..1000).map(|number| message(&scenario, number)));
    assert_nothing_lost(&read_topic(&scenario.name, 1000), 1000);
    assert!(first.metric("iotpipeline_bridge_reconnects_total") >= 1.0);
}

#[test]
fn a_bridge_backs_off_from_another_client_with_its_id() {
    let scenario = Scenario::new("rival");
    let bridge = scenario.start_ready();
    let ((_client, mut rival), had_it) = take_session(&scenario.name);
    assert!(had_it);
    let problem = bridge.wait_for_problem("SessionTakenOver").problem.unwrap();
    assert!(problem.message.contains(&scenario.name), "{}", problem.message);
    let began = Instant::now();
    // The rival's connection ends when the bridge takes the session back.
    while rival.iter().next().is_some_and(|event| event.is_ok()) {}
    assert!(began.elapsed() > Duration::from_secs(8), "taken back after {:?}", began.elapsed());
    bridge.wait_for("ready", |status| status.ready);
}

#[test]
fn a_filter_that_left_the_spec_sends_nothing_more() {
    for protocol_version in VERSIONS {
        let mut scenario = Scenario::new("left");
        scenario.config.protocol_version = protocol_version;
        let [kept, left] = ["kept", "left"].map(|level| format!("{}/{level}/#", scenario.name));
        let wanted = |filter: &String| Subscription { filter: filter.clone(), qos: 1 };
        scenario.config.subscriptions = vec![wanted(&kept), wanted(&left)];
        assert!(scenario.start_ready().terminate().success());
        scenario.config.subscriptions.pop();
        scenario.config.unsubscribe = vec![left];
        let _bridge = scenario.start_ready();
        let about = |level: &str| Outbound::new(format!("{}/{level}/1", scenario.name), level);
        publish(&scenario.name, QoS::AtLeastOnce, [about("left"), about("kept")]);
        let records = read_topic(&scenario.name, 1);
        let payloads: Vec<_> = records.iter().map(|record| record.payload.as_slice()).collect();
        assert_eq!(payloads, [b"kept"]);
    }
}

#[test]
fn a_filter_that_the_broker_does_not_let_go_is_told() {
    let mut scenario = Scenario::new("kept");
    let port = false_broker(Answers { unsuback: 0x87, session_present: true, ..Answers::default() });
    (scenario.config.host, scenario.config.port) = ("127.0.0.1".to_owned(), port);
    scenario.config.unsubscribe = vec!["old/#".to_owned()];
    let problem = scenario.start().wait_for_remark("UnsubscribeRefused").problem.unwrap();
    assert!(problem.message.contains("NotAuthorized"), "{}", problem.message);
}

#[test]
fn a_retired_session_is_passed_on_and_forgotten() {
    for protocol_version in VERSIONS {
        let mut scenario = Scenario::new("retired");
        scenario.config.protocol_version = protocol_version;
        assert!(scenario.start_ready().terminate().success());
        let total = 500;
        publish(&scenario.name, QoS::AtLeastOnce, (0..total).map(|number| message(&scenario, number)));
        scenario.config.retire = true;

        let kafka = std::mem::replace(&mut scenario.kafka.bootstrap_servers, "127.0.0.1:9".to_owned());
        let stranded = scenario.start();
        let status = stranded.wait_for_problem("KafkaUnreachable");
        assert!(!status.retirement.unwrap().ended, "{status:?}");
        stranded.kill();

        scenario.kafka.bootstrap_servers = kafka;
        let bridge = scenario.start();
        let ended = |status: &crds::worker::WorkerStatus| status.retirement.is_some_and(|end| end.ended);
        let end = bridge.wait_for("retired", ended).retirement.unwrap();
        assert_eq!((end.passed_on, end.in_flight), (total as u64, 0));
        assert_each_once(&read_topic(&scenario.name, total), total);
        let (_rival, had_it) = take_session(&scenario.name);
        assert!(!had_it, "the broker still has the session");
        assert!(ended(&bridge.status().unwrap()), "it goes on saying so");
        assert!(bridge.terminate().success());
    }
}
