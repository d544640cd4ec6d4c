//! Ends the MQTT session of a pipeline that goes: the bridge is told to retire, unsubscribes, passes on what the broker
//! still holds for it, and ends the session. Otherwise the broker would queue messages for nobody.
//!
//! What to do is decided from the objects that are there and not from the spec, which may have become invalid.

use std::time::{Duration, Instant};

use crds::{
    IoTPipeline,
    names::{self, worker_name},
    pipeline::{MqttSpec, ProtocolVersion},
    worker::{Component, Retirement, WorkerStatus},
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
    Over(Option<Box<Event>>),
    /// The bridge is at it.
    Waits(String),
}

/// What is to be done about the session.
enum Step<'a> {
    /// There is no session, or none that anything is known of.
    Nothing,
    /// The bridge, with this configuration, goes on as if the pipeline stayed.
    Retire { bridge: &'a LiveChild, configuration: Value },
    /// The bridge is told to retire; this is what it says of itself, and why its pod is not ready.
    Waits { report: Option<&'a WorkerStatus>, problem: Option<String> },
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
    let retirement = report.and_then(|report| report.retirement);
    let now = Instant::now();
    let is_given_up = context.memory.update(key, |remembered| {
        let since = *remembered.retiring_since.get_or_insert(now);
        let runs_since = report.map(|_| *remembered.draining_since.get_or_insert(now));
        now - since > LIMIT || runs_since.is_some_and(|since| now - since > DRAIN_LIMIT)
    });
    let session = describe(object, mqtt, &context.settings.cluster_name);
    let why = match step {
        Step::Nothing => return Progress::Over(None),
        Step::Waits { .. } if retirement.is_some_and(|retirement| retirement.ended) => {
            let passed_on = retirement.map_or(0, |retirement| retirement.passed_on);
            let note = format!("{session} has ended; {passed_on} messages were passed on before");
            return Progress::Over(Some(Box::new(announce::event(EventType::Normal, "SessionEnded", note))));
        }
        Step::Lost(why) => Err(why.to_owned()),
        Step::Waits { problem, .. } => Ok(problem.unwrap_or_else(|| {
            let is_at_it = !is_given_up && report.is_some();
            let says =
                if is_at_it { "the bridge passes on what is left" } else { "the bridge is not done yet" };
            says.to_owned()
        })),
        Step::Retire { bridge, configuration } => {
            Ok(match retire(bridge, configuration, key, context).await {
                Ok(()) => "the bridge starts anew for it".to_owned(),
                Err(error) => chain(&error),
            })
        }
    };
    match why {
        Ok(message) if !is_given_up => Progress::Waits(format!("{session} is being ended: {message}")),
        Ok(why) | Err(why) => Progress::Over(Some(Box::new(leave(object, mqtt, &why, retirement, context)))),
    }
}

/// What to tell of a session that nobody ends, because the namespace goes and takes no new pod.
pub fn leave_in_terminating_namespace(object: &IoTPipeline, context: &Context) -> Option<Event> {
    let mqtt = object.spec.mqtt.as_ref().filter(|_| is_known(object))?;
    Some(leave(object, mqtt, "the namespace is being deleted", None, context))
}

/// What to tell of a session that nobody ends, because the spec says that nothing is to be changed.
pub fn leave_observed(object: &IoTPipeline, context: &Context) -> Option<Event> {
    let mqtt = object.spec.mqtt.as_ref().filter(|_| is_known(object))?;
    Some(leave(object, mqtt, "spec.mode is Observe", None, context))
}

fn leave(
    object: &IoTPipeline,
    mqtt: &MqttSpec,
    why: &str,
    retirement: Option<Retirement>,
    context: &Context,
) -> Event {
    let cluster_name = &context.settings.cluster_name;
    let session = describe(object, mqtt, cluster_name);
    let left = what_is_left(object, mqtt, retirement, cluster_name);
    let note = format!("{session} was not ended: {why}. {left}");
    tracing::warn!(
        namespace = object.namespace(),
        pipeline = object.name_any(),
        note,
        "An MQTT session is left"
    );
    announce::event(EventType::Warning, "SessionLeft", note)
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
        return if is_known(object) { Step::Lost("its bridge was deleted first") } else { Step::Nothing };
    };
    let Some(configuration) = workers.bridge_configuration(&name) else {
        return Step::Lost("the configuration of its bridge is lost");
    };
    if configuration["role"]["bridge"]["retire"] != Value::Bool(true) {
        return Step::Retire { bridge, configuration };
    }
    let pods = || workers.pods.iter().filter(|pod| runs(pod, bridge));
    Step::Waits {
        report: pods().find_map(|pod| pod.report.as_ref()),
        problem: pods().find_map(pod_problem).map(|problem| problem.message),
    }
}

/// Whether a bridge of this pipeline was seen to have a session. The status says so until the session is ended.
fn is_known(object: &IoTPipeline) -> bool {
    let bridge = object.status.as_ref().and_then(|status| status.bridge.as_ref());
    bridge.is_some_and(|bridge| !bridge.filters.is_empty())
}

/// Whether a pod was made by this very workload, as it is now; what only has its labels may be anybody's.
fn runs(pod: &WorkerPod, workload: &LiveChild) -> bool {
    let uid = workload.object.uid();
    let volumes = pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut config_maps = volumes.filter_map(|volume| volume.config_map.as_ref());
    pod.pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
        && config_maps.any(|config_map| Some(config_map.name.as_str()) == workload.configuration())
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
    retirement: Option<Retirement>,
    cluster_name: &str,
) -> String {
    let messages = match retirement {
        Some(Retirement { passed_on, in_flight, .. }) => format!(
            "{passed_on} messages were passed on, {in_flight} more were on their way to Kafka, and the broker may hold \
             others"
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
