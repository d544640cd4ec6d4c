//! Ends the MQTT sessions of a pipeline that goes: each bridge is told to retire, unsubscribes, passes on what the broker
//! still holds for it, and ends its session. Otherwise the broker would queue messages for nobody.
//!
//! What to do is decided from the objects that are there and not from the spec, which may have become invalid.

use std::time::{Duration, Instant};

use crds::{
    IoTPipeline, names,
    pipeline::{MqttSpec, ProtocolVersion},
    worker::{Component, Retirement},
};
use kube::{Resource, ResourceExt};
use serde_json::Value;
use snafu::ResultExt;

use crate::{
    build::retirement::build_retirement,
    context::Context,
    error::{BuildSnafu, Error},
    memory::PipelineKey,
    reconcile::{
        event::{Event, EventType},
        fetch::{LiveChild, Workers},
        health::pod_problem,
        plan::is_owned_by,
        sessions::{bridge_pod, is_shared, known_sessions, noted_sessions},
        write,
    },
    telemetry::chain,
};

/// How long to wait for the bridge, its predecessor's end and its own start included.
const LIMIT: Duration = Duration::from_secs(120);

/// How much longer for each further bridge: a StatefulSet starts them anew one after the other.
const LIMIT_OF_ANOTHER: Duration = Duration::from_secs(15);

/// How long a bridge that runs may take to pass on what is left.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// How long to wait until so many sessions have ended.
fn limit(sessions: i32) -> Duration {
    LIMIT + LIMIT_OF_ANOTHER * sessions.unsigned_abs().saturating_sub(1)
}

/// How far it has come.
pub enum Progress {
    /// There is nothing to wait for any more, and this to tell of it.
    Over(Option<Box<Event>>),
    /// The bridge is at it, and may be for so long.
    Waits(String, Duration),
}

/// What is to be done about the session.
enum Step<'a> {
    /// There is no session, or none that anything is known of.
    Nothing,
    /// The bridges, with this configuration, go on as if the pipeline stayed.
    Retire { bridge: &'a LiveChild, configuration: Value },
    /// The bridges are told to retire; this is what those say that answer, whether all do, and why the pod of one is not
    /// ready.
    Waits { retirement: Option<Retirement>, all_run: bool, problem: Option<String> },
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
    let sessions = known_sessions(object, workers);
    let step = next_step(object, workers, sessions);
    let retirement = if let Step::Waits { retirement, .. } = &step { *retirement } else { None };
    let now = Instant::now();
    let all_run = matches!(step, Step::Waits { all_run: true, .. });
    let is_given_up = context.memory.update(key, |remembered| {
        let since = *remembered.retiring_since.get_or_insert(now);
        let run_since = all_run.then(|| *remembered.draining_since.get_or_insert(now));
        now - since > limit(sessions) || run_since.is_some_and(|since| now - since > DRAIN_LIMIT)
    });
    let session = describe(object, mqtt, &context.settings.cluster_name);
    let why = match step {
        Step::Nothing => return Progress::Over(None),
        Step::Waits { .. } if retirement.is_some_and(|retirement| retirement.ended) => {
            let passed_on = retirement.map_or(0, |retirement| retirement.passed_on);
            let note = format!("{session} has ended; {passed_on} messages were passed on before");
            return Progress::Over(Some(Box::new(Event::new(EventType::Normal, "SessionEnded", note))));
        }
        Step::Lost(why) => Err(why.to_owned()),
        Step::Waits { problem, .. } => Ok(problem.unwrap_or_else(|| {
            let is_at_it = !is_given_up && retirement.is_some();
            let says =
                if is_at_it { "the bridge passes on what is left" } else { "the bridge is not done yet" };
            says.to_owned()
        })),
        Step::Retire { bridge, configuration } => {
            Ok(match retire(bridge, configuration, sessions, key, context).await {
                Ok(()) => "the bridge starts anew for it".to_owned(),
                Err(error) => chain(&error),
            })
        }
    };
    match why {
        Ok(message) if !is_given_up => {
            Progress::Waits(format!("{session} is being ended: {message}"), limit(sessions))
        }
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
    Event::new(EventType::Warning, "SessionLeft", note)
}

/// Tells the bridges to retire.
async fn retire(
    bridge: &LiveChild,
    configuration: Value,
    sessions: i32,
    key: &PipelineKey,
    context: &Context,
) -> Result<(), Error> {
    let retirement = build_retirement(&bridge.object, configuration, sessions).context(BuildSnafu)?;
    write::apply_child(context, &key.0, &retirement.config_map).await?;
    write::patch_child(context, &key.0, bridge, &retirement.patch).await
}

/// The session, as a person would look for it.
pub fn describe(object: &IoTPipeline, mqtt: &MqttSpec, cluster_name: &str) -> String {
    let client_id = client_id(object, mqtt, cluster_name);
    let of_bridge = |ordinal| names::bridge_client_id(&client_id, ordinal);
    match noted_sessions(object) {
        1 => format!("MQTT session {client_id} at {}", mqtt.url),
        2 => format!("MQTT sessions {client_id} and {} at {}", of_bridge(1), mqtt.url),
        more => {
            let last = of_bridge(more.unsigned_abs() - 1);
            format!("MQTT sessions {client_id}, {} to {last} at {}", of_bridge(1), mqtt.url)
        }
    }
}

fn next_step<'a>(object: &IoTPipeline, workers: &'a Workers, sessions: i32) -> Step<'a> {
    let name = object.name_any();
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    let bridge = workers
        .workload(&name, Component::Bridge)
        .filter(|bridge| is_owned_by(uid, bridge) && bridge.object.metadata.deletion_timestamp.is_none());
    let Some(bridge) = bridge else {
        return if is_known(object) { Step::Lost("its bridge was deleted first") } else { Step::Nothing };
    };
    let Some(configuration) = workers.bridge_configuration(&name) else {
        return Step::Lost("the configuration of its bridge is lost");
    };
    // Without an ordinal each would be the first one.
    let sessions = if is_shared(&configuration) { sessions } else { 1 };
    let is_told = configuration["role"]["bridge"]["retire"] == Value::Bool(true);
    if !is_told || bridge.rollout().wanted < sessions {
        return Step::Retire { bridge, configuration };
    }
    let pods: Vec<_> = (0..sessions).map(|ordinal| bridge_pod(workers, bridge, ordinal)).collect();
    let retirements: Vec<_> = pods.iter().map(|pod| (*pod)?.report.as_ref()?.retirement).collect();
    Step::Waits {
        retirement: all_of(&retirements),
        all_run: retirements.iter().all(Option::is_some),
        problem: pods.into_iter().flatten().find_map(pod_problem).map(|problem| problem.message),
    }
}

/// What bridges say together: they are done once each is. `None` where none says anything.
fn all_of(retirements: &[Option<Retirement>]) -> Option<Retirement> {
    let told = || retirements.iter().flatten();
    told().next()?;
    Some(Retirement {
        ended: told().filter(|retirement| retirement.ended).count() == retirements.len(),
        passed_on: told().map(|retirement| retirement.passed_on).sum(),
        in_flight: told().map(|retirement| retirement.in_flight).sum(),
    })
}

/// Whether a bridge of this pipeline was seen to have a session. The status says so until the session is ended.
fn is_known(object: &IoTPipeline) -> bool {
    let bridge = object.status.as_ref().and_then(|status| status.bridge.as_ref());
    bridge.is_some_and(|bridge| !bridge.filters.is_empty())
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
        "{messages}; the broker drops it {expiry}. To end it now, connect to the broker once with {} client id and a \
         clean start, as mosquitto_sub -i '{}' -t x -E does",
        if noted_sessions(object) == 1 { "this" } else { "each" },
        client_id(object, mqtt, cluster_name)
    )
}
