//! The volume of a bridge's spool: a directory on the node of the local cluster, as a PersistentVolume of a storage
//! class of its own.

use std::{fs, io, path::PathBuf};

use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, from_value, json};
use snafu::{OptionExt, ResultExt, whatever};

use crate::{Result, manifest::set, scenario::Scenario};

/// Its size: a minute's messages fit well into what the spool has for them.
const SIZE: &str = "256Mi";

/// Where the node keeps what is on the volumes.
const DIRECTORY: &str = "/var/lib/spools";

/// Makes a scenario's volume, which is empty.
///
/// # Errors
/// Fails where there is one, or the node is not this machine.
pub async fn make(test: &Scenario) -> Result<()> {
    let volume: PersistentVolume = from_value(json!({
        "metadata": {"name": test.namespace},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": test.namespace,
            "local": {"path": format!("{DIRECTORY}/{}", test.namespace)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node(test).await?]},
            ]}]}},
        },
    }))
    .whatever_context("failed to write a PersistentVolume")?;
    volumes(test)
        .create(&PostParams::default(), &volume)
        .await
        .whatever_context("failed to make a volume")?;
    let directory = on_the_node(&test.namespace)?;
    fs::create_dir_all(&directory)
        .with_whatever_context(|_| format!("failed to make {}", directory.display()))
}

/// The pipeline with a spool on this volume.
///
/// # Errors
/// Fails where the pipeline has no bridge.
pub fn with_spool(test: &Scenario, manifest: Value) -> Result<Value> {
    set(manifest, "/spec/mqtt/spool", json!({"size": SIZE, "storageClassName": test.namespace}))
}

/// Removes the volume with what is on it, where the scenario has one. Its object is gone once no claim is bound to it.
///
/// # Errors
/// Fails where something stays.
pub async fn remove(test: &Scenario) -> Result<()> {
    match volumes(test).delete(&test.namespace, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        deleted => deleted.whatever_context("failed to delete the volume")?,
    };
    match fs::remove_dir_all(on_the_node(&test.namespace)?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.whatever_context("failed to remove the volume's files"),
    }
}

fn volumes(test: &Scenario) -> Api<PersistentVolume> {
    Api::all(test.cluster.client.clone())
}

/// The node of this machine: the one that repels nobody.
async fn node(test: &Scenario) -> Result<String> {
    let nodes: Api<Node> = Api::all(test.cluster.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.whatever_context("failed to list the nodes")?;
    let repels =
        |node: &Node| node.spec.iter().flat_map(|spec| &spec.taints).any(|taints| !taints.is_empty());
    let node = nodes.items.iter().find(|node| !repels(node)).whatever_context("there is no node")?;
    Ok(node.name_any())
}

/// A directory as the kubelet sees it.
fn on_the_node(name: &str) -> Result<PathBuf> {
    let processes = fs::read_dir("/proc").whatever_context("failed to read /proc")?;
    let is_kubelet = |path: &PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|program| program.trim_end() == "kubelet")
    };
    let kubelet = processes.filter_map(|entry| Some(entry.ok()?.path())).find(is_kubelet);
    let Some(kubelet) = kubelet else { whatever!("the kubelet does not run on this machine") };
    Ok(kubelet.join(format!("root{DIRECTORY}")).join(name))
}
