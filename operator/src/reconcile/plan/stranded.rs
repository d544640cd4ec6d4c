//! Bridges whose node no longer answers. Pure.
//!
//! After a minute Kubernetes gives such a pod up (see the tolerations in `build/pod.rs`) and deletes it, but a StatefulSet
//! makes no other before the kubelet has said that it is gone, which it cannot. Of two bridges with one client id the MQTT
//! broker ends the first one's session, so nothing speaks against another one. A spool's volume is a different thing: it
//! must not be written by two.

use std::time::Duration;

use crds::worker::Component;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::{pipeline::Pipeline, reconcile::fetch::Workers};

/// How long the kubelet may take beyond the pod's grace period.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the kubelet may take where Kubernetes gave the pod up for its node. Where it answers after all, a bridge needs
/// less to end in order.
const PATIENCE_GIVEN_UP: Duration = Duration::from_secs(10);

/// Why Kubernetes gave a pod up for its node (the condition `DisruptionTarget`, KEP-3329).
const GIVEN_UP: &str = "DeletionByTaintManager";

/// The bridges that should be gone by now, and whose nodes do not say so.
pub fn stranded_bridges(pipeline: &Pipeline, workers: &Workers, now: Timestamp) -> Vec<Pod> {
    let workload = workers.workload(&pipeline.id.name, Component::Bridge);
    let Some(uid) = workload.and_then(|workload| workload.object.metadata.uid.as_deref()) else {
        return Vec::new();
    };
    if pipeline.bridge.as_ref().is_none_or(|bridge| bridge.spool.is_some()) {
        return Vec::new();
    }
    let is_stranded = |pod: &&Pod| {
        let mut owners = pod.metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.uid == uid) && overdue_since(pod).is_some_and(|since| now > since)
    };
    let bridges = workers.pods.iter().filter(|pod| pod.component == Component::Bridge);
    bridges.map(|pod| &pod.pod).filter(is_stranded).cloned().collect()
}

/// When a pod that is to go should have gone.
fn overdue_since(pod: &Pod) -> Option<Timestamp> {
    // The grace period is in it.
    let due = pod.metadata.deletion_timestamp.as_ref()?.0;
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_given_up =
        conditions.filter_map(|condition| condition.reason.as_deref()).any(|reason| reason == GIVEN_UP);
    if is_given_up {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        Some(due - SignedDuration::from_secs(grace) + PATIENCE_GIVEN_UP)
    } else {
        Some(due + PATIENCE)
    }
}
