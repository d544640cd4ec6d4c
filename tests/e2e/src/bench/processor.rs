//! How fast the processor drains a topic, beside `psql`, which copies the same rows into the same table.

use std::time::Instant;

use crds::{
    pipeline::{CodecType, OnOffsetLost},
    worker::{AcceptTimeConfig, DatabaseTlsConfig, ProcessorConfig, RoleConfig, StartFrom},
};

use super::{
    Bench,
    process::Usage,
    reading::{PARTITIONS, PROGRAM, table},
    store::rows_file,
};
use crate::Result;

/// The topic that is drained.
pub const TOPIC: &str = "bench-processor";

/// What one run of the processor came to.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// From the assignment of the partitions to the last COMMIT.
    pub rows_per_second: f64,
    /// What the process used from its start on.
    pub usage: Usage,
}

/// What the processor is told, with a consumer group that has not read anything yet.
pub fn config(is_unique: bool) -> RoleConfig {
    RoleConfig::Processor(ProcessorConfig {
        consumer_group: format!("bench-{}", jiff::Timestamp::now().as_microsecond()),
        start_from: StartFrom::Earliest,
        on_offset_lost: OnOffsetLost::Fail,
        max_rejected_percent: 100,
        codec: CodecType::Json,
        has_bridge: true,
        program: Some(PROGRAM.to_owned()),
        accept_time: AcceptTimeConfig::default(),
        database_tls: DatabaseTlsConfig::default(),
        table: table(is_unique),
    })
}

/// Drains the topic into a fresh table.
///
/// # Errors
/// Fails where not every message becomes one row.
pub async fn drain(bench: &mut Bench, messages: u64) -> Result<Drain> {
    bench.store.begin_anew().await?;
    let mut worker = bench.start(TOPIC, config(bench.store.is_unique))?;
    let begun = worker
        .wait_until("all partitions are assigned", async |worker| {
            let assigned = worker.status().map_or(0, |status| status.partitions.len());
            Ok(assigned == PARTITIONS as usize)
        })
        .await?;
    let store = &mut bench.store;
    let ended =
        worker.wait_until("every message is a row", async |_| Ok(store.stored().await? >= messages)).await?;
    let usage = worker.usage()?;
    worker.stop().await?;
    store.check(messages).await?;
    Ok(Drain { rows_per_second: per_second(messages, begun, ended), usage })
}

/// Has `psql` copy the rows that a processor wrote into a fresh table; answers its rows per second.
///
/// # Errors
/// Fails where it does not.
pub async fn copy(bench: &mut Bench, rows: u64) -> Result<f64> {
    bench.store.begin_anew().await?;
    let took = bench.store.copy_from(&rows_file(&bench.directory))?;
    bench.store.check(rows).await?;
    Ok(rows as f64 / took.as_secs_f64())
}

/// A rate.
pub fn per_second(count: u64, begun: Instant, ended: Instant) -> f64 {
    count as f64 / (ended - begun).as_secs_f64()
}
