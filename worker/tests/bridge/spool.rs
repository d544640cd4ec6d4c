//! With a spool the bridge takes messages while Kafka is away, and passes them on in order when it is back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crds::worker::SpoolConfig;
use rumqttc_v5::QoS;

use crate::support::{
    Bridge, Scenario,
    broker::publish,
    records::{Record, assert_each_once, assert_nothing_lost, message, number, read_topic},
    wait_until,
};

/// A bridge with a spool on such a volume, and no topic yet: Kafka takes nothing.
fn without_kafka(title: &str, volume_bytes: u64) -> Scenario {
    let mut scenario = Scenario::without_topic(title);
    scenario.config.spool = Some(SpoolConfig { volume_bytes, closing: false });
    scenario
}

fn send(scenario: &Scenario, numbers: std::ops::Range<usize>) {
    publish(&scenario.name, QoS::AtLeastOnce, numbers.map(|number| message(scenario, number)));
}

fn spooled(bridge: &Bridge) -> u64 {
    bridge.status().and_then(|status| status.spool).map_or(0, |spool| spool.messages)
}

fn assert_in_order(records: &[Record]) {
    let mut last = BTreeMap::new();
    for record in records {
        let before = last.insert(record.key.clone(), number(record));
        assert!(before < Some(number(record)), "the order of one device's messages");
    }
}

#[test]
fn messages_are_taken_without_kafka_and_passed_on_in_order() {
    let scenario = without_kafka("spool", 64 << 20);
    let bridge = scenario.start();
    let status = bridge.wait_for_remark("Spooling");
    assert!(status.problem.unwrap().message.contains(&scenario.name), "why Kafka takes nothing");
    send(&scenario, 0..5_000);
    // All of them are acknowledged: the broker holds nothing back.
    wait_until(|| bridge.metric("iotpipeline_bridge_messages_acknowledged_total") == 5_000.0).unwrap();
    assert_eq!(bridge.metric("iotpipeline_bridge_messages_spooled_total"), 5_000.0);
    wait_until(|| spooled(&bridge) == 5_000).unwrap();

    scenario.create_topic(&[]);
    // Those that come while the spool empties, and those behind them, which need no disk.
    send(&scenario, 5_000..8_000);
    bridge.wait_for("ready without a remark", |status| status.ready && status.problem.is_none());
    send(&scenario, 8_000..10_000);
    let records = read_topic(&scenario.name, 10_000);
    assert_each_once(&records, 10_000);
    assert_in_order(&records);
    assert_eq!(spooled(&bridge), 0);
    assert!(bridge.metric("iotpipeline_bridge_messages_spooled_total") <= 8_000.0);
    assert_eq!(bridge.metric("iotpipeline_bridge_messages_delivered_total"), 10_000.0);
}

#[test]
fn a_killed_bridge_finds_in_its_spool_what_it_had_acknowledged() {
    let scenario = without_kafka("spool-killed", 64 << 20);
    let total = 10_000;
    let mut bridge = scenario.start();
    bridge.wait_for_remark("Spooling");
    let bridge = thread::scope(|scope| {
        scope.spawn(|| send(&scenario, 0..total));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(300));
            bridge.kill();
            bridge = scenario.start();
        }
        bridge
    });
    wait_until(|| spooled(&bridge) >= total as u64).unwrap();
    bridge.kill();
    scenario.create_topic(&[]);
    let mut bridge = scenario.start();
    // Also while the spool empties.
    wait_until(|| spooled(&bridge) > 0).unwrap();
    bridge.kill();
    bridge = scenario.start();
    assert_nothing_lost(&read_topic(&scenario.name, total), total);
    wait_until(|| spooled(&bridge) == 0).unwrap();
}

#[test]
fn a_full_spool_leaves_messages_at_the_broker_and_loses_none() {
    // Room for about 2,000 messages.
    let scenario = without_kafka("spool-full", 1 << 20);
    let total = 6_000;
    let bridge = scenario.start();
    bridge.wait_for_remark("Spooling");
    send(&scenario, 0..total);
    let status = bridge.wait_for_problem("SpoolFull");
    assert!(status.problem.unwrap().message.contains("enlarge spec.mqtt.spool.size"));
    let taken = status.spool.unwrap();
    assert!((1_000..total as u64).contains(&taken.messages) && taken.bytes <= 1 << 19, "{taken:?}");
    scenario.create_topic(&[]);
    let records = read_topic(&scenario.name, total);
    assert_nothing_lost(&records, total);
    // A session that ends because nothing moves has its messages sent again; they stay in order.
    let first_times = first_times(&records);
    assert_eq!(first_times.len(), total);
    bridge.wait_for("ready without a remark", |status| status.ready && status.problem.is_none());
}

/// A small disk, which is gone when this is.
struct Disk(PathBuf);

impl Disk {
    fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=4m", "disk"], &directory);
        Self(directory)
    }

    fn enlarge(&self) {
        mount(&["-o", "remount,size=64m"], &self.0);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], directory: &Path) {
    assert!(Command::new("mount").args(arguments).arg(directory).status().unwrap().success());
}

#[test]
fn a_disk_that_is_full_before_the_spool_leaves_messages_at_the_broker_too() {
    let scenario = without_kafka("spool-disk", 64 << 20);
    let disk = Disk::new(scenario.spool_directory());
    let total = 40_000;
    let bridge = scenario.start();
    bridge.wait_for_remark("Spooling");
    send(&scenario, 0..total);
    bridge.wait_for_problem("SpoolFailed");
    disk.enlarge();
    bridge.wait_for_remark("Spooling");
    wait_until(|| spooled(&bridge) >= total as u64).unwrap();
    scenario.create_topic(&[]);
    let records = read_topic(&scenario.name, total);
    assert_eq!(first_times(&records).len(), total);
}

/// The numbers of each device in the order in which they came first.
fn first_times(records: &[Record]) -> BTreeSet<usize> {
    let mut last = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for record in records.iter().filter(|record| !record.payload.is_empty()) {
        if seen.insert(number(record)) {
            let before = last.insert(record.key.clone(), number(record));
            assert!(before < Some(number(record)), "the order of one device's messages");
        }
    }
    seen
}

#[test]
fn a_spool_that_left_the_spec_is_emptied_before_anything_else() {
    let mut scenario = without_kafka("spool-closing", 64 << 20);
    let bridge = scenario.start();
    bridge.wait_for_remark("Spooling");
    send(&scenario, 0..1_000);
    wait_until(|| spooled(&bridge) == 1_000).unwrap();
    assert!(bridge.terminate().success());
    scenario.config.spool = Some(SpoolConfig { volume_bytes: 64 << 20, closing: true });
    let bridge = scenario.start();
    bridge.wait_for_problem("Spooling");
    send(&scenario, 1_000..2_000);
    assert_eq!(spooled(&bridge), 1_000, "it takes nothing more");
    scenario.create_topic(&[]);
    let records = read_topic(&scenario.name, 2_000);
    assert_each_once(&records, 2_000);
    assert_in_order(&records);
    wait_until(|| spooled(&bridge) == 0).unwrap();
}
