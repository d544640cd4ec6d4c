//! First step: reads the world. The only one that does; it changes nothing.
//!
//! A dead Kafka or database is a value here, not an error, so that neither hides the other nor the workers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crds::{
    IoTPipeline,
    names::{self, COMPONENT_LABEL, FIELD_MANAGER, MANAGED_BY_LABEL, PIPELINE_LABEL, WORKER_CONFIG_KEY},
    pipeline::{Management, Mode},
    status::LagStatus,
    worker::{Component, RoleConfig, WorkerStatus},
};
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::{self, BoxFuture},
    stream,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
    runtime::reflector::Store,
};
use serde_json::Value;
use snafu::ResultExt;
use strum::IntoEnumIterator;

use super::validate::{self, Secrets};
use crate::{
    build::{ChildKind, pod, workload_kind},
    change::Note,
    context::Context,
    error::{Error, ListPodsSnafu, ReadChildrenSnafu, ReadNamespaceSnafu, ReadSecretSnafu},
    kafka::{self, ObservedTopic},
    memory::{PipelineKey, key_of},
    pipeline::{Pipeline, Topic},
    timescale::{self, ObservedRelation, ObservedTable, Session},
};

/// How many of a pipeline's objects are asked for at once. Each takes a connection to the API server meanwhile, and each
/// connection memory on both sides.
const OBJECTS_AT_ONCE: usize = 4;

/// How many workers are asked at once.
const WORKERS_AT_ONCE: usize = 32;

/// How often the lag is read for the status.
const LAG_PERIOD: Duration = Duration::from_secs(60);

/// How often chunks are measured; they become full more slowly.
const CHUNKS_PERIOD: Duration = Duration::from_secs(3600);

/// What there is of a pipeline's workers.
#[derive(Debug, Default)]
pub struct Workers {
    /// The objects that have the name of a child, be they one or not, and the ConfigMaps with the pipeline's label.
    pub children: Vec<LiveChild>,
    /// The pods.
    pub pods: Vec<WorkerPod>,
}

/// An object in the cluster.
#[derive(Clone, Debug)]
pub struct LiveChild {
    /// Its kind.
    pub kind: ChildKind,
    /// The object.
    pub object: DynamicObject,
}

/// A pod of a worker.
#[derive(Clone, Debug)]
pub struct WorkerPod {
    /// Which worker.
    pub component: Component,
    /// The pod.
    pub pod: Pod,
    /// What it says of itself, if it answers.
    pub report: Option<WorkerStatus>,
}

/// What there is in Kafka and in the database.
pub struct Stores {
    /// The topic, or why it could not be looked at.
    pub topic: Result<ObservedTopic, kafka::Error>,
    /// Another pipeline that manages the topic too, and came first.
    pub topic_manager: Option<PipelineKey>,
    /// The table, or why it could not be looked at.
    pub table: Result<ObservedTable, timescale::Error>,
    /// How far the table is behind, as it was read within the last minute or so.
    pub lag: Option<LagStatus>,
    /// What a person should know of the table's chunk interval, as it was measured within the last hour or so.
    pub chunk_advice: Option<Note>,
    /// When expired chunks were last dropped, by the hypertable's name.
    pub chunks_dropped_at: BTreeMap<String, Timestamp>,
}

/// Reads the Secrets that the spec refers to.
///
/// # Errors
/// A Secret that does not exist is no error; an API server that does not answer is one.
pub async fn fetch_secrets(object: &IoTPipeline, context: &Context) -> Result<Secrets, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let mut secrets = Secrets::new();
    for name in validate::referenced_secrets(&object.spec) {
        let secret = api.get_opt(&name).await.context(ReadSecretSnafu { name: &name })?;
        secrets.insert(name, secret);
    }
    Ok(secrets)
}

/// Reads the workers' objects and pods, and asks the pods for their status.
///
/// # Errors
/// A worker that does not answer is no error; an API server that does not answer is one.
pub async fn fetch_workers(object: &IoTPipeline, context: &Context) -> Result<Workers, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let children = ChildKind::iter().map(|kind| fetch_children(context, &namespace, &name, kind).boxed());
    let children = stream::iter(children).buffered(OBJECTS_AT_ONCE).try_concat();
    let (children, pods) = future::try_join(children, fetch_pods(context, &namespace, &name)).await?;
    Ok(Workers { children, pods })
}

/// Looks at the topic and at the table, and now and then at the lag between them. Gives back the connection to the
/// database too, for `apply`.
pub async fn fetch_stores(pipeline: &Pipeline, context: &Context) -> (Stores, Option<Box<dyn Session>>) {
    let remembered = context.memory.recall(&pipeline.key());
    let (topic, session) =
        future::join(fetch_topic(pipeline, context), context.databases.open(&pipeline.database)).await;
    let topic_key = topic.as_ref().ok().map(|observed| observed.key(&pipeline.topic.name));
    let (table, mut session) = match session {
        Ok(mut session) => match session.observe(&pipeline.table, topic_key.as_ref()).await {
            Ok(table) => (Ok(table), Some(session)),
            Err(error) => (Err(error), None),
        },
        Err(error) => (Err(error), None),
    };
    let topic_manager = topic_key.zip(table.as_ref().ok()).and_then(|(topic, table)| {
        context.memory.update(&pipeline.key(), |remembered| remembered.topic_is_known = true);
        if pipeline.mode == Mode::Observe {
            // It takes no topic from others, nor leaves its own to them.
            context.memory.other_manager(&pipeline.key(), &topic)
        } else if pipeline.topic.wanted.is_some() && table.topic_marker.as_ref() == Some(&pipeline.id) {
            context.memory.claim_topic(&pipeline.key(), &topic)
        } else {
            let manager = context.memory.disclaim_topic(&pipeline.key(), &topic);
            let would_adopt = table.topic_marker.is_none()
                && pipeline.topic.wanted.as_ref().is_some_and(|wanted| wanted.adopt);
            manager.or_else(|| would_adopt.then(|| unknown_manager(pipeline, context)).flatten())
        }
    });
    let chunk_advice = match remembered.chunk_advice {
        Some((measured_at, generation, advice))
            if generation == pipeline.generation && measured_at.elapsed() < CHUNKS_PERIOD =>
        {
            advice
        }
        before => {
            let before = before.and_then(|(_, _, advice)| advice);
            fetch_chunk_advice(pipeline, context, &table, before, session.as_deref_mut()).await
        }
    };
    let mut stores = Stores {
        topic,
        topic_manager,
        table,
        lag: None,
        chunk_advice,
        chunks_dropped_at: remembered.chunks_dropped_at,
    };
    stores.lag = match remembered.lag {
        // A topic that is to grow waits for the moment at which there is none, and whoever scales for the positions.
        Some((read_at, lag))
            if read_at.elapsed() < LAG_PERIOD
                && stores.ordered_growth(pipeline).is_none()
                && !context.scaling.lacks_positions(&pipeline.key()) =>
        {
            Some(lag)
        }
        _ => fetch_lag(pipeline, context, &stores, session.as_deref_mut()).await,
    };
    (stores, session)
}

/// Another pipeline that says that it manages this topic and was not looked at since the operator started: whether it has marked
/// the topic as its own may be noted in another database.
fn unknown_manager(pipeline: &Pipeline, context: &Context) -> Option<PipelineKey> {
    let pipelines = context.watched.get()?.iter().flat_map(Store::state);
    pipelines
        .filter_map(|object| {
            let object = object.0.as_ref().ok()?;
            let topic = &object.spec.kafka.topic;
            let says_so = object.spec.mode == Mode::Enforce
                && topic.management == Management::Managed
                && topic.name == pipeline.topic.name.as_str();
            says_so.then(|| key_of(object))
        })
        .find(|key| *key != pipeline.key() && !context.memory.recall(key).topic_is_known)
}

/// Where something would delete records, it matters whether there are any.
async fn fetch_topic(pipeline: &Pipeline, context: &Context) -> Result<ObservedTopic, kafka::Error> {
    let Topic { kafka, name, .. } = &pipeline.topic;
    let mut observed = context.kafka.observe(kafka, name).await?;
    if kafka::deletes_records(&pipeline.topic, &observed) {
        let watermarks = context.kafka.watermarks(kafka, name).await;
        observed.is_empty = watermarks
            .is_ok_and(|partitions| partitions.values().all(|partition| partition.low == partition.high));
    }
    Ok(observed)
}

/// Whether the namespace is being deleted, or gone.
///
/// # Errors
/// Fails where the API server does not answer.
pub async fn is_namespace_terminating(name: &str, context: &Context) -> Result<bool, Error> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    let namespace = api.get_opt(name).await.context(ReadNamespaceSnafu { name })?;
    Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

async fn fetch_children(
    context: &Context,
    namespace: &str,
    pipeline: &str,
    kind: ChildKind,
) -> Result<Vec<LiveChild>, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &kind.resource());
    let objects = match fixed_names(pipeline, kind) {
        // Also where it has lost its labels, or is somebody else's and must not be taken over.
        Some(names) => {
            let objects = stream::iter(&names).then(|name| api.get_opt(name));
            objects.try_filter_map(future::ok).try_collect().await
        }
        None => api.list(&with_labels_of(pipeline)).await.map(|labelled| labelled.items),
    };
    let objects = objects.context(ReadChildrenSnafu { kind })?;
    Ok(objects.into_iter().map(|object| LiveChild { kind, object }).collect())
}

/// The names of a pipeline's children of one kind; `None` where they tell the content. An object is asked for by its name
/// because a list by labels costs the API server a look at every object of the namespace.
fn fixed_names(pipeline: &str, kind: ChildKind) -> Option<Vec<String>> {
    let components: &[Component] = match kind {
        ChildKind::PersistentVolumeClaim => return Some(vec![names::spool_claim(pipeline)]),
        ChildKind::ConfigMap => return None,
        ChildKind::Service | ChildKind::NetworkPolicy | ChildKind::PodDisruptionBudget => {
            &[Component::Bridge, Component::Processor]
        }
        ChildKind::StatefulSet => &[Component::Bridge],
        ChildKind::Deployment => &[Component::Processor],
    };
    Some(components.iter().map(|component| names::worker_name(pipeline, *component)).collect())
}

async fn fetch_pods(context: &Context, namespace: &str, pipeline: &str) -> Result<Vec<WorkerPod>, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let pods = api.list(&with_labels_of(pipeline)).await.context(ListPodsSnafu)?;
    let asked: Vec<BoxFuture<'_, WorkerPod>> = pods
        .items
        .into_iter()
        .filter_map(|pod| Some((component_of(&pod)?, pod)))
        .map(|(component, pod)| {
            async move { WorkerPod { component, report: context.reports.ask(&pod).await, pod } }.boxed()
        })
        .collect();
    Ok(stream::iter(asked).buffered(WORKERS_AT_ONCE).collect().await)
}

fn component_of(pod: &Pod) -> Option<Component> {
    match pod.labels().get(COMPONENT_LABEL)?.as_str() {
        "bridge" => Some(Component::Bridge),
        "processor" => Some(Component::Processor),
        _ => None,
    }
}

/// The lag; `None` where it cannot be told now, which is tried again next time.
async fn fetch_lag(
    pipeline: &Pipeline,
    context: &Context,
    stores: &Stores,
    session: Option<&mut (dyn Session + '_)>,
) -> Option<LagStatus> {
    let (topic, table) = (stores.topic.as_ref().ok()?, stores.table.as_ref().ok()?);
    let session = session?;
    let RoleConfig::Processor(processor) = &pipeline.processor.config.role else { return None };
    if topic.topic.is_none() || !table.is_hypertable() || table.bookkeeping_version == 0 {
        return None;
    }
    let topic_key = topic.key(&pipeline.topic.name);
    let watermarks = context.kafka.watermarks(&pipeline.topic.kafka, &pipeline.topic.name).await;
    let positions = session.positions(&pipeline.table, &topic_key).await;
    let (watermarks, positions) = match (watermarks, positions) {
        (Ok(watermarks), Ok(positions)) => (watermarks, positions),
        (watermarks, positions) => {
            tracing::warn!(
                namespace = pipeline.id.namespace,
                pipeline = pipeline.id.name,
                kafka = watermarks.err().map(|error| error.to_string()),
                database = positions.err().map(|error| error.to_string()),
                "The lag could not be read"
            );
            return None;
        }
    };
    let offsets = positions.iter().map(|(partition, position)| (*partition, position.next_offset)).collect();
    context.scaling.note_positions(&pipeline.key(), offsets);
    let lag = timescale::lag(&watermarks, &positions, &processor.start_from, Timestamp::now());
    context.memory.update(&pipeline.key(), |remembered| remembered.lag = Some((Instant::now(), lag.clone())));
    Some(lag)
}

async fn fetch_chunk_advice(
    pipeline: &Pipeline,
    context: &Context,
    table: &Result<ObservedTable, timescale::Error>,
    before: Option<Note>,
    session: Option<&mut (dyn Session + '_)>,
) -> Option<Note> {
    let relation = table.as_ref().ok().and_then(|observed| observed.table.as_ref());
    let has_chunks = relation.is_some_and(ObservedRelation::has_chunks);
    let session = session.filter(|_| has_chunks && pipeline.table.wanted.is_some())?;
    let advice = match session.chunk_sizes(&pipeline.table).await {
        Ok(sizes) => timescale::advise_chunk_interval(&pipeline.table, &sizes, before.is_some()),
        Err(error) => {
            tracing::warn!(
                namespace = pipeline.id.namespace,
                pipeline = pipeline.id.name,
                database = error.to_string(),
                "The chunks could not be measured"
            );
            return before;
        }
    };
    let now = (Instant::now(), pipeline.generation, advice.clone());
    context.memory.update(&pipeline.key(), |remembered| remembered.chunk_advice = Some(now));
    advice
}

fn with_labels_of(pipeline: &str) -> ListParams {
    ListParams::default().labels(&format!("{MANAGED_BY_LABEL}={FIELD_MANAGER},{PIPELINE_LABEL}={pipeline}"))
}

impl Workers {
    /// The object that runs the pods of one of a pipeline's workers.
    pub fn workload(&self, pipeline: &str, component: Component) -> Option<&LiveChild> {
        self.child(workload_kind(component), &names::worker_name(pipeline, component))
    }

    /// The object of this kind and name.
    pub fn child(&self, kind: ChildKind, name: &str) -> Option<&LiveChild> {
        self.children.iter().find(|child| child.kind == kind && child.object.name_any() == name)
    }

    /// The configuration of the bridge as its pods are told to read it; `None` where there is no bridge, or where its
    /// configuration is lost.
    pub fn bridge_configuration(&self, pipeline: &str) -> Option<Value> {
        let bridge = self.workload(pipeline, Component::Bridge)?;
        let config_map = self.child(ChildKind::ConfigMap, bridge.configuration()?)?;
        serde_json::from_str(config_map.object.data["data"][WORKER_CONFIG_KEY].as_str()?).ok()
    }
}

impl LiveChild {
    /// Whether the pods of this workload mount the spool's volume.
    pub fn mounts_spool(&self) -> bool {
        self.volume(pod::SPOOL_VOLUME).is_some()
    }

    /// The ConfigMap that the pods of this workload read.
    pub fn configuration(&self) -> Option<&str> {
        self.volume(pod::CONFIG_VOLUME)?.pointer("/configMap/name")?.as_str()
    }

    fn volume(&self, name: &str) -> Option<&Value> {
        let volumes = self.object.data.pointer("/spec/template/spec/volumes")?.as_array()?;
        volumes.iter().find(|volume| volume["name"] == name)
    }
}

impl Stores {
    /// How many partitions the topic has and shall have, where it is this pipeline's, is to grow, and the order of a key
    /// must be kept.
    pub fn ordered_growth(&self, pipeline: &Pipeline) -> Option<(i32, i32)> {
        let (topic, table) = (self.topic.as_ref().ok()?, self.table.as_ref().ok()?);
        let wanted = pipeline.topic.wanted.as_ref()?;
        let is_marked = match &table.topic_marker {
            Some(owner) => *owner == pipeline.id,
            None => wanted.adopt,
        };
        let is_ours = is_marked && self.topic_manager.is_none();
        let allow_reorder = wanted.allow_reorder;
        topic.growth(&pipeline.topic).filter(|_| is_ours && !allow_reorder)
    }

    /// Why one of them could not be looked at, if so.
    pub fn into_failure(self) -> Option<Error> {
        let database = self.table.err().map(|source| Error::Database { source });
        database.or(self.topic.err().map(|source| Error::Kafka { source }))
    }
}

impl Pipeline {
    /// Under which the operator remembers it.
    pub fn key(&self) -> PipelineKey {
        (self.id.namespace.clone(), self.id.name.clone())
    }
}
