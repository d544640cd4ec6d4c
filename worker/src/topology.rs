//! The only file that joins source → transform → sink.

use crds::worker::{BridgeConfig, KafkaConfig, ProcessorConfig, RoleConfig, WorkerConfig};
use snafu::Snafu;

use crate::run::Context;

/// Why a data path ended before it was asked to.
#[derive(Debug, Snafu)]
pub enum Error {}

/// Moves data until `context.shutdown` is requested; blocks the calling thread.
pub fn run(config: WorkerConfig, context: Context) -> Result<(), Error> {
    let WorkerConfig { version: _, pipeline: _, kafka, role } = config;
    match role {
        RoleConfig::Bridge(bridge) => run_bridge(kafka, bridge, context),
        RoleConfig::Processor(processor) => run_processor(kafka, processor, context),
    }
}

fn run_bridge(_kafka: KafkaConfig, _bridge: BridgeConfig, _context: Context) -> Result<(), Error> {
    Ok(())
}

fn run_processor(_kafka: KafkaConfig, _processor: ProcessorConfig, _context: Context) -> Result<(), Error> {
    Ok(())
}
