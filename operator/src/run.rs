//! The operator from start to end: answer HTTP, wait for the Lease, reconcile while it is held, stop when told to.

use std::{
    env, io,
    net::SocketAddr,
    process,
    sync::{Arc, OnceLock},
};

use access::database::REFUSED_VARIABLES;
use crds::names::{API_GROUP, FIELD_MANAGER};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream,
};
use snafu::{ResultExt, Snafu};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, watch},
};

use crate::{
    args::Args,
    build::{WorkerImage, WorkerSettings},
    compiler::{self, Compiler},
    context::Context,
    controller::{controller, reconciliations},
    kafka::KafkaClient,
    kubernetes,
    lease::Election,
    memory::Memory,
    reconcile::{apply::IndexBuilds, report::HttpReports, validate::Settings},
    rollouts::Rollouts,
    scale::probe,
    telemetry::{
        http::{self, Phase},
        metrics::Metrics,
    },
    timescale::DirectDatabases,
};

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
        source: kubernetes::Error,
    },
    /// The compiler of pipelines' programs is not beside the operator's program.
    #[snafu(display("failed to find the compiler of pipelines' programs"))]
    Compiler {
        /// Why not.
        source: compiler::Error,
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
    /// Another operator holds the Lease now.
    #[snafu(display("lost the Lease to {holder}; this operator acts no more, and starts again to stand by"))]
    LeaseLost {
        /// The other operator.
        holder: String,
    },
    /// The signal handlers could not be set up.
    #[snafu(display("failed to listen for signals"))]
    Signals {
        /// Why not.
        source: io::Error,
    },
}

/// What part of all pipelines that are looked at at once may be at rest: one of so many.
const LOOKS_AT_REST: usize = 4;

/// Resolves when the operator is asked to stop.
type Stop = Shared<BoxFuture<'static, ()>>;

/// What the operator reconciles, and how much of it at once.
struct Scopes {
    /// The watched namespaces; `None` for all of them.
    namespaces: Vec<Option<String>>,
    concurrency: u16,
}

/// Runs the operator until SIGTERM or SIGINT. Reconciliations that have begun are finished.
///
/// # Errors
/// Fails where the operator cannot start, its HTTP endpoint breaks, or another operator took over.
pub async fn run(args: Args) -> Result<(), Error> {
    if let Some(variable) = REFUSED_VARIABLES.into_iter().find(|name| env::var_os(name).is_some()) {
        return EnvironmentSnafu { variable }.fail();
    }
    // In full, so that no option is forgotten.
    let Args {
        cluster_name,
        watch_namespaces,
        watch_any_namespace,
        worker_image,
        worker_image_pull_policy,
        worker_ingress_from,
        http_address,
        leader_election,
        lease_name,
        pod_name,
        pod_namespace,
        concurrency,
        max_concurrent_rollouts,
        resync,
    } = args;
    let stop = stop_signal().context(SignalsSnafu)?;
    let client = kubernetes::client().await.context(ClientSnafu)?;
    let context = Arc::new(Context {
        instance: pod_name.clone().unwrap_or_else(|| FIELD_MANAGER.to_owned()),
        client: client.clone(),
        reports: Arc::new(HttpReports::new().context(WorkersSnafu)?),
        compiler: Compiler::beside_this_program().context(CompilerSnafu)?,
        kafka: Arc::new(KafkaClient::default()),
        databases: Arc::new(DirectDatabases::default()),
        metrics: Metrics::default(),
        watched: OnceLock::new(),
        memory: Memory::default(),
        looks_at_rest: Semaphore::new(usize::from(concurrency).div_ceil(LOOKS_AT_REST)),
        scaling: Arc::default(),
        rollouts: Rollouts::new(max_concurrent_rollouts),
        builds: IndexBuilds::default(),
        settings: Settings { cluster_name },
        workers: WorkerSettings {
            image: WorkerImage { reference: worker_image, pull_policy: worker_image_pull_policy },
            ingress_from: worker_ingress_from.map(|peers| peers.0),
        },
        resync,
    });
    let namespaces =
        if watch_any_namespace { vec![None] } else { watch_namespaces.into_iter().map(Some).collect() };
    let scopes = Scopes { namespaces, concurrency };
    // The command line has both where it asks for an election.
    let election = pod_name
        .zip(pod_namespace)
        .filter(|_| leader_election)
        .map(|(pod, namespace)| Election::new(client, &namespace, &lease_name, &pod));
    tracing::info!(
        scopes = ?scopes.namespaces,
        version = env!("CARGO_PKG_VERSION"),
        api_group = API_GROUP,
        "The operator starts"
    );

    let listener = TcpListener::bind(http_address).await.context(HttpSnafu { address: http_address })?;
    let (phase, phases) = watch::channel(Phase::Starting);
    let served = http::serve(listener, context.metrics.clone(), phases, stop.clone())
        .map(|served| served.context(HttpSnafu { address: http_address }));
    tokio::try_join!(act_as_leader(election, &scopes, &context, &phase, stop), served)?;
    tracing::info!("The operator stopped");
    Ok(())
}

/// Waits for the Lease, if any, and acts for as long as it is held.
async fn act_as_leader(
    election: Option<Election>,
    scopes: &Scopes,
    context: &Arc<Context>,
    phase: &watch::Sender<Phase>,
    stop: Stop,
) -> Result<(), Error> {
    let Some(mut election) = election else {
        act(scopes, context, phase, stop).await;
        return Ok(());
    };
    let mut last_holder = String::new();
    let stands_by = |holder: &str| {
        if holder != last_holder {
            tracing::info!(holder, "Standing by");
            holder.clone_into(&mut last_holder);
        }
        phase.send_replace(Phase::StandingBy);
    };
    let tenure = tokio::select! {
        tenure = election.acquire(stands_by, end_at_once) => tenure,
        () = stop.clone() => return Ok(()),
    };
    tracing::info!("Leading");
    tokio::select! {
        () = act(scopes, context, phase, stop) => {}
        holder = election.keep(&tenure) => return LeaseLostSnafu { holder }.fail(),
    }
    election.release(tenure).await;
    Ok(())
}

/// Reconciles until told to stop.
async fn act(scopes: &Scopes, context: &Arc<Context>, phase: &watch::Sender<Phase>, stop: Stop) {
    let (stores, reconciliations): (Vec<_>, Vec<_>) = scopes
        .namespaces
        .iter()
        .map(|namespace| {
            let controller = controller(context, namespace.as_deref(), scopes.concurrency, stop.clone());
            (controller.store(), reconciliations(controller, Arc::clone(context)).boxed())
        })
        .unzip();
    context.metrics.record_leader(true);
    context.metrics.count_pipelines(stores.clone());
    context.watched.get_or_init(|| stores.clone());
    context.metrics.tell_decisions(Arc::clone(&context.scaling));
    phase.send_replace(Phase::Acting(stores));
    tokio::select! {
        () = stream::select_all(reconciliations).for_each(|()| async {}) => {}
        () = probe::run(context) => {}
    }
}

/// Another operator may act in a few seconds, so nothing of this process may go on: not even what would run when it
/// exits in good order.
fn end_at_once() {
    tracing::error!("The Lease could not be renewed in time; the operator ends, so that another can act");
    process::abort();
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
