//! What happens when an IoTPipeline is deleted: its MQTT session is ended, then its workers go, then the topic and the
//! table, where it says `Delete` of them and created them.
//!
//! Where it says `mode: Observe`, nothing is ended and nothing deleted; Kubernetes itself removes the workers.
//!
//! Nothing is held for long: each of these is given up after a while, at once where the namespace goes too, and an
//! Event says what was left.

mod session;

use std::time::{Duration, Instant};

use crds::{
    IoTPipeline,
    names::{self, FINALIZER, SKIP_CLEANUP_ANNOTATION},
    pipeline::{DeletionPolicy, Mode, TableRef},
    status::Reason,
    worker::RoleConfig,
};
use jiff::Timestamp;
use kube::{Resource, ResourceExt, core::DeserializeGuard, runtime::controller::Action};

use super::{
    event::{Event, EventType},
    fetch::{LiveChild, Workers, fetch_secrets, fetch_workers, is_namespace_terminating},
    plan::{deletes_something, is_owned},
    status,
    validate::validate,
    write,
};
use crate::{
    build::ChildKind,
    change::Change,
    context::Context,
    error::Error,
    kafka,
    memory::{PipelineKey, key_of},
    pipeline::Pipeline,
    telemetry::chain,
    timescale::{Deleted, Session, TableDeletion},
};

/// How long to try to delete workers, topic and table: the pods' 45 seconds to stop, and some two minutes for Kafka
/// and the database.
const LIMIT: Duration = Duration::from_secs(165);

/// How long where the namespace goes: as long as the pods hold it anyway.
const LIMIT_IN_TERMINATING_NAMESPACE: Duration = Duration::from_secs(60);

/// How often to look whether the pods are gone, or the session ended.
const POD_WAIT: Duration = Duration::from_secs(2);

/// How far an attempt came.
enum Progress {
    /// All is deleted that was to be deleted.
    Done(Vec<Change>),
    /// Pods are still stopping.
    Waits(String),
    /// Something failed. Hopeless where it can never succeed.
    Fails { message: String, is_hopeless: bool },
}

/// Ends and deletes what there is to end and to delete, and lets the pipeline go.
///
/// # Errors
/// What could not be done is tried again, until it is given up.
pub async fn clean_up(object: &DeserializeGuard<IoTPipeline>, context: &Context) -> Result<Action, Error> {
    let key = key_of(object);
    if !object.finalizers().iter().any(|name| name == FINALIZER) {
        context.memory.forget(&key);
        return Ok(Action::await_change());
    }
    if object.annotations().get(SKIP_CLEANUP_ANNOTATION).is_some_and(|value| value == "true") {
        return give_up(object, "the annotation says so", &key, context).await;
    }
    if let Some(observed) = observed(object) {
        return leave(object, observed, &key, context).await;
    }
    let namespace_goes = is_namespace_terminating(&key.0, context).await?;
    if let Some((message, limit)) = end_session(object, namespace_goes, &key, context).await? {
        say_pending(object, &message, limit, &key, context).await?;
        return Ok(Action::requeue(POD_WAIT));
    }
    let progress = attempt(object, namespace_goes, context).await?;
    let now = Instant::now();
    let since =
        context.memory.update(&key, |remembered| *remembered.cleanup_failing_since.get_or_insert(now));
    let limit = if namespace_goes { LIMIT_IN_TERMINATING_NAMESPACE } else { LIMIT };
    let is_over = since.elapsed() > limit;
    match progress {
        Progress::Done(changes) => {
            for change in changes {
                let event = Event::new(EventType::Normal, "Changed", change.to_string());
                write::publish(context, object, event).await;
            }
            let_go(object, &key, context).await
        }
        Progress::Fails { message, is_hopeless } if is_hopeless || is_over => {
            give_up(object, &message, &key, context).await
        }
        Progress::Waits(message) if is_over => give_up(object, &message, &key, context).await,
        Progress::Waits(message) => {
            say_pending(object, &message, limit, &key, context).await?;
            Ok(Action::requeue(POD_WAIT))
        }
        Progress::Fails { message, .. } => {
            say_pending(object, &message, limit, &key, context).await?;
            Err(Error::CleanUp { message })
        }
    }
}

/// The object, if it says that nothing is to be changed.
fn observed(object: &DeserializeGuard<IoTPipeline>) -> Option<&IoTPipeline> {
    object.0.as_ref().ok().filter(|object| object.spec.mode == Mode::Observe)
}

/// Lets the pipeline go and leaves everything outside Kubernetes as it is, whatever the deletion policy says.
async fn leave(
    object: &DeserializeGuard<IoTPipeline>,
    observed: &IoTPipeline,
    key: &PipelineKey,
    context: &Context,
) -> Result<Action, Error> {
    if let Some(event) = session::leave_observed(observed, context) {
        write::publish(context, object, event).await;
    }
    let stores = stores_to_delete(observed);
    if !stores.is_empty() {
        let note = format!("Left as they are, because spec.mode is Observe: {}", stores.join(", "));
        write::publish(context, object, Event::new(EventType::Normal, "Retained", note)).await;
    }
    let_go(object, key, context).await
}

/// Ends the MQTT session, or gives it up, once; says what it waits for until then.
async fn end_session(
    object: &DeserializeGuard<IoTPipeline>,
    namespace_goes: bool,
    key: &PipelineKey,
    context: &Context,
) -> Result<Option<(String, Duration)>, Error> {
    let Ok(object) = &object.0 else { return Ok(None) };
    if context.memory.recall(key).session_is_over {
        return Ok(None);
    }
    let event = if namespace_goes {
        session::leave_in_terminating_namespace(object, context)
    } else {
        let workers = fetch_workers(object, context).await?;
        match session::end_session(object, &workers, key, context).await {
            session::Progress::Waits(message, limit) => return Ok(Some((message, limit))),
            session::Progress::Over(event) => event.map(|event| *event),
        }
    };
    context.memory.update(key, |remembered| remembered.session_is_over = true);
    if let Some(event) = event {
        write::publish(context, object, event).await;
    }
    Ok(None)
}

async fn attempt(
    object: &DeserializeGuard<IoTPipeline>,
    namespace_goes: bool,
    context: &Context,
) -> Result<Progress, Error> {
    let object = match &object.0 {
        Ok(object) => object,
        Err(unreadable) => {
            return Ok(Progress::Fails {
                message: format!("this operator cannot read the object: {}", unreadable.error),
                is_hopeless: namespace_goes,
            });
        }
    };
    if !deletes_something(&object.spec.deletion_policy) {
        return Ok(Progress::Done(Vec::new()));
    }
    let secrets = fetch_secrets(object, context).await?;
    // A program that does not compile is no reason to leave a topic behind.
    let pipeline = match validate(object, &secrets, None, &context.settings) {
        Ok(pipeline) => pipeline,
        // A Secret that went with the namespace will not come back.
        Err(invalid) => {
            return Ok(Progress::Fails { message: invalid.message, is_hopeless: namespace_goes });
        }
    };
    if let Some(message) = stop_workers(object, &pipeline, context).await? {
        return Ok(Progress::Waits(message));
    }
    Ok(match delete_stores(object, &pipeline, context).await {
        Ok(changes) => Progress::Done(changes),
        Err(message) => Progress::Fails { message, is_hopeless: namespace_goes },
    })
}

/// Deletes the workers; says what it waits for while some of their pods still run.
async fn stop_workers(
    object: &IoTPipeline,
    pipeline: &Pipeline,
    context: &Context,
) -> Result<Option<String>, Error> {
    let workers = fetch_workers(object, context).await?;
    let workloads = workloads_of(pipeline, &workers);
    for workload in &workloads {
        if workload.object.metadata.deletion_timestamp.is_none() {
            write::delete_child(context, &pipeline.id.namespace, workload).await?;
        }
    }
    let pods = workers.pods.len();
    let are_gone = workloads.is_empty() && pods == 0;
    Ok((!are_gone).then(|| format!("waits until the workers have stopped; {pods} pods are left")))
}

fn workloads_of<'a>(pipeline: &Pipeline, workers: &'a Workers) -> Vec<&'a LiveChild> {
    let is_workload =
        |child: &LiveChild| matches!(child.kind, ChildKind::StatefulSet | ChildKind::Deployment);
    workers.children.iter().filter(|child| is_workload(child) && is_owned(pipeline, child)).collect()
}

/// Deletes topic and table as far as the policy says so.
async fn delete_stores(
    object: &IoTPipeline,
    pipeline: &Pipeline,
    context: &Context,
) -> Result<Vec<Change>, String> {
    let mut session = context.databases.open(&pipeline.database).await.map_err(|error| chain(&error))?;
    let result = delete_in_session(object, pipeline, session.as_mut(), context).await;
    session.close().await;
    result
}

async fn delete_in_session(
    object: &IoTPipeline,
    pipeline: &Pipeline,
    session: &mut dyn Session,
    context: &Context,
) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    // The topic first: the note that it is ours is kept beside the table, and goes with it.
    if pipeline.deletion_policy.topic == DeletionPolicy::Delete {
        changes.extend(delete_topic(object, pipeline, session, context).await?);
    }
    if pipeline.deletion_policy.offsets == DeletionPolicy::Delete
        && let RoleConfig::Processor(processor) = &pipeline.processor.config.role
    {
        let deleted = context.kafka.delete_group(&pipeline.topic.kafka, &processor.consumer_group).await;
        changes.extend(deleted.map_err(|error| chain(&error))?);
    }
    let wanted = TableDeletion {
        table: pipeline.deletion_policy.table == DeletionPolicy::Delete,
        dead_letters: pipeline.deletion_policy.dead_letters() == DeletionPolicy::Delete,
    };
    if wanted.table || wanted.dead_letters {
        let deleted = session.delete_table(&pipeline.table, &pipeline.id, wanted).await;
        let Deleted { changes: made, adopted } = deleted.map_err(|error| chain(&error))?;
        changes.extend(made);
        for name in adopted {
            let note = format!("{name} stays: this IoTPipeline adopted it");
            write::publish(context, object, Event::new(EventType::Normal, "Retained", note)).await;
        }
    }
    Ok(changes)
}

async fn delete_topic(
    object: &IoTPipeline,
    pipeline: &Pipeline,
    session: &mut dyn Session,
    context: &Context,
) -> Result<Option<Change>, String> {
    let topic = &pipeline.topic;
    let observed = context.kafka.observe(&topic.kafka, &topic.name).await.map_err(|error| chain(&error))?;
    let key = observed.key(&topic.name);
    let table = session.observe(&pipeline.table, Some(&key)).await.map_err(|error| chain(&error))?;
    let manager = context.memory.disclaim_topic(&pipeline.key(), &key);
    let marker = table.topic_marker.as_ref();
    let is_adopted = table.topic_adopted && marker == Some(&pipeline.id);
    let Some(change) =
        kafka::plan_deletion(topic, &pipeline.id, marker, table.topic_adopted, manager.as_ref())
    else {
        if observed.topic.is_some() {
            let note = format!("topic {} stays: this IoTPipeline did not create it", topic.name);
            let event = if is_adopted {
                Event::new(EventType::Normal, "Retained", note)
            } else {
                Event::new(EventType::Warning, &Reason::TopicNotOwned.to_string(), note)
            };
            write::publish(context, object, event).await;
        }
        return Ok(None);
    };
    context.kafka.delete(&topic.kafka, &topic.name).await.map_err(|error| chain(&error))?;
    session.release_topic(&pipeline.table.schema, &pipeline.id, &key).await.map_err(|error| chain(&error))?;
    Ok(Some(change))
}

/// Lets the pipeline go although not all is deleted, and says so.
async fn give_up(
    object: &DeserializeGuard<IoTPipeline>,
    why: &str,
    key: &PipelineKey,
    context: &Context,
) -> Result<Action, Error> {
    let note = format!("Left behind: {}; {why}", left_behind(object, key, context));
    tracing::error!(namespace = key.0, pipeline = key.1, note, "A deleted pipeline was not cleaned up");
    let event = Event::new(EventType::Warning, "CleanupAbandoned", note);
    write::publish(context, object, event).await;
    let_go(object, key, context).await
}

/// What would have been ended and deleted.
fn left_behind(object: &DeserializeGuard<IoTPipeline>, key: &PipelineKey, context: &Context) -> String {
    let Ok(object) = &object.0 else { return "all that is not in Kubernetes".to_owned() };
    let spec = &object.spec;
    let mqtt = spec.mqtt.as_ref().filter(|_| !context.memory.recall(key).session_is_over);
    let session = mqtt.map(|mqtt| session::describe(object, mqtt, &context.settings.cluster_name));
    let parts: Vec<String> = session.into_iter().chain(stores_to_delete(object)).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// What is outside of Kubernetes, as far as the policy says that it goes.
fn stores_to_delete(object: &IoTPipeline) -> Vec<String> {
    let spec = &object.spec;
    let namespace = object.namespace().unwrap_or_default();
    let (policy, TableRef { schema, name }) = (&spec.deletion_policy, &spec.timescale.table);
    [
        (policy.topic, format!("topic {}", spec.kafka.topic.name)),
        (
            policy.offsets,
            format!("consumer group {}", spec.kafka.consumer_group(&namespace, &object.name_any())),
        ),
        (policy.table, format!("table {schema}.{name}")),
        (policy.dead_letters(), format!("table {schema}.{}", names::dead_letter_table(name))),
    ]
    .into_iter()
    .filter(|(policy, _)| *policy == DeletionPolicy::Delete)
    .map(|(_, name)| name)
    .collect()
}

async fn let_go(
    object: &DeserializeGuard<IoTPipeline>,
    key: &PipelineKey,
    context: &Context,
) -> Result<Action, Error> {
    let others: Vec<String> = object.finalizers().iter().filter(|name| *name != FINALIZER).cloned().collect();
    write::write_finalizers(context, object.meta(), &others).await?;
    context.builds.forget(key);
    context.memory.forget(key);
    Ok(Action::await_change())
}

async fn say_pending(
    object: &DeserializeGuard<IoTPipeline>,
    message: &str,
    limit: Duration,
    key: &PipelineKey,
    context: &Context,
) -> Result<(), Error> {
    let Ok(object) = &object.0 else { return Ok(()) };
    let session_is_over = context.memory.recall(key).session_is_over;
    let pending = status::cleanup_pending(object, message, limit, session_is_over, Timestamp::now());
    if object.status.as_ref() != Some(&pending) {
        write::write_status(context, object, &pending).await?;
    }
    Ok(())
}
