//! Nothing is lost, whatever stops the bridge, and what stands in its way is told.

use std::{collections::BTreeMap, thread, time::Duration};

use crate::support::{
    Scenario,
    broker::{Answers, Outbound, false_broker, publish},
    mqtt_address,
    network::Network,
    records::{assert_each_once, assert_nothing_lost, message, number, read_topic},
    wait_until,
};
use crds::{pipeline::ProtocolVersion, worker::KeyConfig};
use rumqttc_v5::{QoS, mqttbytes::v5::PublishProperties};

#[test]
fn every_message_becomes_one_record_in_order() {
    let scenario = Scenario::new("plain");
    let bridge = scenario.start_ready();
    assert_eq!(bridge.status().unwrap().subscriptions[0].granted_qos, Some(1));
    let total = 20_000;
    publish(&scenario.name, QoS::AtLeastOnce, (0..total).map(|number| message(&scenario, number)));
    let records = read_topic(&scenario.name, total);
    assert_each_once(&records, total);
    let mut last = BTreeMap::new();
    for record in &records {
        assert_eq!(record.key, record.headers["topic"]);
        assert_eq!(record.headers["qos"], "1");
        let before = last.insert(record.key.clone(), number(record));
        assert!(before < Some(number(record)), "the order of one device's messages");
    }
    wait_until(|| bridge.metric("iotpipeline_bridge_messages_acknowledged_total") == total as f64).unwrap();
    assert_eq!(bridge.metric("iotpipeline_bridge_in_flight"), 0.0);
    assert_eq!(bridge.metric("iotpipeline_bridge_messages_received_total{qos=\"1\"}"), total as f64);
    assert_eq!(bridge.metric("iotpipeline_bridge_delivery_seconds_count"), total as f64);
    assert_eq!(bridge.get("/livez").unwrap().0, 200);
    assert_eq!(bridge.get("/readyz").unwrap().0, 200);
}

#[test]
fn a_killed_bridge_loses_nothing() {
    let scenario = Scenario::new("killed");
    let total = 20_000;
    let mut bridge = scenario.start_ready();
    let _last = thread::scope(|scope| {
        scope.spawn(|| {
            publish(&scenario.name, QoS::AtLeastOnce, (0..total).map(|number| message(&scenario, number)));
        });
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(300));
            bridge.kill();
            bridge = scenario.start();
        }
        bridge
    });
    assert_nothing_lost(&read_topic(&scenario.name, total), total);
}

#[test]
fn a_stopped_bridge_keeps_its_session_and_repeats_nothing() {
    let scenario = Scenario::new("stopped");
    let total = 20_000;
    let bridge = scenario.start_ready();
    thread::scope(|scope| {
        scope.spawn(|| {
            publish(&scenario.name, QoS::AtLeastOnce, (0..total).map(|number| message(&scenario, number)));
        });
        thread::sleep(Duration::from_millis(300));
        assert!(bridge.terminate().success());
    });
    let _bridge = scenario.start();
    assert_each_once(&read_topic(&scenario.name, total), total);
}

#[test]
fn a_cut_connection_loses_nothing() {
    for protocol_version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        let mut scenario = Scenario::new("cut");
        let network = Network::to(mqtt_address());
        scenario.config.protocol_version = protocol_version;
        (scenario.config.host, scenario.config.port) = ("127.0.0.1".to_owned(), network.port);
        let total = 20_000;
        let bridge = scenario.start_ready();
        thread::scope(|scope| {
            scope.spawn(|| {
                publish(
                    &scenario.name,
                    QoS::AtLeastOnce,
                    (0..total).map(|number| message(&scenario, number)),
                );
            });
            for _ in 0..5 {
                thread::sleep(Duration::from_millis(200));
                network.cut();
            }
        });
        assert_nothing_lost(&read_topic(&scenario.name, total), total);
        assert!(bridge.metric("iotpipeline_bridge_reconnects_total") >= 1.0);
    }
}

#[test]
fn every_qos_passes_in_both_versions() {
    for (protocol_version, qos) in [
        (ProtocolVersion::V5, QoS::AtMostOnce),
        (ProtocolVersion::V5, QoS::ExactlyOnce),
        (ProtocolVersion::V311, QoS::AtMostOnce),
        (ProtocolVersion::V311, QoS::AtLeastOnce),
        (ProtocolVersion::V311, QoS::ExactlyOnce),
    ] {
        let mut scenario = Scenario::new("qos");
        scenario.config.protocol_version = protocol_version;
        scenario.config.subscriptions[0].qos = 2;
        let bridge = scenario.start_ready();
        publish(&scenario.name, qos, (0..1000).map(|number| message(&scenario, number)));
        let records = read_topic(&scenario.name, 1000);
        assert_each_once(&records, 1000);
        assert!(records.iter().all(|record| record.headers["qos"] == (qos as u8).to_string()));
        assert!(bridge.terminate().success());
    }
}

#[test]
fn bytes_properties_and_keys_are_kept() {
    let mut scenario = Scenario::new("bytes");
    scenario.config.key = KeyConfig::TopicLevel(1);
    let _bridge = scenario.start_ready();
    let odd = Outbound {
        properties: PublishProperties {
            content_type: Some("application/octet-stream".to_owned()),
            user_properties: vec![("site".to_owned(), "Zürich".to_owned())],
            ..PublishProperties::default()
        },
        ..Outbound::new(format!("{}/line 4/ü", scenario.name), (0..=255).collect::<Vec<u8>>())
    };
    publish(&scenario.name, QoS::AtLeastOnce, [odd, Outbound::new(format!("{}/empty", scenario.name), [])]);
    let records = read_topic(&scenario.name, 2);
    assert_eq!(records.len(), 2);
    let odd = records.iter().find(|record| record.key == "line 4").unwrap();
    assert_eq!(odd.payload, (0..=255).collect::<Vec<u8>>());
    assert_eq!(odd.headers["topic"], format!("{}/line 4/ü", scenario.name));
    assert_eq!(odd.headers["content_type"], "application/octet-stream");
    assert_eq!(odd.headers["property.site"], "Zürich");
    let empty = records.iter().find(|record| record.key == "empty").unwrap();
    assert!(empty.payload.is_empty());
}

#[test]
fn a_full_window_slows_down_and_loses_nothing() {
    let mut scenario = Scenario::new("window");
    scenario.config.max_in_flight = 10;
    scenario.config.max_in_flight_bytes = 1000;
    let _bridge = scenario.start_ready();
    let large = |number| {
        let payload = format!(r#"{{"n":{number},"padding":"{}"}}"#, "x".repeat(600));
        Outbound::new(format!("{}/large", scenario.name), payload)
    };
    publish(&scenario.name, QoS::AtLeastOnce, (0..500).map(large));
    assert_each_once(&read_topic(&scenario.name, 500), 500);
}

#[test]
fn what_the_broker_refuses_is_told() {
    let check = |answers, reason: &str, says: &str| {
        let mut scenario = Scenario::new("refused");
        (scenario.config.host, scenario.config.port) = ("127.0.0.1".to_owned(), false_broker(answers));
        let bridge = scenario.start();
        let problem = bridge.wait_for_problem(reason).problem.unwrap();
        assert!(problem.message.contains(says), "{}", problem.message);
        assert_eq!(bridge.get("/readyz").unwrap().0, 503);
        assert_eq!(bridge.get("/livez").unwrap().0, 200);
        assert!(bridge.terminate().success(), "a bridge that is not connected stops as well");
    };
    let password = Answers { connack: 0x86, ..Answers::default() };
    check(
        password,
        "BrokerRefused",
        "BadUserNamePassword. Check the Secret of spec.mqtt.credentialsSecretRef.",
    );
    let filter = Answers { suback: 0x87, ..Answers::default() };
    check(filter, "SubscriptionRefused", "/#: NotAuthorized");
}

#[test]
fn an_absent_broker_an_absent_kafka_and_an_absent_topic_are_told_apart() {
    let mut scenario = Scenario::without_topic("absent");
    let bridge = scenario.start();
    bridge.wait_for_problem("TopicMissing");
    scenario.create_topic(&[]);
    bridge.wait_for("ready", |status| status.ready);
    assert!(bridge.terminate().success());
    scenario.config.port = 9;
    scenario.config.host = "127.0.0.1".to_owned();
    let bridge = scenario.start();
    let problem = bridge.wait_for_problem("BrokerUnreachable").problem.unwrap();
    assert!(problem.message.contains("127.0.0.1:9"), "{}", problem.message);
    assert!(bridge.terminate().success());
}
