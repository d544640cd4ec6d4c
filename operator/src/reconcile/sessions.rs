//! The sessions that a pipeline's bridges have at the MQTT broker, each under the client id of its ordinal. Pure.
//!
//! A session outlives its bridge, and the broker goes on giving it messages. How many there are is therefore noted in the
//! status before a bridge may begin one, and taken back only once the last one has said that it ended.

use crds::{
    IoTPipeline, names,
    worker::{Component, Retirement},
};
use kube::ResourceExt;
use serde_json::Value;

use super::fetch::{LiveChild, WorkerPod, Workers};

/// How many sessions the status tells of; one at least, where there is a bridge.
pub fn noted_sessions(object: &IoTPipeline) -> i32 {
    let bridge = object.status.as_ref().and_then(|status| status.bridge.as_ref());
    bridge.and_then(|bridge| bridge.sessions).unwrap_or(1).max(1)
}

/// How many sessions the broker may have. A status that was lost, and bridges that somebody added by hand, are made up for by
/// what the StatefulSet says.
pub fn known_sessions(object: &IoTPipeline, workers: &Workers) -> i32 {
    let name = object.name_any();
    let shares = workers.bridge_configuration(&name).is_some_and(|running| is_shared(&running));
    let running = workers
        .workload(&name, Component::Bridge)
        .filter(|_| shares)
        .map_or(0, |bridge| bridge.rollout().wanted);
    noted_sessions(object).max(running)
}

/// How many bridges there are, without those that leave; where none runs now, as many as have sessions. `None` where there
/// never was one.
pub fn staying_bridges(object: &IoTPipeline, workers: &Workers) -> Option<i32> {
    let name = object.name_any();
    let running = workers
        .workload(&name, Component::Bridge)
        .map(|bridge| bridge.rollout().wanted)
        .filter(|wanted| *wanted > 0);
    let staying = workers.bridge_configuration(&name).and_then(|running| leaving_from(&running));
    let noted = || object.status.as_ref()?.bridge.as_ref()?.sessions;
    running.map(|running| staying.unwrap_or(running).min(running)).or_else(noted)
}

/// Whether bridges with this configuration share their subscriptions.
pub fn is_shared(configuration: &Value) -> bool {
    configuration["role"]["bridge"]["shared"].is_object()
}

/// The ordinal from which on bridges with this configuration leave.
pub fn leaving_from(configuration: &Value) -> Option<i32> {
    let from = configuration["role"]["bridge"]["shared"]["retireFrom"].as_i64()?;
    i32::try_from(from).ok()
}

/// The pod of the bridge with this ordinal, if it was made by this very workload as it is now. What only has its labels may
/// be anybody's, and one that is on its way out has said what it had to say.
pub fn bridge_pod<'a>(workers: &'a Workers, bridge: &LiveChild, ordinal: i32) -> Option<&'a WorkerPod> {
    workers.pods.iter().find(|pod| {
        runs(pod, bridge)
            && pod.pod.metadata.deletion_timestamp.is_none()
            && names::ordinal(&pod.pod.name_any()).and_then(|found| i32::try_from(found).ok())
                == Some(ordinal)
    })
}

/// What the bridge with this ordinal says of its retirement.
pub fn retirement(workers: &Workers, bridge: &LiveChild, ordinal: i32) -> Option<Retirement> {
    bridge_pod(workers, bridge, ordinal)?.report.as_ref()?.retirement
}

fn runs(pod: &WorkerPod, workload: &LiveChild) -> bool {
    let uid = workload.object.uid();
    let volumes = pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut config_maps = volumes.filter_map(|volume| volume.config_map.as_ref());
    pod.pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
        && config_maps.any(|config_map| Some(config_map.name.as_str()) == workload.configuration())
}
