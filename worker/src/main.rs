//! The worker's command line: which half to be, and where its configuration is.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use crds::worker::Component;
use worker::run::{self, Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Moves the data of one IoTPipeline.
#[derive(Parser)]
#[command(name = "iotpipeline-worker", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// From MQTT to Kafka.
    Bridge(Options),
    /// From Kafka to TimescaleDB.
    Process(Options),
}

fn main() -> ExitCode {
    let (component, options) = match Arguments::parse().command {
        Command::Bridge(options) => (Component::Bridge, options),
        Command::Process(options) => (Component::Processor, options),
    };
    match run::run(component, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %worker::telemetry::chain(&error), "The worker failed");
            ExitCode::FAILURE
        }
    }
}
