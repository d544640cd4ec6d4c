//! How much memory the workers take while a fault goes on, and that none was killed for it.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crds::worker::Component;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use snafu::whatever;
use tokio::{task::JoinHandle, time::sleep};

use super::crash::WORKER;
use crate::{Result, bench::process::peak_rss_mib, pods::proc_of, scenario::Scenario};

/// How often to look: the peak of a process is gone with it.
const LOOK: Duration = Duration::from_millis(500);

/// The most memory that was resident in one worker at any moment, MiB.
#[derive(Clone, Debug, Default)]
pub struct Peaks {
    /// Of a bridge.
    pub bridge_mib: f64,
    /// Of a processor.
    pub processor_mib: f64,
    /// The workers that the kernel killed because they reached their limit.
    killed: Vec<String>,
}

/// Looks at the workers of a scenario until it is dropped.
pub struct Memory {
    peaks: Arc<Mutex<Peaks>>,
    task: JoinHandle<()>,
}

impl Memory {
    /// Begins.
    pub fn watch(test: Scenario) -> Self {
        let peaks = Arc::new(Mutex::new(Peaks::default()));
        let task = tokio::spawn(look(test, Arc::clone(&peaks)));
        Self { peaks, task }
    }

    /// What was seen so far.
    ///
    /// # Errors
    /// Fails where a worker reached its limit.
    pub fn peaks(&self) -> Result<Peaks> {
        let peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !peaks.killed.is_empty() {
            whatever!("killed for want of memory: {}", peaks.killed.join(", "));
        }
        Ok(peaks)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(test: Scenario, peaks: Arc<Mutex<Peaks>>) {
    loop {
        for component in [Component::Bridge, Component::Processor] {
            // A busy API server is asked again.
            for pod in test.workers(component).await.unwrap_or_default() {
                let now = proc_of(&pod, WORKER)
                    .iter()
                    .filter_map(|process| peak_rss_mib(&fs::read_to_string(process.join("status")).ok()?))
                    .fold(0.0, f64::max);
                let mut peaks = peaks.lock().unwrap_or_else(PoisonError::into_inner);
                let peak = match component {
                    Component::Bridge => &mut peaks.bridge_mib,
                    Component::Processor => &mut peaks.processor_mib,
                };
                *peak = peak.max(now);
                let name = pod.name_any();
                if was_killed_for_memory(&pod) && !peaks.killed.contains(&name) {
                    peaks.killed.push(name);
                }
            }
        }
        sleep(LOOK).await;
    }
}

fn was_killed_for_memory(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers
        .filter_map(|container| container.last_state.as_ref()?.terminated.as_ref()?.reason.as_deref())
        .any(|reason| reason == "OOMKilled")
}
