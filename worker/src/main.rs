//! The worker's command line: which half to be, and where its configuration is.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use crds::{names, worker::Component};
use worker::run;

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

#[derive(Args)]
struct Options {
    /// The configuration that the operator wrote.
    #[arg(long, default_value = names::WORKER_CONFIG_PATH)]
    config: PathBuf,
    /// Where /livez, /readyz, /metrics and /status are answered.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], names::WORKER_HTTP_PORT)))]
    http_address: SocketAddr,
}

fn main() -> ExitCode {
    let (component, Options { config, http_address }) = match Arguments::parse().command {
        Command::Bridge(options) => (Component::Bridge, options),
        Command::Process(options) => (Component::Processor, options),
    };
    match run::run(component, &config, http_address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %worker::telemetry::chain(&error), "The worker failed");
            ExitCode::FAILURE
        }
    }
}
