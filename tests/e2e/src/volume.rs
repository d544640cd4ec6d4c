//! The volume of a bridge's spool: a directory on the node of the local cluster, as a PersistentVolume of a storage class
//! of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, from_value, json};
use snafu::{OptionExt, ResultExt};

use crate::{Result, disk::Disk, manifest::set, scenario::Scenario};

/// A volume.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// How large it claims to be; a quarter of that is for messages.
    pub size: &'static str,
    /// How much really fits onto it, bytes; otherwise as much as onto the node's disk.
    pub disk: Option<i64>,
}

/// A minute's messages fit well into it.
pub const ROOMY: Volume = Volume { size: "256Mi", disk: None };

/// Where the node keeps what is on the volumes.
const DIRECTORY: &str = "/var/lib/spools";

/// Makes a scenario's volume, which is empty.
///
/// # Errors
/// Fails where there is one, or the node is not this machine.
pub async fn make(test: &Scenario, Volume { size, disk }: Volume) -> Result<()> {
    let volume: PersistentVolume = from_value(json!({
        "metadata": {"name": test.namespace},
        "spec": {
            "capacity": {"storage": size},
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
    if let Some(bytes) = disk {
        Disk::mount(kubelet()?, directory(test), bytes, "mode=777")?;
        return Ok(());
    }
    let directory = on_the_node(&test.namespace)?;
    fs::create_dir_all(&directory)
        .with_whatever_context(|_| format!("failed to make {}", directory.display()))
}

/// The pipeline with a spool on this volume.
///
/// # Errors
/// Fails where the pipeline has no bridge.
pub fn with_spool(test: &Scenario, volume: Volume, manifest: Value) -> Result<Value> {
    set(manifest, "/spec/mqtt/spool", json!({"size": volume.size, "storageClassName": test.namespace}))
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
    // Fails where it has none.
    let _ = disk(test)?.unmount();
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

/// The disk of a volume that has one of its own.
///
/// # Errors
/// Fails where the node is not this machine.
pub fn disk(test: &Scenario) -> Result<Disk> {
    Ok(Disk::at(kubelet()?, directory(test)))
}

/// Where the node has a scenario's volume.
fn directory(test: &Scenario) -> PathBuf {
    Path::new(DIRECTORY).join(&test.namespace)
}

/// A directory of the node, as it is seen from here.
fn on_the_node(name: &str) -> Result<PathBuf> {
    Ok(kubelet()?.join(format!("root{DIRECTORY}")).join(name))
}

/// The kubelet's process, in whose file system the volumes are.
fn kubelet() -> Result<PathBuf> {
    let processes = fs::read_dir("/proc").whatever_context("failed to read /proc")?;
    let is_kubelet = |path: &PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|program| program.trim_end() == "kubelet")
    };
    let kubelet = processes.filter_map(|entry| Some(entry.ok()?.path())).find(is_kubelet);
    kubelet.whatever_context("the kubelet does not run on this machine")
}
