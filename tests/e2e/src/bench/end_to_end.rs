//! How long a message takes from PUBLISH until another connection sees its row, and what both workers use
//! meanwhile.
//!
//! Every message tells when it was published. A reader looks at the positions every few milliseconds: they move in
//! the transaction of the rows, so a record below a position is a row that everybody sees. The topic tells
//! afterwards which message is which record. So all messages are measured, up to how often the reader looks.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use snafu::{OptionExt, ResultExt, whatever};
use sqlx::PgConnection;
use tokio::{sync::watch, time::sleep};

use super::{
    Bench, bridge,
    load::publish,
    process::Usage,
    processor,
    reading::{PARTITIONS, micros_of},
    store::next_offsets,
};
use crate::{Result, kafka::Record};

const TOPIC: &str = "bench-end-to-end";

/// How often the reader looks. Times are too long by half of this on average.
const LOOK: Duration = Duration::from_millis(2);

/// What a run came to.
#[derive(Debug)]
pub struct Run {
    /// The time of each message, sorted, milliseconds.
    pub latencies: Vec<f64>,
    /// What the bridge used.
    pub bridge: Usage,
    /// What the processor used.
    pub processor: Usage,
}

/// What was seen in the database and when: for each partition the moments, microseconds since 1970, at which its
/// position was seen to be another one.
type Sightings = BTreeMap<i32, Vec<(i64, i64)>>;

/// Publishes for so long at so many messages a second.
///
/// # Errors
/// Fails where not every message becomes one row.
pub async fn run(bench: &mut Bench, per_second: u64, seconds: u64) -> Result<Run> {
    let messages = per_second * seconds;
    bench.kafka.delete(TOPIC).await?;
    bench.kafka.create_with(TOPIC, PARTITIONS).await?;
    bench.store.begin_anew().await?;
    let client_id = format!("bench-{}", Timestamp::now().as_microsecond());
    let mut bridge = bench.start(TOPIC, bridge::config(&bench.broker, &client_id))?;
    let mut processor = bench.start(TOPIC, processor::config(bench.store.is_unique))?;
    bridge::wait_until_ready(&mut bridge).await?;
    bridge::wait_until_ready(&mut processor).await?;

    let (stop, stopped) = watch::channel(false);
    let reader = tokio::spawn(watch_positions(bench.store.connect().await?, stopped));
    publish(&bench.broker, messages, Some(per_second)).await?;
    let store = &mut bench.store;
    processor.wait_until("every message is a row", async |_| Ok(store.stored().await? >= messages)).await?;
    stop.send_replace(true);
    let sightings = reader.await.whatever_context("failed to wait for the reader")??;
    let (bridge_usage, processor_usage) = (bridge.usage()?, processor.usage()?);
    bridge.stop().await?;
    processor.stop().await?;
    store.check(messages).await?;

    let records = bench.kafka.records(TOPIC).await?;
    bench.kafka.delete(TOPIC).await?;
    let mut latencies = Vec::with_capacity(records.len());
    for record in &records {
        latencies.push(latency(record, &sightings).whatever_context("a record was never seen as a row")?);
    }
    if latencies.len() as u64 != messages {
        whatever!("{} records, where {messages} should be", latencies.len());
    }
    latencies.sort_by(f64::total_cmp);
    Ok(Run { latencies, bridge: bridge_usage, processor: processor_usage })
}

async fn watch_positions(mut connection: PgConnection, stopped: watch::Receiver<bool>) -> Result<Sightings> {
    let mut sightings = Sightings::new();
    loop {
        let is_last = *stopped.borrow();
        let positions = next_offsets(&mut connection).await?;
        let now = Timestamp::now().as_microsecond();
        for (partition, position) in positions {
            let seen = sightings.entry(partition).or_default();
            if seen.last().is_none_or(|(_, last)| *last != position) {
                seen.push((now, position));
            }
        }
        if is_last {
            return Ok(sightings);
        }
        sleep(LOOK).await;
    }
}

/// From what the payload tells until its row was first seen, milliseconds.
fn latency(record: &Record, sightings: &Sightings) -> Option<f64> {
    let seen = sightings.get(&record.partition)?;
    let first = seen.partition_point(|(_, next_offset)| *next_offset <= record.offset);
    let (seen_at, _) = seen.get(first)?;
    Some((seen_at - micros_of(&record.value)?) as f64 / 1_000.0)
}

/// The value below which this share of the sorted values lies.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_row_once_its_position_is_behind_it() {
        let sightings = Sightings::from([(3, vec![(1_000, 0), (5_000, 2), (9_000, 7)])]);
        let record = |offset| Record { partition: 3, offset, key: None, value: b"{\"ts\":2000}".to_vec() };
        assert_eq!(latency(&record(1), &sightings), Some(3.0));
        assert_eq!(latency(&record(2), &sightings), Some(7.0));
        assert_eq!(latency(&record(7), &sightings), None, "not seen");
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&sorted, 0.5), percentile(&sorted, 0.99)), (101.0, 199.0));
        assert_eq!(percentile(&[4.0], 0.99), 4.0);
    }
}
