//! The only file that joins source → transform → sink.

mod bridge;
mod processor;

use crds::worker::{RoleConfig, WorkerConfig};
use snafu::{ResultExt, Snafu};

use crate::run::Context;

/// Why a data path ended before it was asked to.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The runtime of the data path could not be built.
    #[snafu(display("failed to start the data path"))]
    Runtime {
        /// Why not.
        source: std::io::Error,
    },
    /// The processor failed.
    #[snafu(transparent)]
    Processor {
        /// How.
        source: processor::Error,
    },
}

/// Moves data until `context.shutdown` is requested; blocks the calling thread.
pub fn run(config: WorkerConfig, context: Context) -> Result<(), Error> {
    let WorkerConfig { version: _, pipeline, kafka, role } = config;
    match role {
        RoleConfig::Bridge(bridge) => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context(RuntimeSnafu)?;
            runtime.block_on(bridge::run(kafka, bridge, context));
            // A producer that is still letting go of its records must not hold the process.
            runtime.shutdown_background();
            Ok(())
        }
        RoleConfig::Processor(processor) => Ok(processor::run(pipeline, kafka, processor, context)?),
    }
}
