//! The processor's metrics. Counted when a batch is committed, so that they agree with the table.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::{batch::Batch, unmapped::Tally};
use crate::telemetry::Metrics;

/// The processor's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct ProcessorMetrics {
    records: Counter,
    bytes: Counter,
    rows_written: Counter,
    repeated_rows: Counter,
    records_dropped: Counter,
    unmapped_fields: Counter,
    dead_letters: Family<[(&'static str, &'static str); 1], Counter>,
    batch_rows: Histogram,
    batch_bytes: Histogram,
    transaction_duration: Histogram,
    end_to_end_latency: Histogram,
    fenced: Counter,
    retries: Counter,
    lag: Family<[(&'static str, String); 1], Gauge>,
}

impl ProcessorMetrics {
    /// Registers the metrics.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.register(|registry| Self::register(registry.sub_registry_with_prefix("processor")))
    }

    fn register(registry: &mut Registry) -> Self {
        let this = Self {
            records: Counter::default(),
            bytes: Counter::default(),
            rows_written: Counter::default(),
            repeated_rows: Counter::default(),
            records_dropped: Counter::default(),
            unmapped_fields: Counter::default(),
            dead_letters: Family::default(),
            batch_rows: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            batch_bytes: Histogram::new(exponential_buckets(256.0, 4.0, 10)),
            transaction_duration: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            end_to_end_latency: Histogram::new(exponential_buckets(0.002, 2.0, 20)),
            fenced: Counter::default(),
            retries: Counter::default(),
            lag: Family::default(),
        };
        registry.register(
            "records",
            "Kafka records that became rows, dead letters or nothing",
            this.records.clone(),
        );
        registry.register_with_unit("payload", "Bytes of their values", Unit::Bytes, this.bytes.clone());
        registry.register("rows_written", "Rows written to the hypertable", this.rows_written.clone());
        registry.register(
            "repeated_rows",
            "Rows that the hypertable had already, by their natural key",
            this.repeated_rows.clone(),
        );
        registry.register(
            "records_dropped",
            "Records that the program dropped on purpose",
            this.records_dropped.clone(),
        );
        registry.register("unmapped_fields", "Fields that no column takes", this.unmapped_fields.clone());
        registry.register("dead_letters", "Records that became dead letters", this.dead_letters.clone());
        registry.register("batch_rows", "Rows in a transaction", this.batch_rows.clone());
        registry.register_with_unit(
            "batch",
            "Bytes of the rows in a transaction",
            Unit::Bytes,
            this.batch_bytes.clone(),
        );
        registry.register_with_unit(
            "transaction_duration",
            "From BEGIN to COMMIT",
            Unit::Seconds,
            this.transaction_duration.clone(),
        );
        registry.register_with_unit(
            "end_to_end_latency",
            "From the bridge's receipt of a message to the COMMIT of its rows, for a sample of the records",
            Unit::Seconds,
            this.end_to_end_latency.clone(),
        );
        registry.register(
            "fenced",
            "Transactions rolled back because a position was not the expected one",
            this.fenced.clone(),
        );
        registry.register("retries", "Attempts to write a batch after a failure", this.retries.clone());
        registry.register(
            "lag",
            "Records between the stored position and the end of the partition",
            this.lag.clone(),
        );
        this
    }

    /// Counts a committed batch, of which the table had `repeated` rows already. `now` is in microseconds since 1970.
    pub fn committed(&self, batch: &Batch, repeated: u64, duration: Duration, now: i64) {
        for part in batch.parts() {
            self.records.inc_by(part.records);
            self.bytes.inc_by(part.bytes);
            self.records_dropped.inc_by(part.dropped);
        }
        self.unmapped_fields.inc_by(batch.unmapped().map(Tally::count).sum());
        self.rows_written.inc_by((batch.row_count() as u64).saturating_sub(repeated));
        self.repeated_rows.inc_by(repeated);
        for letter in batch.dead_letters() {
            self.dead_letters.get_or_create(&[("reason", letter.rejection.reason.into())]).inc();
        }
        self.batch_rows.observe(batch.row_count() as f64);
        self.batch_bytes.observe(batch.rows().len() as f64);
        self.transaction_duration.observe(duration.as_secs_f64());
        for ingested_at in batch.ingested_at() {
            self.end_to_end_latency.observe((now - ingested_at) as f64 / 1e6);
        }
    }

    /// Counts a transaction that a moved position undid.
    pub fn fenced(&self) {
        self.fenced.inc();
    }

    /// Counts an attempt to write a batch again.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// The records between the stored position and the end of a partition.
    pub fn set_lag(&self, partition: i32, lag: i64) {
        self.lag.get_or_create(&[("partition", partition.to_string())]).set(lag);
    }

    /// Forgets a partition that went elsewhere.
    pub fn forget_lag(&self, partition: i32) {
        self.lag.remove(&[("partition", partition.to_string())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::document;

    #[test]
    fn every_metric_is_documented_and_every_documented_one_exists() {
        let registry = Metrics::default();
        let metrics = ProcessorMetrics::new(&registry);
        // Without a value a metric with labels is not encoded.
        metrics.dead_letters.get_or_create(&[("reason", "Empty")]).inc();
        metrics.set_lag(0, 5);
        assert_eq!(document::encoded(&registry.encode().unwrap()), document::documented("Processor"));
    }
}
