//! Ends the MQTT session of a pipeline that goes: the bridge is told to retire, unsubscribes, passes on what the broker
//! still holds for it, and ends the session. Otherwise the broker would queue messages for nobody.
//!
//! What to do is decided from the objects that are there and not from the spec, which may have become invalid.

use std::time::{Duration, Instant};

use crds::{
    IoTPipeline,
    names::{self, worker_name},
    pipeline::{MqttSpec, ProtocolVersion},
    worker::{Component, Retirement},
};
use kube::{
    Resource, ResourceExt,
    runtime::events::{Event, EventType},
};
use serde_json::Value;
use snafu::ResultExt;

use crate::{
    build::{retirement::build_retirement, workload_kind},
    context::Context,
    error::{BuildSnafu, Error},
    memory::PipelineKey,
    reconcile::{
        announce,
        fetch::{LiveChild, WorkerPod, Workers},
        health::pod_problem,
        plan::is_owned_by,
        write,
    },
    telemetry::chain,
};

/// How long to wait for the bridge, its predecessor's end and its own start included.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a bridge that runs may take to pass on what is left.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// How far it has come.
pub enum Progress {
    /// There is nothing to wait for any more, and this to tell of it.
    Over(Option<Event>),
    /// The bridge is at it.
    Waits(String),
}

/// What is to be done about the session.
enum Step<'a> {
    /// There is no session, or none that anything is known of.
    Nothing,
    /// The bridge, with this configuration, goes on as if the pipeline stayed.
    Retire { bridge: &'a LiveChild, configuration: Value },
    /// The bridge is told to retire.
    Waits { report: Option<Retirement>, says: Option<String> },
    /// Nobody is left to end the session.
    Lost(&'static str),
}

/// Does the next step. What the API server refuses is tried again, for as long as there is time.
pub async fn end_session(
    object: &IoTPipeline,
    workers: &Workers,
    key: &PipelineKey,
    context: &Context,
) -> Progress {
    let Some(mqtt) = &object.spec.mqtt else { return Progress::Over(None) };
    let step = next_step(object, workers);
    let report = if let Step::Waits { report, .. } = &step { *report } else { None };
    let now = Instant::now();
    let is_given_up = context.memory.update(key, |remembered| {
        let since = *remembered.retiring_since.get_or_insert(now);
        let runs_since = report.map(|_| *remembered.draining_since.get_or_insert(now));
        now - since > LIMIT || runs_since.is_some_and(|since| now - since > DRAIN_LIMIT)
    });
    let session = describe(object, mqtt, &context.settings.cluster_name);
    let why = match step {
        Step::Nothing => return Progress::Over(None),
        Step::Waits { report: Some(report), .. } if report.ended => {
            let note = format!("{session} has ended; {} messages were passed on before", report.passed_on);
            return Progress::Over(Some(announce::event(EventType::Normal, "SessionEnded", note)));
        }
        Step::Lost(why) => Err(why.to_owned()),
        Step::Waits { says, .. } => {
            Ok(says.unwrap_or_else(|| "the bridge passes on what is left".to_owned()))
        }
        Step::Retire { bridge, configuration } => {
            Ok(match retire(bridge, configuration, key, context).await {
                Ok(()) => "the bridge starts anew for it".to_owned(),
                Err(error) => chain(&error),
            })
        }
    };
    match why {
        Ok(message) if !is_given_up => Progress::Waits(format!("{session} is being ended: {message}")),
        Ok(why) | Err(why) => {
            let left = what_is_left(object, mqtt, report, &context.settings.cluster_name);
            let note = format!("{session} was not ended: {why}. {left}");
            tracing::warn!(namespace = key.0, pipeline = key.1, note, "An MQTT session is left");
            Progress::Over(Some(announce::event(EventType::Warning, "SessionLeft", note)))
        }
    }
}

/// Tells the bridge to retire.
async fn retire(
    bridge: &LiveChild,
    configuration: Value,
    key: &PipelineKey,
    context: &Context,
) -> Result<(), Error> {
    let retirement = build_retirement(&bridge.object, configuration).context(BuildSnafu)?;
    write::apply_child(context, &key.0, &retirement.config_map).await?;
    write::patch_child(context, &key.0, bridge, &retirement.patch).await
}

/// The session, as a person would look for it.
pub fn describe(object: &IoTPipeline, mqtt: &MqttSpec, cluster_name: &str) -> String {
    format!("MQTT session {} at {}", client_id(object, mqtt, cluster_name), mqtt.url)
}

fn next_step<'a>(object: &IoTPipeline, workers: &'a Workers) -> Step<'a> {
    let name = object.name_any();
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    let bridge = workers
        .child(workload_kind(Component::Bridge), &worker_name(&name, Component::Bridge))
        .filter(|bridge| is_owned_by(uid, bridge) && bridge.object.metadata.deletion_timestamp.is_none());
    let Some(bridge) = bridge else {
        // A bridge that was granted a filter has a session; this says so until the session is ended.
        let status = object.status.as_ref().and_then(|status| status.bridge.as_ref());
        let is_known = status.is_some_and(|bridge| !bridge.filters.is_empty());
        return if is_known { Step::Lost("its bridge was deleted first") } else { Step::Nothing };
    };
    let Some(configuration) = workers.bridge_configuration(&name) else {
        return Step::Lost("the configuration of its bridge is lost");
    };
    if configuration["role"]["bridge"]["retire"] != Value::Bool(true) {
        return Step::Retire { bridge, configuration };
    }
    let pods = || workers.pods.iter().filter(|pod| is_of(pod, bridge));
    let report = pods().find_map(|pod| pod.report.as_ref()?.retirement);
    Step::Waits { report, says: pods().find_map(pod_problem).map(|problem| problem.message) }
}

/// Whether a pod was made by this very workload; what has its labels may be anybody's.
fn is_of(pod: &WorkerPod, workload: &LiveChild) -> bool {
    let uid = workload.object.uid();
    pod.pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
}

fn client_id(object: &IoTPipeline, mqtt: &MqttSpec, cluster_name: &str) -> String {
    mqtt.client_id.clone().unwrap_or_else(|| {
        let namespace = object.namespace().unwrap_or_default();
        names::default_client_id(cluster_name, &namespace, &object.name_any())
    })
}

/// What becomes of a session that nobody ended.
fn what_is_left(
    object: &IoTPipeline,
    mqtt: &MqttSpec,
    report: Option<Retirement>,
    cluster_name: &str,
) -> String {
    let messages = match report {
        Some(report) => format!(
            "{} messages were passed on, {} more were on their way to Kafka, and the broker may hold others",
            report.passed_on, report.in_flight
        ),
        None => "What the broker holds for it was not passed on".to_owned(),
    };
    let expiry = match mqtt.protocol_version {
        ProtocolVersion::V5 => format!("{} after the bridge left", mqtt.session_expiry),
        ProtocolVersion::V311 => "when its own settings say so".to_owned(),
    };
    format!(
        "{messages}; the broker drops it {expiry}. To end it now, connect to the broker once with this client id and a \
         clean start, as mosquitto_sub -i '{}' -t x -E does",
        client_id(object, mqtt, cluster_name)
    )
}
