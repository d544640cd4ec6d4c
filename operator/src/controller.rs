//! Watches the pipelines and their children, and reconciles what changes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{
    IoTPipeline,
    names::{FIELD_MANAGER, MANAGED_BY_LABEL},
};
use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, Service},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::ObjectRef,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::error::RecvError;

use crate::{context::Context, error::Error, memory, reconcile::reconcile, scale::Scaling, telemetry::chain};

/// Events of one object that come within this time lead to one reconciliation.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// A deletion is bounded in time, so it is tried again at least so often.
const CLEANUP_RETRY: Duration = Duration::from_secs(15);

/// What watches the pipelines of one scope.
pub type PipelineController = Controller<DeserializeGuard<IoTPipeline>>;

/// A controller for one namespace, or for all. Once `stop` resolves it begins nothing new and ends what has begun.
pub fn controller(
    context: &Context,
    namespace: Option<&str>,
    concurrency: u16,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> PipelineController {
    let client = &context.client;
    let children =
        watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={FIELD_MANAGER}")).any_semantic();
    Controller::new(api(client, namespace), watcher::Config::default().any_semantic())
        .with_config(controller::Config::default().debounce(DEBOUNCE).concurrency(concurrency))
        .owns(api::<ConfigMap>(client, namespace), children.clone())
        .owns(api::<Deployment>(client, namespace), children.clone())
        .owns(api::<NetworkPolicy>(client, namespace), children.clone())
        .owns(api::<PodDisruptionBudget>(client, namespace), children.clone())
        .owns(api::<Service>(client, namespace), children.clone())
        .owns(api::<StatefulSet>(client, namespace), children)
        .reconcile_on(scaled(&context.scaling, namespace))
        .graceful_shutdown_on(stop)
}

/// The pipelines of this scope whose number of processors was decided anew.
fn scaled(
    scaling: &Scaling,
    namespace: Option<&str>,
) -> impl Stream<Item = ObjectRef<DeserializeGuard<IoTPipeline>>> + Send + 'static {
    let scope = namespace.map(str::to_owned);
    stream::unfold(scaling.changes(), |mut changes| async {
        loop {
            match changes.recv().await {
                Ok(change) => return Some((change, changes)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    })
    .filter_map(move |(namespace, name)| {
        let is_in_scope = scope.as_ref().is_none_or(|scope| *scope == namespace);
        future::ready(is_in_scope.then(|| ObjectRef::new(&name).within(&namespace)))
    })
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
pub fn reconciliations(controller: PipelineController, context: Arc<Context>) -> impl Stream<Item = ()> {
    controller.run(observed_reconcile, error_policy, Arc::clone(&context)).map(move |result| match result {
        Ok((pipeline, action)) => tracing::debug!(%pipeline, ?action, "Reconciled"),
        Err(controller::Error::ObjectNotFound(pipeline)) => {
            tracing::debug!(%pipeline, "The pipeline is gone");
            let key = (pipeline.namespace.clone().unwrap_or_default(), pipeline.name.clone());
            context.memory.forget(&key);
            context.scaling.forget(&key);
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
) -> Result<Action, Error> {
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
fn error_policy(object: Arc<DeserializeGuard<IoTPipeline>>, error: &Error, context: Arc<Context>) -> Action {
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let failures = context.memory.update(&key, |remembered| {
        remembered.failures = remembered.failures.saturating_add(1);
        remembered.failures
    });
    match error {
        Error::ReadPipeline { .. } => Action::await_change(),
        Error::CleanUp { .. } => Action::requeue(memory::backoff(failures).min(CLEANUP_RETRY)),
        _ => Action::requeue(memory::backoff(failures)),
    }
}
