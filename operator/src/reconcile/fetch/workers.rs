//! What there is of a pipeline's workers in Kubernetes, and what their pods say of themselves. Reads only.

use crds::{
    IoTPipeline,
    names::{self, COMPONENT_LABEL, FIELD_MANAGER, MANAGED_BY_LABEL, PIPELINE_LABEL, WORKER_CONFIG_KEY},
    worker::{Component, WorkerStatus},
};
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::{self, BoxFuture},
    stream,
};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use serde_json::Value;
use snafu::ResultExt;
use strum::IntoEnumIterator;

use crate::{
    build::{ChildKind, pod, workload_kind},
    context::Context,
    error::{Error, ListPodsSnafu, ReadChildrenSnafu},
};

/// How many of a pipeline's objects are asked for at once. Each takes a connection to the API server meanwhile, and each
/// connection memory on both sides.
const OBJECTS_AT_ONCE: usize = 4;

/// How many workers are asked at once.
const WORKERS_AT_ONCE: usize = 32;

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
    Ok(objects
        .into_iter()
        .map(|mut object| {
            forget_fields(&mut object.metadata);
            LiveChild { kind, object }
        })
        .collect())
}

/// Keeps who wrote an object and when, but not which fields: a tree for each of them, which nobody reads.
fn forget_fields(metadata: &mut ObjectMeta) {
    for writer in metadata.managed_fields.iter_mut().flatten() {
        writer.fields_v1 = None;
    }
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
        .map(|(component, mut pod)| {
            forget_fields(&mut pod.metadata);
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
