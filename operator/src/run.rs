//! The operator from start to end: watch pipelines and their children, reconcile what changes, answer HTTP, stop
//! when told to.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use access::database::REFUSED_VARIABLES;
use crds::{
    IoTPipeline,
    names::{API_GROUP, FIELD_MANAGER, MANAGED_BY_LABEL},
};
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, future::Shared, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, Service},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        Controller,
        controller::{self, Action},
        events::{Recorder, Reporter},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use snafu::{ResultExt, Snafu};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    args::Args,
    build::WorkerImage,
    context::Context,
    error::Error as ReconcileError,
    kafka::KafkaClient,
    memory::{self, Memory},
    reconcile::{reconcile, validate::Settings},
    telemetry::{chain, http, metrics::Metrics},
    timescale::DirectDatabases,
};

/// Events of one object that come within this time lead to one reconciliation.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// A deletion is bounded in time, so it is tried again at least so often.
const CLEANUP_RETRY: Duration = Duration::from_secs(15);

/// Why the operator ended.
#[derive(Debug, Snafu)]
pub enum Error {
    /// A variable of the environment would change every connection to a database.
    #[snafu(display(
        "the environment sets {variable}; connections are configured by pipelines alone, so unset it"
    ))]
    Environment {
        /// The variable.
        variable: &'static str,
    },
    /// There is no way to the Kubernetes API.
    #[snafu(display("failed to set up a client for the Kubernetes API"))]
    Client {
        /// Why not.
        source: kube::Error,
    },
    /// The client for the workers could not be made.
    #[snafu(display("failed to set up a client for the workers"))]
    Workers {
        /// Why not.
        source: reqwest::Error,
    },
    /// The HTTP endpoint could not be opened, or failed.
    #[snafu(display("failed to serve HTTP at {address}"))]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The signal handlers could not be set up.
    #[snafu(display("failed to listen for signals"))]
    Signals {
        /// Why not.
        source: io::Error,
    },
}

/// Resolves when the operator is asked to stop.
type Stop = Shared<BoxFuture<'static, ()>>;

/// Runs the operator until SIGTERM or SIGINT. Reconciliations that have begun are finished.
///
/// # Errors
/// Fails where the operator cannot start, or its HTTP endpoint breaks.
pub async fn run(args: Args) -> Result<(), Error> {
    if let Some(variable) = REFUSED_VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some()) {
        return EnvironmentSnafu { variable }.fail();
    }
    // In full, so that no option is forgotten.
    let Args {
        cluster_name,
        watch_namespaces,
        watch_any_namespace,
        worker_image,
        worker_image_pull_policy,
        http_address,
        concurrency,
        resync,
    } = args;
    let stop = stop_signal().context(SignalsSnafu)?;
    let client = Client::try_default().await.context(ClientSnafu)?;
    let metrics = Metrics::default();
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER)),
        client: client.clone(),
        http: reqwest::Client::builder().no_proxy().build().context(WorkersSnafu)?,
        kafka: Arc::new(KafkaClient::default()),
        databases: Arc::new(DirectDatabases),
        metrics: metrics.clone(),
        memory: Memory::default(),
        settings: Settings { cluster_name },
        worker_image: WorkerImage { reference: worker_image, pull_policy: worker_image_pull_policy },
        resync,
    });

    let scopes: Vec<Option<String>> =
        if watch_any_namespace { vec![None] } else { watch_namespaces.into_iter().map(Some).collect() };
    tracing::info!(
        ?scopes,
        version = env!("CARGO_PKG_VERSION"),
        api_group = API_GROUP,
        "The operator starts"
    );
    let (stores, reconciliations): (Vec<_>, Vec<_>) = scopes
        .iter()
        .map(|scope| {
            let controller = controller(&client, scope.as_deref(), concurrency, stop.clone());
            (controller.store(), reconciliations(controller, Arc::clone(&context)).boxed())
        })
        .unzip();
    metrics.count_pipelines(stores.clone());

    let listener = TcpListener::bind(http_address).await.context(HttpSnafu { address: http_address })?;
    let served = http::serve(listener, metrics, stores, stop);
    let watched = stream::select_all(reconciliations).for_each(|()| async {}).map(Ok);
    tokio::try_join!(watched, served).context(HttpSnafu { address: http_address })?;
    tracing::info!("The operator stopped");
    Ok(())
}

type PipelineController = Controller<DeserializeGuard<IoTPipeline>>;

fn controller(client: &Client, namespace: Option<&str>, concurrency: u16, stop: Stop) -> PipelineController {
    let children =
        watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={FIELD_MANAGER}")).any_semantic();
    Controller::new(api(client, namespace), watcher::Config::default().any_semantic())
        .with_config(controller::Config::default().debounce(DEBOUNCE).concurrency(concurrency))
        .owns(api::<ConfigMap>(client, namespace), children.clone())
        .owns(api::<Deployment>(client, namespace), children.clone())
        .owns(api::<PodDisruptionBudget>(client, namespace), children.clone())
        .owns(api::<Service>(client, namespace), children.clone())
        .owns(api::<StatefulSet>(client, namespace), children)
        .graceful_shutdown_on(stop)
}

/// The namespaced API of a kind, in one namespace or in all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Reconciles whatever the controller says; this is where every result is told.
fn reconciliations(controller: PipelineController, context: Arc<Context>) -> impl Stream<Item = ()> {
    controller.run(observed_reconcile, error_policy, Arc::clone(&context)).map(move |result| match result {
        Ok((pipeline, action)) => tracing::debug!(%pipeline, ?action, "Reconciled"),
        Err(controller::Error::ObjectNotFound(pipeline)) => {
            tracing::debug!(%pipeline, "The pipeline is gone");
            context.memory.forget(&(pipeline.namespace.clone().unwrap_or_default(), pipeline.name.clone()));
        }
        Err(controller::Error::ReconcilerFailed(error, pipeline)) => {
            tracing::warn!(%pipeline, category = error.category(), error = %chain(&error), "Failed to reconcile; tried again later");
        }
        Err(error @ (controller::Error::QueueError(_) | controller::Error::RunnerError(_))) => {
            tracing::warn!(error = %chain(&error), "Failed to watch; tried again");
        }
    })
}

/// Reconciles one pipeline and takes its time.
async fn observed_reconcile(
    object: Arc<DeserializeGuard<IoTPipeline>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let started = Instant::now();
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let result = reconcile(object, Arc::clone(&context)).await;
    context.metrics.record_reconcile(started.elapsed(), result.as_ref().map(|_| ()));
    if result.is_ok() {
        context.memory.update(&key, |remembered| remembered.failures = 0);
    }
    result
}

/// When to try again what failed: later and later.
fn error_policy(
    object: Arc<DeserializeGuard<IoTPipeline>>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Action {
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let failures = context.memory.update(&key, |remembered| {
        remembered.failures = remembered.failures.saturating_add(1);
        remembered.failures
    });
    match error {
        ReconcileError::ReadPipeline { .. } => Action::await_change(),
        ReconcileError::CleanUp { .. } => Action::requeue(memory::backoff(failures).min(CLEANUP_RETRY)),
        _ => Action::requeue(memory::backoff(failures)),
    }
}

fn stop_signal() -> io::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move { first_of(&mut terminate, &mut interrupt).await }.boxed().shared())
}

async fn first_of(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("Asked to stop");
}
