//! Pods and their processes: a worker is killed as a crash would, by SIGKILL of its process.

use std::{fs, process::Command};

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use snafu::{ResultExt, whatever};

use crate::{Result, cluster::Cluster};

impl Cluster {
    /// Sends SIGKILL to the process of a worker pod; the kubelet starts its container again. The node's
    /// processes are visible from here, because the local cluster's node is a process of this machine.
    ///
    /// # Errors
    /// Fails where the pod has no such process on this machine.
    pub fn sigkill(&self, pod: &Pod, binary: &str) -> Result<()> {
        let name = pod.name_any();
        let processes = processes_of(&pod.uid().unwrap_or_default(), binary);
        if processes.is_empty() {
            whatever!("found no process of {binary} in the pod {name} on this machine");
        }
        let killed = Command::new("kill").arg("-KILL").args(&processes).status();
        if killed.whatever_context("failed to run kill")?.success() {
            Ok(())
        } else {
            whatever!("failed to kill the processes {processes:?} of the pod {name}")
        }
    }

    /// Removes a pod without giving it time, as when its node is gone.
    ///
    /// # Errors
    /// Fails where the API server does.
    pub async fn remove_at_once(&self, pod: &Pod) -> Result<()> {
        let name = pod.name_any();
        let at_once = DeleteParams::default().grace_period(0);
        self.api::<Pod>(&pod.namespace().unwrap_or_default())
            .delete(&name, &at_once)
            .await
            .with_whatever_context(|_| format!("failed to delete the pod {name}"))?;
        Ok(())
    }
}

/// How often the containers of these pods were started again.
pub fn restarts(pods: &[Pod]) -> i32 {
    let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
    statuses.flatten().map(|container| container.restart_count).sum()
}

/// The numbers of the processes whose control group is this pod's and whose program is `binary`.
fn processes_of(pod_uid: &str, binary: &str) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|number| {
            let read = |file| fs::read_to_string(format!("/proc/{number}/{file}")).unwrap_or_default();
            let program = read("cmdline");
            let is_of_pod = !pod_uid.is_empty() && read("cgroup").contains(pod_uid);
            is_of_pod && program.split('\0').next().is_some_and(|program| program.ends_with(binary))
        })
        .collect()
}
