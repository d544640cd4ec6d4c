//! Builds the Kubernetes objects of a pipeline: one file for each kind. Pure, no client.
//!
//! Every object carries the pipeline's owner reference and the labels below, and nothing of the pipeline's own
//! labels and annotations: GitOps tools would take the children for their own.

pub mod config_map;
pub mod deployment;
pub mod network_policy;
pub mod pdb;
pub mod pod;
pub mod retirement;
pub mod service;
pub mod spool;
pub mod statefulset;

use std::collections::BTreeMap;

use crds::{
    names::{self, COMPONENT_LABEL, FIELD_MANAGER, MANAGED_BY_LABEL, PIPELINE_LABEL},
    worker::Component,
};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, PersistentVolumeClaim, Service},
        networking::v1::{NetworkPolicy, NetworkPolicyPeer},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::api::ApiResource;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use snafu::{ResultExt, Snafu};
use strum::{Display, EnumIter};

use crate::pipeline::{Pipeline, Worker};

/// Annotation with a hash of everything that the operator wrote into an object. A field that the operator no
/// longer names changes it, and so is noticed.
pub const SPEC_HASH_ANNOTATION: &str = "iotpipeline.dev/spec-hash";

/// An object could not be built.
#[derive(Debug, Snafu)]
#[snafu(display("failed to write {name} as JSON"))]
pub struct Error {
    name: String,
    source: serde_json::Error,
}

/// The image that all workers run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkerImage {
    /// Its reference.
    pub reference: String,
    /// `Always`, `IfNotPresent` or `Never`; Kubernetes decides where there is none.
    pub pull_policy: Option<String>,
}

/// What of the operator's own settings shapes the objects of every pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSettings {
    /// The image that all workers run.
    pub image: WorkerImage,
    /// Who may reach the workers' HTTP endpoints: the operator and whoever scrapes metrics; `None` for no
    /// NetworkPolicies at all.
    pub ingress_from: Option<Vec<NetworkPolicyPeer>>,
}

/// The kinds of children, in the order in which they are applied.
#[derive(Clone, Copy, Debug, Display, EnumIter, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ChildKind {
    /// The volume of the bridge's spool.
    PersistentVolumeClaim,
    /// A worker's configuration.
    ConfigMap,
    /// The name under which a worker's pods are found.
    Service,
    /// Who may reach a worker's pods.
    NetworkPolicy,
    /// How many of a worker's pods may be evicted at once.
    PodDisruptionBudget,
    /// The bridge.
    StatefulSet,
    /// The processor.
    Deployment,
}

/// An object as the operator wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// The whole of what the operator says about it, as it is applied.
    pub object: Value,
}

impl ChildKind {
    /// The API resource of this kind.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::PersistentVolumeClaim => ApiResource::erase::<PersistentVolumeClaim>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
        }
    }
}

/// The kind of the object that runs a worker's pods.
pub fn workload_kind(component: Component) -> ChildKind {
    match component {
        Component::Bridge => ChildKind::StatefulSet,
        Component::Processor => ChildKind::Deployment,
    }
}

/// Everything of one worker but its configuration, in the order in which it is applied; its pods read the
/// configuration from the ConfigMap `config_map`.
///
/// # Errors
/// Fails where an object has no JSON form, which none of these has ever had.
pub fn build_worker(
    pipeline: &Pipeline,
    worker: &Worker,
    config_map: &str,
    settings: &WorkerSettings,
) -> Result<Vec<Child>, Error> {
    let component = worker.component();
    let kind = workload_kind(component);
    let image = &settings.image;
    let workload = match component {
        Component::Bridge => {
            child(kind, &statefulset::build_statefulset(pipeline, worker, config_map, image))?
        }
        Component::Processor => {
            child(kind, &deployment::build_deployment(pipeline, worker, config_map, image))?
        }
    };
    let mut children = vec![child(ChildKind::Service, &service::build_service(pipeline, component))?];
    if let Some(peers) = &settings.ingress_from {
        let policy = network_policy::build_network_policy(pipeline, component, peers);
        children.push(child(ChildKind::NetworkPolicy, &policy)?);
    }
    children.push(child(ChildKind::PodDisruptionBudget, &pdb::build_pdb(pipeline, component))?);
    if let Some(volume) = &worker.spool {
        children.push(child(ChildKind::PersistentVolumeClaim, &spool::build_spool(pipeline, volume))?);
    }
    children.push(workload);
    Ok(children)
}

/// The configuration of one worker.
///
/// # Errors
/// Fails where the configuration has no JSON form, which no validated one has ever had.
pub fn build_configuration(pipeline: &Pipeline, worker: &Worker) -> Result<Child, Error> {
    child(ChildKind::ConfigMap, &config_map::build_config_map(pipeline, worker)?)
}

/// The labels of a worker's objects and pods.
pub fn labels(pipeline: &str, component: Component) -> BTreeMap<String, String> {
    let mut labels = selector_labels(pipeline, component);
    labels.insert(MANAGED_BY_LABEL.to_owned(), FIELD_MANAGER.to_owned());
    labels
}

/// The labels by which a worker's pods are selected. They can never change, because a selector cannot.
pub fn selector_labels(pipeline: &str, component: Component) -> BTreeMap<String, String> {
    BTreeMap::from([
        (PIPELINE_LABEL.to_owned(), pipeline.to_owned()),
        (COMPONENT_LABEL.to_owned(), component.to_string()),
    ])
}

/// The labels by which a worker's pods are selected, as `kubectl get pods --selector` takes them.
pub fn selector_text(pipeline: &str, component: Component) -> String {
    let pairs: Vec<String> = selector_labels(pipeline, component)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// The first 10 hexadecimal digits of the SHA-256 of a text.
fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

fn metadata(pipeline: &Pipeline, component: Component) -> ObjectMeta {
    ObjectMeta {
        name: Some(names::worker_name(&pipeline.id.name, component)),
        namespace: Some(pipeline.id.namespace.clone()),
        labels: Some(labels(&pipeline.id.name, component)),
        owner_references: Some(vec![pipeline.owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn selector(pipeline: &Pipeline, component: Component) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector_labels(&pipeline.id.name, component)),
        ..LabelSelector::default()
    }
}

/// Turns an object into JSON and writes the hash of it all into its annotations.
fn child<K: kube::Resource + Serialize>(kind: ChildKind, object: &K) -> Result<Child, Error> {
    let name = object.meta().name.clone().unwrap_or_default();
    let mut object = serde_json::to_value(object).with_context(|_| Snafu { name: name.clone() })?;
    let hash = short_hash(&object.to_string());
    object["metadata"]["annotations"][SPEC_HASH_ANNOTATION] = hash.into();
    Ok(Child { kind, name, object })
}
