//! Kafka away, and a bridge that has a spool: it goes on taking messages from the broker.

use std::{fs, path::PathBuf};

use crds::IoTPipeline;
use futures::future::try_join;
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, from_value, json};
use snafu::{OptionExt, ResultExt, whatever};

use super::{
    Trial,
    away::{Backend::Kafka, away},
};
use crate::{Result, manifest::set, scenario::Scenario};

/// The size of the volume: a minute's messages fit well into what it has for them.
const SIZE: &str = "256Mi";

/// Where the node keeps what is on the volumes.
const DIRECTORY: &str = "/var/lib/spools";

/// Takes Kafka away; the bridge's spool fills meanwhile.
pub async fn kafka_away(trial: &Trial<'_>) -> Result<String> {
    let (seen, spooled) = try_join(away(trial, Kafka), some_are_spooled(trial)).await?;
    Ok(format!("{seen}, and {spooled} messages and more were in the spool"))
}

async fn some_are_spooled(trial: &Trial<'_>) -> Result<i64> {
    let pipeline = trial.test.wait_for("has messages in its spool", |pipeline| spooled(pipeline) > 0).await?;
    Ok(spooled(&pipeline))
}

fn spooled(pipeline: &IoTPipeline) -> i64 {
    let bridge = pipeline.status.as_ref().and_then(|status| status.bridge.as_ref());
    bridge.and_then(|bridge| bridge.spool).map_or(0, |spool| spool.messages)
}

/// A volume on the node, and a pipeline that keeps its spool there.
pub async fn with_volume(test: &Scenario, manifest: Value) -> Result<Value> {
    let nodes: Api<Node> = Api::all(test.cluster.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.whatever_context("failed to list the nodes")?;
    let node = nodes.items.first().whatever_context("there is no node")?.name_any();
    let directory = on_the_node(&test.namespace)?;
    fs::create_dir_all(&directory)
        .with_whatever_context(|_| format!("failed to make {}", directory.display()))?;
    let volume: PersistentVolume = from_value(json!({
        "metadata": {"name": test.namespace},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": test.namespace,
            "local": {"path": format!("{DIRECTORY}/{}", test.namespace)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    }))
    .whatever_context("failed to write a PersistentVolume")?;
    volumes(test)
        .create(&PostParams::default(), &volume)
        .await
        .whatever_context("failed to make a volume")?;
    set(manifest, "/spec/mqtt/spool", json!({"size": SIZE, "storageClassName": test.namespace}))
}

/// Removes the volume.
pub async fn remove_volume(test: &Scenario) -> Result<()> {
    let deleted = volumes(test).delete(&test.namespace, &DeleteParams::default()).await;
    deleted.whatever_context("failed to delete the volume")?;
    fs::remove_dir_all(on_the_node(&test.namespace)?).whatever_context("failed to remove the volume's files")
}

fn volumes(test: &Scenario) -> Api<PersistentVolume> {
    Api::all(test.cluster.client.clone())
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
