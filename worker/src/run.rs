//! One worker from start to end: read the configuration, open the HTTP endpoint, move data until told to stop.
//!
//! The HTTP endpoint and the signals have a thread of their own, so that they answer while the data path is busy.

use std::{net::SocketAddr, path::PathBuf};

use access::database::REFUSED_VARIABLES;
use clap::Args;
use crds::{names, worker::Component};
use snafu::{ResultExt, Snafu};

use crate::{
    config,
    health::Health,
    http,
    secrets::Secrets,
    shutdown::{self, Shutdown},
    telemetry::{self, Metrics},
    topology,
};

/// Why a worker ended.
#[derive(Debug, Snafu)]
pub enum Error {
    /// A variable of the environment would change connections to the database behind the configuration's back.
    #[snafu(display(
        "the environment sets {variable}; connections are configured by the pipeline alone, so unset it"
    ))]
    Environment {
        /// The variable.
        variable: &'static str,
    },
    /// The configuration cannot be used.
    #[snafu(display("failed to read the configuration"))]
    Config {
        /// What is wrong with it.
        source: config::Error,
    },
    /// The HTTP endpoint or the signal handlers could not be set up.
    #[snafu(display("failed to start the HTTP endpoint at {address}"))]
    Http {
        /// Where it should answer.
        address: SocketAddr,
        /// Why it does not.
        source: std::io::Error,
    },
    /// The data path failed.
    #[snafu(display("failed to run the {component}"))]
    Topology {
        /// Which half of the data path.
        component: Component,
        /// Why it failed.
        source: topology::Error,
    },
}

/// What the command line says.
#[derive(Args, Debug)]
pub struct Options {
    /// The configuration that the operator wrote.
    #[arg(long, default_value = names::WORKER_CONFIG_PATH)]
    pub config: PathBuf,
    /// Where /livez, /readyz, /metrics and /status are answered.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], names::WORKER_HTTP_PORT)))]
    pub http_address: SocketAddr,
    /// Where the Secrets are mounted, each in a directory of its own.
    #[arg(long, default_value = names::SECRETS_DIR)]
    pub secrets: PathBuf,
    /// Where the volume of the bridge's spool is mounted, where the configuration has one.
    #[arg(long, default_value = names::SPOOL_DIR)]
    pub spool: PathBuf,
    /// The name of the pod that this worker runs in. Bridges that share their subscriptions find their ordinal in it.
    #[arg(long)]
    pub pod: Option<String>,
    /// A directory that outlives this container, for what killed it.
    #[arg(long, default_value = names::STATE_DIR)]
    pub state: PathBuf,
}

/// What every part of a worker shares.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where parts say whether they do their work.
    pub health: Health,
    /// Where parts register their metrics.
    pub metrics: Metrics,
    /// Tells parts when to stop.
    pub shutdown: Shutdown,
    /// Where credentials and certificates are.
    pub secrets: Secrets,
    /// Where the spool's volume is mounted.
    pub spool: PathBuf,
    /// A directory that outlives this container.
    pub state: PathBuf,
}

/// Runs the worker until SIGTERM or SIGINT; blocks the calling thread.
pub fn run(component: Component, options: Options) -> Result<(), Error> {
    let Options { config, http_address, secrets, spool, pod, state } = options;
    telemetry::start_logging();
    if let Some(variable) = REFUSED_VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some()) {
        return EnvironmentSnafu { variable }.fail();
    }
    let config = config::read(&config, component, pod.as_deref()).context(ConfigSnafu)?;
    let (shutdown_trigger, shutdown) = shutdown::channel();
    let context = Context {
        health: Health::new(component),
        metrics: Metrics::default(),
        shutdown,
        secrets: Secrets::new(secrets),
        spool,
        state,
    };
    http::spawn(http_address, context.health.clone(), context.metrics.clone(), shutdown_trigger)
        .context(HttpSnafu { address: http_address })?;
    tracing::info!(
        %component,
        namespace = config.pipeline.namespace,
        pipeline = config.pipeline.name,
        version = env!("CARGO_PKG_VERSION"),
        "The worker started"
    );
    topology::run(config, context).context(TopologySnafu { component })?;
    tracing::info!(%component, "The worker stopped");
    Ok(())
}
