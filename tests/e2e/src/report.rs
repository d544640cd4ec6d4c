//! What a person needs to see when a scenario fails: the pipelines, events, pods and logs of its namespace.

use std::fmt::Write;

use crds::{IoTPipeline, names::PIPELINE_LABEL};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    ResourceExt,
    api::{ListParams, LogParams},
};

use crate::cluster::{Cluster, OPERATOR_NAMESPACE};

/// How many lines of each log are shown.
const LOG_LINES: i64 = 60;

/// Describes a namespace and the operator's log. What cannot be read is left out.
pub async fn report(cluster: &Cluster, namespace: &str) -> String {
    let mut text = format!("\n======== what was in the namespace {namespace} ========\n");
    for pipeline in list::<IoTPipeline>(cluster, namespace, "").await {
        let status = serde_json::to_string_pretty(&pipeline.status).unwrap_or_default();
        let generation = pipeline.metadata.generation.unwrap_or_default();
        _ = writeln!(text, "--- IoTPipeline {} (generation {generation})\n{status}", pipeline.name_any());
    }
    for event in list::<Event>(cluster, namespace, "").await {
        let object = event.involved_object.name.unwrap_or_default();
        let reason = event.reason.unwrap_or_default();
        _ = writeln!(text, "event {object}: {reason}: {}", event.message.unwrap_or_default());
    }
    for pod in list::<Pod>(cluster, namespace, PIPELINE_LABEL).await {
        _ = writeln!(text, "--- pod {}: {}", pod.name_any(), summary(&pod));
        text += &logs(cluster, &pod).await;
    }
    for pod in list::<Pod>(cluster, OPERATOR_NAMESPACE, "").await {
        _ = writeln!(text, "--- operator {}: {}", pod.name_any(), summary(&pod));
        text += &logs(cluster, &pod).await;
    }
    text
}

async fn list<K>(cluster: &Cluster, namespace: &str, labels: &str) -> Vec<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let wanted = ListParams::default().labels(labels);
    cluster.api::<K>(namespace).list(&wanted).await.map(|list| list.items).unwrap_or_default()
}

fn summary(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "no status".to_owned() };
    let containers = status.container_statuses.iter().flatten().map(|container| {
        let state = container.state.as_ref().map(|state| serde_json::to_string(state).unwrap_or_default());
        format!(
            "ready {}, {} restarts, {}",
            container.ready,
            container.restart_count,
            state.unwrap_or_default()
        )
    });
    let phase = status.phase.clone().unwrap_or_default();
    std::iter::once(phase).chain(containers).collect::<Vec<_>>().join("; ")
}

async fn logs(cluster: &Cluster, pod: &Pod) -> String {
    let api = cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
    let mut text = String::new();
    for previous in [true, false] {
        let wanted = LogParams { previous, tail_lines: Some(LOG_LINES), ..LogParams::default() };
        if let Ok(log) = api.logs(&pod.name_any(), &wanted).await {
            let which = if previous { "log of the container before" } else { "log" };
            _ = writeln!(text, "{which}:\n{log}");
        }
    }
    text
}
