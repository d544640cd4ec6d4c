//! Bridges whose node no longer answers. Pure.
//!
//! After a minute Kubernetes gives such a pod up (see the tolerations in `build/pod.rs`) and deletes it, but a StatefulSet
//! makes no other before the kubelet has said that it is gone, which it cannot. Of two bridges with one client id the MQTT
//! broker ends the first one's session, so nothing speaks against another one. A spool's volume is a different thing: it
//! must not be written by two.

use std::time::Duration;

use crds::{names, worker::Component};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{build::workload_kind, pipeline::Pipeline, reconcile::fetch::Workers};

/// How long the kubelet may take beyond the pod's grace period.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bridges that should be gone by now, and whose nodes do not say so.
pub fn stranded_bridges(pipeline: &Pipeline, workers: &Workers, now: Timestamp) -> Vec<Pod> {
    let name = names::worker_name(&pipeline.id.name, Component::Bridge);
    let workload = workers.child(workload_kind(Component::Bridge), &name);
    let Some(uid) = workload.and_then(|workload| workload.object.metadata.uid.as_deref()) else {
        return Vec::new();
    };
    if pipeline.bridge.as_ref().is_none_or(|bridge| bridge.spool.is_some()) {
        return Vec::new();
    }
    let is_stranded = |pod: &&Pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        // The time at which it was to be gone, the grace period included.
        let due = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        owners.into_iter().any(|owner| owner.uid == uid) && due.is_some_and(|due| now > due + PATIENCE)
    };
    let bridges = workers.pods.iter().filter(|pod| pod.component == Component::Bridge);
    bridges.map(|pod| &pod.pod).filter(is_stranded).cloned().collect()
}
