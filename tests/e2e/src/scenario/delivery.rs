//! What a fleet publishes, and whether it became rows, all of it and once.

use std::time::Duration;

use jiff::Timestamp;
use snafu::{FromString, ResultExt, Whatever};

use super::Scenario;
use crate::{
    Result,
    fleet::{self, Fleet, Ledger, Shares, differences},
    wait::eventually,
};

/// How long rows may take from the broker's acknowledgement to the database, seconds.
const DRAINED: Duration = Duration::from_secs(180);

impl Scenario {
    /// Starts a fleet that publishes what the pipeline subscribes to and remembers all of it. Without a count it
    /// publishes until it is stopped.
    pub fn fleet(&self, devices: usize, rate: f64, count: Option<u64>, shares: Shares) -> Fleet {
        self.fleet_named("fleet", devices, rate, count, shares)
    }

    /// The same with a name, so that several publish at once.
    pub fn fleet_named(
        &self,
        name: &str,
        devices: usize,
        rate: f64,
        count: Option<u64>,
        shares: Shares,
    ) -> Fleet {
        Fleet::start(fleet::Options {
            broker: self.broker.clone(),
            devices,
            rate,
            count,
            seed: Timestamp::now().as_millisecond().unsigned_abs(),
            shares,
            topic: format!("{}/{{line}}/telemetry", self.namespace),
            client_prefix: format!("{}-{name}", self.namespace),
            keep_ledger: true,
            replay: None,
        })
    }

    /// Has a fleet publish so many messages.
    ///
    /// # Errors
    /// Fails where a device does.
    pub async fn publish(&self, devices: usize, rate: f64, count: u64, shares: Shares) -> Result<Ledger> {
        let fleet = self.fleet(devices, rate, Some(count), shares);
        fleet.finish().await.whatever_context("failed to publish")
    }

    /// Has a fleet that would go on for ever stop; what it published is acknowledged.
    ///
    /// # Errors
    /// Fails where a device does.
    pub async fn halt(&self, fleet: Fleet) -> Result<Ledger> {
        fleet.stop();
        fleet.finish().await.whatever_context("failed to publish")
    }

    /// Waits until a running fleet has published `count` messages.
    ///
    /// # Errors
    /// Fails after three minutes.
    pub async fn published(&self, fleet: &Fleet, count: u64) -> Result<()> {
        let progress = fleet.progress();
        eventually(DRAINED, &format!("the fleet has published {count} messages"), async || {
            let published = progress.published();
            let lost = progress.lost_connections();
            Ok((published >= count).then_some(()).ok_or(format!("{published}; lost connections: {lost:?}")))
        })
        .await
    }

    /// Waits until everything is drained, and fails unless each message became its rows, or a dead letter, and each record
    /// did once. Where MQTT may have delivered again, messages may be there more often.
    ///
    /// # Errors
    /// Fails after three minutes, or names what differs.
    pub async fn expect_delivered(&self, ledger: &Ledger, mqtt_may_repeat: bool) -> Result<()> {
        self.drained(ledger).await?;
        if may_repeat(ledger, mqtt_may_repeat) {
            // What was delivered again is counted in Kafka too, and behind it may be hidden what is still on its way.
            eventually(DRAINED, "each message became its rows", async || {
                Ok(self.expect_rows(ledger, mqtt_may_repeat).await.map_err(|missing| missing.to_string()))
            })
            .await?;
            self.drained(ledger).await?;
        } else {
            self.expect_rows(ledger, mqtt_may_repeat).await?;
        }
        self.expect_each_record_once().await
    }

    /// Waits until all that was published is in Kafka, and all that is in Kafka is rows or dead letters.
    ///
    /// # Errors
    /// Fails after three minutes.
    pub async fn drained(&self, ledger: &Ledger) -> Result<()> {
        let published = ledger.entries.len() as u64;
        eventually(DRAINED, &format!("{published} messages are rows or dead letters"), async || {
            let ends = self.kafka.ends(&self.topic()).await?;
            let positions = self.table().positions().await?;
            let in_kafka = ends.values().sum::<i64>().unsigned_abs();
            let are_equal = ends.iter().all(|(partition, end)| positions.get(partition).unwrap_or(&0) == end);
            let is_drained = in_kafka >= published && are_equal;
            Ok(is_drained.then_some(()).ok_or(format!("ends of the topic {ends:?}, positions {positions:?}")))
        })
        .await
    }

    /// Fails unless the rows are those of the ledger: exactly those, or, where MQTT may have delivered again,
    /// each at least as often as published.
    ///
    /// # Errors
    /// Names the rows that differ.
    pub async fn expect_rows(&self, ledger: &Ledger, mqtt_may_repeat: bool) -> Result<()> {
        let found = self.table().rows().await?;
        let differences = differences(&ledger.rows(), &found, may_repeat(ledger, mqtt_may_repeat));
        if differences.is_empty() { Ok(()) } else { Err(Whatever::without_source(differences.join("\n"))) }
    }

    /// Fails unless each record of the topic became rows, or a dead letter, exactly once.
    ///
    /// # Errors
    /// Names records that were lost or repeated.
    pub async fn expect_each_record_once(&self) -> Result<()> {
        let records = self.kafka.records(&self.topic()).await?;
        let mut origins = self.table().origins().await?;
        let mut wrong = Vec::new();
        for record in records {
            let origin = (record.partition, record.offset);
            match origins.remove(&origin) {
                Some(1) => {}
                times => wrong.push(format!("record {origin:?} became rows {} times", times.unwrap_or(0))),
            }
        }
        wrong.extend(
            origins.keys().map(|origin| format!("rows of a record {origin:?} that is not in the topic")),
        );
        if wrong.is_empty() {
            return Ok(());
        }
        wrong.truncate(20);
        Err(Whatever::without_source(wrong.join("\n")))
    }
}

/// Whether a message may be there more often than it was published: whoever lost its connection sends again too.
fn may_repeat(ledger: &Ledger, mqtt_may_repeat: bool) -> bool {
    mqtt_may_repeat || ledger.lost_connections > 0
}
