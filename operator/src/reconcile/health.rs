//! What there is to say about the workers: from what their controller counted, what Kubernetes says of their pods
//! and what they say themselves. Pure.

use crds::{
    pipeline::{ProcessorMode, Suspend},
    status::Reason,
    worker::Component,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::ResourceExt;

use super::{
    apply::WorkerOutcome,
    fetch::{LiveChild, WorkerPod},
};
use crate::{build::pod::CONTAINER_NAME, change::Note};

/// What a condition says, before it is compared with what it said before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Whether the condition holds.
    pub holds: bool,
    /// A CamelCase word; most are a [`Reason`], workers may say others.
    pub reason: String,
    /// One sentence or more for a person.
    pub message: String,
}

/// A worker that says so has started a moment ago.
const STARTING: &str = "Starting";

/// How long a pod that was added may take to be there, and then to do its work, before that is a trouble.
const START: SignedDuration = SignedDuration::from_secs(60);

/// What is said of workers whose replacement waits; not how many are before them, which changes all the time.
const AWAITS_TURN: &str =
    "; they are of another version of the operator and are replaced once it is this pipeline's turn";

/// Whether one kind of worker does its work. `outcome` is what this reconciliation did to it; `None` where the spec
/// is refused, so that nothing was done.
pub fn judge_worker(
    component: Component,
    workload: Option<&LiveChild>,
    pods: &[WorkerPod],
    outcome: Option<&WorkerOutcome>,
    suspend: Suspend,
    mode: ProcessorMode,
) -> Finding {
    let problems = outcome.map_or(&[][..], |outcome| outcome.problems.as_slice());
    if let Some(first) = problems.first() {
        let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        return Finding::fails(first.reason, messages.join("; "));
    }
    let starts_anew = outcome.is_some_and(|outcome| outcome.starts_anew);
    let Some(workload) = workload else {
        return match outcome {
            Some(_) if starts_anew => {
                Finding::fails(Reason::Progressing, format!("the {component} is created"))
            }
            Some(_) => Finding::fails(Reason::Pending, "waits for the topic and the table"),
            None => Finding::fails(Reason::Pending, "waits for a spec that can be used"),
        };
    };
    let rollout = workload.rollout();
    if starts_anew {
        return Finding::fails(Reason::Progressing, format!("the {component} is changed"));
    }
    if rollout.wanted == 0 && rollout.existing > 0 {
        return Finding::fails(Reason::Progressing, format!("{} pods stop", rollout.existing));
    }
    if let Some(hold) = outcome.and_then(|outcome| outcome.hold.as_ref()) {
        return Finding::fails(hold.reason, hold.message.clone());
    }
    let is_scaled = component == Component::Processor
        && suspend == Suspend::None
        && matches!(mode, ProcessorMode::BuiltIn | ProcessorMode::External);
    if rollout.wanted == 0 && is_scaled {
        let message = match mode {
            ProcessorMode::External => "spec.processor.replicas is 0, as whoever scales it wrote",
            _ => "none runs, because nothing comes; the first message starts one",
        };
        return Finding { holds: true, reason: Reason::AsSpecified.to_string(), message: message.to_owned() };
    }
    if rollout.wanted == 0 {
        return Finding::fails(Reason::Suspended, why_none_runs(component, suspend));
    }
    let pods = || {
        pods.iter().filter(|pod| pod.component == component && pod.pod.metadata.deletion_timestamp.is_none())
    };
    if !rollout.is_complete() {
        return pods().find_map(pod_problem).or_else(|| creation_problem(workload)).unwrap_or_else(|| {
            Finding::fails(Reason::Progressing, format!("{} of {} ready", rollout.ready, rollout.wanted))
        });
    }
    let warning = pods().find_map(|pod| Some((pod.pod.name_any(), pod.report.as_ref()?.problem.clone()?)));
    match (warning, outcome.and_then(|outcome| outcome.note.as_ref())) {
        (Some((pod, problem)), _) => Finding {
            holds: true,
            reason: problem.reason,
            message: format!("pod {pod} works, but: {}", problem.message),
        },
        (None, Some(note)) => Finding::notes(note),
        (None, None) => {
            let next = if outcome.is_some_and(|outcome| outcome.awaits_turn) { AWAITS_TURN } else { "" };
            Finding {
                holds: true,
                reason: Reason::AsSpecified.to_string(),
                message: format!("{} of {} ready{next}", rollout.ready, rollout.wanted),
            }
        }
    }
}

/// What there is to say of a worker that did its work before, where all that goes on is that pods are added or removed
/// while others go on; `None` where something else does. `note` is what is said while they leave. `before` is the condition
/// as it was told before: it was false from the moment on at which all pods were given another template, until the last one
/// had it.
pub fn judge_scaling(
    component: Component,
    workload: &LiveChild,
    pods: &[WorkerPod],
    note: Option<&Note>,
    before: Option<&Condition>,
    now: Timestamp,
) -> Option<Finding> {
    let rollout = workload.rollout();
    // Those that are held back go on while the others start anew to leave; those that are too many are others until they
    // have gone.
    let others_stay = rollout.held_back > 0 || rollout.updated >= rollout.existing.min(rollout.wanted);
    let others_work = rollout.wanted > 0 && rollout.ready > 0 && others_stay;
    let is_recent = |time: &Time| now.duration_since(time.0) < START;
    let is_new = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().is_some_and(is_recent);
    let mut of_this = pods.iter().filter(|pod| pod.component == component).map(|pod| &pod.pod);
    let all_come = rollout.existing >= rollout.wanted
        || creation_problem(workload).is_none()
            && (last_edit(workload).is_some_and(is_recent) || of_this.clone().any(is_new));
    let all_work =
        of_this.all(|pod| pod.metadata.deletion_timestamp.is_some() || is_ready(pod) || is_new(pod));
    let has_worked = before.is_some_and(|before| before.status == "True");
    (has_worked && others_work && all_come && all_work).then(|| match note {
        Some(note) => Finding::notes(note),
        None => Finding {
            holds: true,
            reason: Reason::AsSpecified.to_string(),
            message: format!("{} of {} ready, and the others come or go", rollout.ready, rollout.wanted),
        },
    })
}

/// When somebody last asked for other replicas or another template, as the API server notes it of each who writes.
fn last_edit(workload: &LiveChild) -> Option<&Time> {
    let writers = workload.object.metadata.managed_fields.iter().flatten();
    let editors = writers.filter(|writer| writer.subresource.as_deref() != Some("status"));
    editors.filter_map(|editor| editor.time.as_ref()).max_by_key(|time| time.0)
}

/// Why pods cannot even be created: a quota, or a policy of the namespace. A Deployment says so; of a StatefulSet only
/// Events do.
fn creation_problem(workload: &LiveChild) -> Option<Finding> {
    let conditions = workload.object.data.pointer("/status/conditions")?.as_array()?;
    let failure = conditions
        .iter()
        .find(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True")?;
    let why = failure["message"].as_str().unwrap_or_default();
    Some(Finding::fails(Reason::WorkersNotReady, format!("pods cannot be created: {why}")))
}

/// Whether Kubernetes takes a pod for ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Finding {
    /// A condition that holds, with something to say.
    fn notes(note: &Note) -> Self {
        Self { holds: true, reason: note.reason.to_string(), message: note.message.clone() }
    }

    /// A condition that does not hold.
    pub fn fails(reason: Reason, message: impl Into<String>) -> Self {
        Self { holds: false, reason: reason.to_string(), message: message.into() }
    }
}

fn why_none_runs(component: Component, suspend: Suspend) -> String {
    let gathers = match component {
        Component::Bridge => "messages gather at the MQTT broker, as far as its limits allow",
        Component::Processor => "messages gather in Kafka, as long as the topic's retention keeps them",
    };
    match suspend {
        Suspend::None => format!("spec.{component}.replicas is 0: {gathers}"),
        Suspend::Processor | Suspend::All => {
            format!("spec.suspend is {suspend:?}: {gathers}; set it to None to go on")
        }
    }
}

/// Why a pod is not ready, as far as that can be told. What changes from second to second (the back-off between two
/// attempts, the attempt itself) is left out, so that the status stays as it is while the trouble does.
pub fn pod_problem(pod: &WorkerPod) -> Option<Finding> {
    let name = pod.pod.name_any();
    let status = pod.pod.status.as_ref()?;
    let container =
        status.container_statuses.iter().flatten().find(|container| container.name == CONTAINER_NAME);
    if let Some(problem) = container.and_then(container_problem) {
        return Some(Finding::fails(Reason::WorkersNotReady, format!("pod {name}: {problem}")));
    }
    if let Some(problem) = pod.report.as_ref().and_then(|report| report.problem.as_ref()) {
        let is_starting = problem.reason == STARTING;
        let reason = if is_starting { Reason::Progressing.to_string() } else { problem.reason.clone() };
        return Some(Finding { holds: false, reason, message: format!("pod {name}: {}", problem.message) });
    }
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    let message = unschedulable.message.as_deref().unwrap_or_default();
    Some(Finding::fails(Reason::WorkersNotReady, format!("pod {name} finds no node: {message}")))
}

fn container_problem(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let waiting_reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    match waiting_reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => Some(format!(
            "ImagePullBackOff: image {} cannot be had; check its name, the registry and imagePullSecrets",
            container.image
        )),
        "" | "ContainerCreating" | "PodInitializing" | "CrashLoopBackOff" => {
            let last = container.last_state.as_ref()?.terminated.as_ref()?;
            let out_of_memory = last.reason.as_deref() == Some("OOMKilled");
            (!container.ready && out_of_memory)
                .then(|| "OOMKilled: the container needs more memory than its limit".to_owned())
                .or_else(|| {
                    (!container.ready && waiting_reason == "CrashLoopBackOff").then(|| {
                        format!(
                            "CrashLoopBackOff: the container ends with exit code {}; `kubectl logs --previous` \
                             tells why",
                            last.exit_code
                        )
                    })
                })
        }
        reason => {
            let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
            Some(format!("{reason}: {message}"))
        }
    }
}

#[cfg(test)]
mod tests;
