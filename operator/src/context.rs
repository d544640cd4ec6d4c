//! What every reconciliation shares.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use kube::Client;
use tokio::sync::Semaphore;

use crate::{
    build::WorkerSettings,
    compiler::Compiler,
    kafka::TopicAdmin,
    memory::Memory,
    reconcile::apply::IndexBuilds,
    reconcile::report::Reports,
    reconcile::validate::Settings,
    rollouts::Rollouts,
    scale::Scaling,
    telemetry::metrics::{Metrics, PipelineStore},
    timescale::Databases,
};

/// The clients, the settings and the memory of the operator.
pub struct Context {
    /// The Kubernetes API.
    pub client: Client,
    /// The name of this operator's pod, which Events carry as their reporting instance.
    pub instance: String,
    /// What workers say of themselves.
    pub reports: Arc<dyn Reports>,
    /// What judges programs.
    pub compiler: Compiler,
    /// Kafka.
    pub kafka: Arc<dyn TopicAdmin>,
    /// TimescaleDB.
    pub databases: Arc<dyn Databases>,
    /// The operator's own metrics.
    pub metrics: Metrics,
    /// All pipelines, once they are watched.
    pub watched: OnceLock<Vec<PipelineStore>>,
    /// What is remembered of each pipeline.
    pub memory: Memory,
    /// How many pipelines at rest may be looked at besides those that are new or have changed.
    pub looks_at_rest: Semaphore,
    /// The pipelines that are scaled.
    pub scaling: Arc<Scaling>,
    /// The pipelines whose workers are being replaced.
    pub rollouts: Rollouts,
    /// The indexes that are being made.
    pub builds: IndexBuilds,
    /// What decides what a spec means.
    pub settings: Settings,
    /// What shapes the objects of every pipeline.
    pub workers: WorkerSettings,
    /// How often Kafka and the database are compared with the spec.
    pub resync: Duration,
}
