//! The operator's process: set up TLS and logs, run, and say why it ended.

use std::process::ExitCode;

use clap::Parser;
use operator::{args::Args, probe::Probe, run, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    // More than one provider may be linked in; without a choice the first connection would panic.
    let provider = rustls::crypto::ring::default_provider().install_default();
    telemetry::start_logging();
    if provider.is_err() {
        tracing::warn!("Another TLS provider was installed before; it is used");
    }
    if let Some(probe) = Probe::asked_for(std::env::args_os()) {
        return match probe.run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(error = %telemetry::chain(&error), "The probe failed");
                ExitCode::FAILURE
            }
        };
    }
    match run::run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %telemetry::chain(&error), "The operator failed");
            // Without waiting for what still runs on other threads: where the Lease is lost, another operator acts.
            std::process::exit(1)
        }
    }
}
