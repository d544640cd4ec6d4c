//! Pods and their processes: a worker is killed as a crash would, by SIGKILL of its process. The node's processes are
//! visible from here, because the local cluster's node is a process of this machine.

use std::{fs, path::PathBuf, process::Command};

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use snafu::{ResultExt, whatever};

use crate::{Result, cluster::Cluster};

impl Cluster {
    /// Sends SIGKILL to the process of a pod; the kubelet starts its container again.
    ///
    /// # Errors
    /// Fails where the pod has no such process on this machine.
    pub fn sigkill(&self, pod: &Pod, binary: &str) -> Result<()> {
        self.signal(pod, binary, "KILL")
    }

    /// Sends a signal to the process of a pod.
    ///
    /// # Errors
    /// Fails where the pod has no such process on this machine.
    pub fn signal(&self, pod: &Pod, binary: &str, signal: &str) -> Result<()> {
        let processes = processes_of(pod, binary);
        if processes.is_empty() {
            whatever!("found no process of {binary} in the pod {} on this machine", pod.name_any());
        }
        send(signal, &processes)
    }

    /// Removes a pod without giving it time, as when its node is gone.
    ///
    /// # Errors
    /// Fails where the API server does.
    pub async fn remove_at_once(&self, pod: &Pod) -> Result<()> {
        self.delete_pod(pod, &DeleteParams::default().grace_period(0)).await
    }

    /// Removes a pod and gives it its time, as `kubectl delete pod` does. Nothing takes its place before its containers
    /// have ended.
    ///
    /// # Errors
    /// Fails where the API server does.
    pub async fn remove_in_order(&self, pod: &Pod) -> Result<()> {
        self.delete_pod(pod, &DeleteParams::default()).await
    }

    async fn delete_pod(&self, pod: &Pod, how: &DeleteParams) -> Result<()> {
        let name = pod.name_any();
        self.api::<Pod>(&pod.namespace().unwrap_or_default())
            .delete(&name, how)
            .await
            .with_whatever_context(|_| format!("failed to delete the pod {name}"))?;
        Ok(())
    }
}

/// Whether all containers of a pod are ready.
pub fn is_ready(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && statuses.is_some_and(|all| !all.is_empty() && all.iter().all(|container| container.ready))
}

/// How often the containers of these pods were started again.
pub fn restarts(pods: &[Pod]) -> i32 {
    let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
    statuses.flatten().map(|container| container.restart_count).sum()
}

/// The directories in /proc of a pod's processes.
pub fn proc_of(pod: &Pod, binary: &str) -> Vec<PathBuf> {
    processes_of(pod, binary).into_iter().map(|process| process.directory()).collect()
}

/// The processes whose control group is this pod's and whose program is `binary`.
fn processes_of(pod: &Pod, binary: &str) -> Vec<Process> {
    let uid = pod.uid().filter(|uid| !uid.is_empty());
    uid.map_or_else(Vec::new, |uid| processes(|process| process.runs(binary) && process.is_in(&uid)))
}

/// A process of this machine, by its number.
pub struct Process(String);

/// All processes that are so.
pub fn processes(is_so: impl Fn(&Process) -> bool) -> Vec<Process> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .map(Process)
        .filter(is_so)
        .collect()
}

/// Sends a signal to processes.
///
/// # Errors
/// Fails where one is gone.
pub fn send(signal: &str, processes: &[Process]) -> Result<()> {
    let numbers: Vec<_> = processes.iter().map(|process| &process.0).collect();
    let sent = Command::new("kill").arg(format!("-{signal}")).args(&numbers).status();
    if sent.whatever_context("failed to run kill")?.success() {
        Ok(())
    } else {
        whatever!("failed to send {signal} to the processes {numbers:?}")
    }
}

impl Process {
    /// Whether its program's path ends so.
    pub fn runs(&self, binary: &str) -> bool {
        self.read("cmdline").split('\0').next().is_some_and(|program| program.ends_with(binary))
    }

    /// Whether it is in the network of this one, which `tests/e2e/cluster/run` makes the local cluster's.
    pub fn shares_our_network(&self) -> bool {
        let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        network(&self.0).is_some_and(|theirs| network("self") == Some(theirs))
    }

    /// Whether its control group has this in its name.
    fn is_in(&self, group: &str) -> bool {
        self.read("cgroup").contains(group)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory().join(file)).unwrap_or_default()
    }

    fn directory(&self) -> PathBuf {
        PathBuf::from("/proc").join(&self.0)
    }
}
