//! Messages that are large, too large for Kafka, or too large for the bridge itself.

use crds::{names::MAX_STUB_PAYLOAD_BYTES, pipeline::ProtocolVersion};
use rumqttc_v5::QoS;
use sha2::{Digest, Sha256};

use crate::support::{
    Scenario,
    broker::{Outbound, publish},
    records::{Record, assert_each_once, message, read_topic},
    wait_until,
};

#[test]
fn a_packet_over_the_limit_is_told_in_3_1_1_and_filtered_by_the_broker_in_5() {
    for protocol_version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut scenario = Scenario::new("large");
        scenario.config.protocol_version = protocol_version;
        scenario.config.max_packet_size_bytes = 1024;
        let bridge = scenario.start_ready();
        let large = Outbound::new(format!("{}/large", scenario.name), vec![b'x'; 2000]);
        publish(&scenario.name, QoS::AtLeastOnce, [large]);
        if protocol_version == ProtocolVersion::V311 {
            let problem = bridge.wait_for_problem("PacketTooLarge").problem.unwrap();
            assert!(problem.message.contains("spec.mqtt.maxPacketSize (1024 bytes)"), "{}", problem.message);
            assert!(problem.message.contains("max_packet_size"), "{}", problem.message);
        } else {
            publish(&scenario.name, QoS::AtLeastOnce, [message(&scenario, 0)]);
            assert_each_once(&read_topic(&scenario.name, 1), 1);
            assert!(bridge.status().unwrap().ready);
        }
    }
}

/// A payload of so many bytes that no other message of the test has.
fn payload(number: usize, bytes: usize) -> Vec<u8> {
    let mut payload = format!(r#"{{"n":{number},"padding":""#).into_bytes();
    payload.resize(bytes - 2, b'x');
    payload.extend(b"\"}");
    payload
}

fn assert_is_stub(record: &Record, whole: &[u8]) {
    let hash: String = Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(record.headers["stub"], format!("RecordTooLarge {} {hash}", whole.len()));
    assert!(whole.starts_with(&record.payload), "the beginning of the payload");
    assert_eq!(record.key, record.headers["topic"]);
}

#[test]
fn eleven_kibibytes_pass() {
    let scenario = Scenario::new("eleven");
    let _bridge = scenario.start_ready();
    let whole = payload(0, 11 * 1024);
    publish(&scenario.name, QoS::AtLeastOnce, [Outbound::new(format!("{}/1", scenario.name), whole.clone())]);
    let records = read_topic(&scenario.name, 1);
    assert_eq!(records.len(), 1);
    assert!(records[0].payload == whole && !records[0].headers.contains_key("stub"));
}

#[test]
fn a_stub_stands_for_what_no_record_may_hold() {
    let mut scenario = Scenario::new("stub");
    scenario.config.max_record_bytes = 200_000;
    let bridge = scenario.start_ready();
    let whole = payload(1, 300_000);
    let large = Outbound::new(format!("{}/1", scenario.name), whole.clone());
    publish(&scenario.name, QoS::AtLeastOnce, [message(&scenario, 0), large, message(&scenario, 2)]);
    let records = read_topic(&scenario.name, 3);
    assert_eq!(records.len(), 3);
    let stub = records.iter().find(|record| record.headers.contains_key("stub")).unwrap();
    assert_is_stub(stub, &whole);
    assert_eq!(stub.payload.len(), MAX_STUB_PAYLOAD_BYTES);
    bridge.wait_for_remark("RecordTooLarge");
    wait_until(|| bridge.metric("iotpipeline_bridge_messages_acknowledged_total") == 3.0).unwrap();
    assert_eq!(bridge.metric("iotpipeline_bridge_produce_failures_total{kind=\"RecordTooLarge\"}"), 1.0);
}

#[test]
fn a_topic_that_takes_less_than_the_bridge_sends_gets_all_that_fits() {
    let scenario = Scenario::with_topic("small", &[("max.message.bytes", "20000")]);
    let bridge = scenario.start_ready();
    let total = 200;
    let sized = |number| {
        let bytes = if number == 70 { 50_000 } else { 11 * 1024 };
        Outbound::new(format!("{}/{}", scenario.name, number % 7), payload(number, bytes))
    };
    publish(&scenario.name, QoS::AtLeastOnce, (0..total).map(sized));
    let records = read_topic(&scenario.name, total);
    let (stubs, whole): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.headers.contains_key("stub"));
    for number in (0..total).filter(|number| *number != 70) {
        let payload = payload(number, 11 * 1024);
        assert!(whole.iter().any(|record| record.payload == payload), "message {number}");
    }
    assert!(!stubs.is_empty());
    stubs.iter().for_each(|stub| assert_is_stub(stub, &payload(70, 50_000)));
    wait_until(|| bridge.metric("iotpipeline_bridge_in_flight") == 0.0).unwrap();
    bridge.wait_for("ready", |status| status.ready);
}
