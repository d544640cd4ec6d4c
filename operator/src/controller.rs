//! Watches the pipelines and their children, and reconciles what changes.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::names::{FIELD_MANAGER, MANAGED_BY_LABEL};
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
    Api, Client, Resource,
    core::{ObjectMeta, PartialObjectMeta},
    runtime::{
        Controller, Predicate, PredicateConfig, WatchStreamExt,
        controller::{self, Action},
        predicates, reflector,
        reflector::{ObjectRef, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    context::Context,
    error::Error,
    memory::{self, PipelineKey, about, key_of},
    packed::Packed,
    reconcile::reconcile,
    telemetry::chain,
};

/// A reconciliation waits until nothing new has come for so long: what one write brings about comes in several events. A decision
/// about processors waits too, so it is short.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// When to look again at a pipeline at rest where others come first.
const AFTER_OTHERS: Duration = Duration::from_secs(5);

/// A deletion is bounded in time, so it is tried again at least so often.
const CLEANUP_RETRY: Duration = Duration::from_secs(15);

/// What watches the pipelines of one scope.
pub type PipelineController = Controller<Packed>;

/// How many objects come in one answer where all of them are listed: as many are in memory twice.
const PAGE: u32 = 25;

/// What `kubectl apply` remembers of an object, in the object.
const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A controller for one namespace, or for all. Once `stop` resolves it begins nothing new and ends what has begun.
///
/// Pipelines are kept in memory. Of their children only what changed is of interest, and of that only the owner: a
/// reconciliation reads the rest.
pub fn controller(
    context: &Context,
    namespace: Option<&str>,
    concurrency: u16,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> PipelineController {
    let client = &context.client;
    let writer = Writer::default();
    let store = writer.as_reader();
    let pipelines = watcher(api(client, namespace), watcher::Config::default().page_size(PAGE)).modify(prune);
    let pipelines = reflector(writer, pipelines).applied_objects();
    // The operator's own status is no news.
    let news = predicates::generation.combine(predicates::annotations).combine(predicates::finalizers);
    let pipelines = pipelines.predicate_filter(news, PredicateConfig::default());
    Controller::for_stream(pipelines, store)
        .with_config(controller::Config::default().debounce(DEBOUNCE).concurrency(concurrency))
        .owns_stream(children::<ConfigMap>(client, namespace))
        .owns_stream(children::<Deployment>(client, namespace))
        .owns_stream(children::<NetworkPolicy>(client, namespace))
        .owns_stream(children::<PodDisruptionBudget>(client, namespace))
        .owns_stream(children::<Service>(client, namespace))
        .owns_stream(children::<StatefulSet>(client, namespace))
        .reconcile_on(told(context.scaling.changes(), namespace))
        .reconcile_on(told(context.rollouts.turns(), namespace))
        .graceful_shutdown_on(stop)
}

/// Leaves out what nobody here reads and takes half of the memory.
fn prune(pipeline: &mut Packed) {
    let metadata = pipeline.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED_ANNOTATION);
    }
}

/// The metadata of the children of one kind, whenever one comes, changes or goes.
fn children<K>(
    client: &Client,
    namespace: Option<&str>,
) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>> + Send + 'static
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
{
    let managed = format!("{MANAGED_BY_LABEL}={FIELD_MANAGER}");
    let config = watcher::Config::default().labels(&managed).page_size(PAGE);
    watcher(api::<PartialObjectMeta<K>>(client, namespace), config).touched_objects()
}

/// The pipelines of this scope that somebody tells of: how many workers there shall be was decided anew, or it is their turn.
fn told(
    pipelines: broadcast::Receiver<PipelineKey>,
    namespace: Option<&str>,
) -> impl Stream<Item = ObjectRef<Packed>> + Send + 'static {
    let scope = namespace.map(str::to_owned);
    stream::unfold(pipelines, |mut pipelines| async {
        loop {
            match pipelines.recv().await {
                Ok(pipeline) => return Some((pipeline, pipelines)),
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
    controller.run(reconcile_in_turn, error_policy, Arc::clone(&context)).map(move |result| match result {
        Ok((pipeline, action)) => tracing::debug!(%pipeline, ?action, "Reconciled"),
        Err(controller::Error::ObjectNotFound(pipeline)) => {
            tracing::debug!(%pipeline, "The pipeline is gone");
            let key = (pipeline.namespace.clone().unwrap_or_default(), pipeline.name.clone());
            context.memory.forget(&key);
            context.scaling.forget(&key);
            context.rollouts.forget(&key);
        }
        Err(controller::Error::ReconcilerFailed(error, pipeline)) => {
            tracing::warn!(%pipeline, category = error.category(), error = %chain(&error), "Failed to reconcile; tried again later");
        }
        Err(error @ (controller::Error::QueueError(_) | controller::Error::RunnerError(_))) => {
            tracing::warn!(error = %chain(&error), "Failed to watch; tried again");
        }
    })
}

/// Reconciles one pipeline and takes its time; later, where it is at rest and others come first.
///
/// # Errors
/// Those of [`reconcile`].
pub async fn reconcile_in_turn(object: Arc<Packed>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let key = key_of(object.as_ref());
    let rests_until = context.memory.recall(&key).rests_until;
    let look_at_rest =
        is_at_rest(object.meta(), rests_until, started).then(|| context.looks_at_rest.try_acquire());
    if let Some(Err(_)) = look_at_rest {
        return Ok(Action::requeue(about(AFTER_OTHERS)));
    }
    context.memory.update(&key, |remembered| remembered.rests_until = None);
    let result = reconcile(&object.unpack(), &context).await;
    context.metrics.record_reconcile(started.elapsed(), result.as_ref().map(|_| ()));
    if result.is_ok() {
        context.memory.update(&key, |remembered| remembered.failures = 0);
    }
    result
}

/// Whether nothing has happened to a pipeline but that it is time to look at it again.
fn is_at_rest(pipeline: &ObjectMeta, rests_until: Option<(Instant, i64)>, now: Instant) -> bool {
    pipeline.deletion_timestamp.is_none()
        && rests_until
            .is_some_and(|(until, generation)| until <= now && Some(generation) == pipeline.generation)
}

/// When to try again what failed: later and later.
fn error_policy(object: Arc<Packed>, error: &Error, context: Arc<Context>) -> Action {
    let key = key_of(object.as_ref());
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_reads_is_forgotten() {
        let mut pipeline: Packed = serde_json::from_value(json!({"metadata": {
            "name": "line",
            "annotations": {LAST_APPLIED_ANNOTATION: "{}", "iotpipeline.dev/approve": "drop"},
            "managedFields": [{"manager": "kubectl"}],
        }}))
        .unwrap();
        prune(&mut pipeline);
        let left = json!({"name": "line", "annotations": {"iotpipeline.dev/approve": "drop"}});
        assert_eq!(serde_json::to_value(pipeline.meta()).unwrap(), left);
    }

    #[test]
    fn a_pipeline_to_which_nothing_happens_is_at_rest() {
        let pipeline = ObjectMeta { generation: Some(7), ..ObjectMeta::default() };
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert!(is_at_rest(&pipeline, Some((now, 7)), now));
        assert!(!is_at_rest(&pipeline, None, now), "it is new, or failed");
        assert!(!is_at_rest(&pipeline, Some((now, 6)), now), "its spec is another one");
        assert!(!is_at_rest(&pipeline, Some((later, 7)), now), "something happens before its time");
        let going = ObjectMeta { deletion_timestamp: Some(Time(Timestamp::now())), ..pipeline };
        assert!(!is_at_rest(&going, Some((now, 7)), now));
    }
}
