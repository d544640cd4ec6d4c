//! Every write of the operator to the Kubernetes API, each counted in `iotpipeline_api_writes_total`. Called by
//! `apply`, `cleanup` and the end of a reconciliation; decides nothing.

use std::fmt::Debug;

use crds::{IoTPipeline, IoTPipelineStatus, names::FIELD_MANAGER};
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Pod, events::v1};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
    core::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use snafu::ResultExt;

use super::{
    event::{Event, said_again},
    fetch::LiveChild,
    plan::ReplicasPatch,
};
use crate::{
    build::Child,
    context::Context,
    error::{
        ApplyChildSnafu, DeleteChildSnafu, Error, RemovePodSnafu, WriteFinalizersSnafu, WriteStatusSnafu,
    },
};

/// Writes a child as a whole (server-side apply): what the operator no longer names goes.
///
/// # Errors
/// Fails where the API server refuses or does not answer.
pub async fn apply_child(context: &Context, namespace: &str, child: &Child) -> Result<(), Error> {
    let Child { kind, name, object } = child;
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &kind.resource());
    tracing::info!(namespace, %kind, name, "Applying an object");
    context.metrics.record_write("patch", kind);
    api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object))
        .await
        .context(ApplyChildSnafu { kind: *kind, name })?;
    Ok(())
}

/// Changes a child in part (a strategic merge).
///
/// # Errors
/// Fails where the API server refuses or does not answer.
pub async fn patch_child(
    context: &Context,
    namespace: &str,
    child: &LiveChild,
    patch: &Value,
) -> Result<(), Error> {
    let kind = child.kind;
    let name = child.object.name_any();
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &kind.resource());
    tracing::info!(namespace, %kind, name, "Changing an object");
    context.metrics.record_write("patch", kind);
    api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .context(ApplyChildSnafu { kind, name })?;
    Ok(())
}

/// Changes the number of pods of a workload, if it still is the same one.
///
/// # Errors
/// Fails where the API server refuses or does not answer.
pub async fn scale(context: &Context, namespace: &str, scaling: &ReplicasPatch) -> Result<(), Error> {
    let ReplicasPatch { live, replicas } = scaling;
    let patch = json!({"metadata": {"uid": live.object.metadata.uid}, "spec": {"replicas": replicas}});
    patch_child(context, namespace, live, &patch).await
}

/// Deletes a child, if it still is the same object. One that is gone already is deleted already.
///
/// # Errors
/// Fails where the API server refuses or does not answer.
pub async fn delete_child(context: &Context, namespace: &str, child: &LiveChild) -> Result<(), Error> {
    let kind = child.kind;
    let name = child.object.name_any();
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &kind.resource());
    tracing::info!(namespace, %kind, name, "Deleting an object");
    context.metrics.record_write("delete", kind);
    delete(&api, &child.object, DeleteParams::background()).await.context(DeleteChildSnafu { kind, name })
}

/// Removes a pod without waiting for its node, if it still is the same pod.
///
/// # Errors
/// Fails where the API server refuses or does not answer.
pub async fn remove_pod(context: &Context, pod: &Pod) -> Result<(), Error> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    tracing::warn!(namespace, name, "Removing a pod whose node does not answer");
    context.metrics.record_write("delete", "Pod");
    delete(&api, pod, DeleteParams::default().grace_period(0)).await.context(RemovePodSnafu { name })
}

/// Deletes an object, if it still is the same one.
async fn delete<K>(api: &Api<K>, object: &K, how: DeleteParams) -> kube::Result<()>
where
    K: Clone + Debug + DeserializeOwned + Resource,
{
    let same_object = Preconditions { uid: object.uid(), resource_version: None };
    match api.delete(&object.name_any(), &how.preconditions(same_object)).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// Writes the whole status.
///
/// # Errors
/// Fails where the API server refuses or does not answer.
pub async fn write_status(
    context: &Context,
    object: &IoTPipeline,
    status: &IoTPipelineStatus,
) -> Result<(), Error> {
    let api: Api<IoTPipeline> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": IoTPipeline::api_version(&()),
        "kind": IoTPipeline::kind(&()),
        // Without it an apply would create a pipeline that was deleted a moment ago.
        "metadata": {"uid": object.uid()},
        "status": status,
    });
    context.metrics.record_write("patch", "IoTPipeline/status");
    api.patch_status(&object.name_any(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch))
        .await
        .context(WriteStatusSnafu)?;
    Ok(())
}

/// Notes in the status how many sessions bridges may have at the MQTT broker, before they do. Answers the status with it.
///
/// # Errors
/// Fails where the API server refuses or does not answer.
pub async fn note_sessions(
    context: &Context,
    object: &IoTPipeline,
    sessions: i32,
) -> Result<IoTPipelineStatus, Error> {
    let mut status = object.status.clone().unwrap_or_default();
    status.bridge.get_or_insert_default().sessions = Some(sessions);
    write_status(context, object, &status).await?;
    Ok(status)
}

/// Replaces the finalizers of a pipeline, if nothing else has changed it meanwhile.
///
/// # Errors
/// Fails where the API server refuses or does not answer, a conflict included.
pub async fn write_finalizers(
    context: &Context,
    pipeline: &ObjectMeta,
    finalizers: &[String],
) -> Result<(), Error> {
    // As an untyped object, so that one that this operator cannot read can be let go too.
    let resource = kube::api::ApiResource::erase::<IoTPipeline>(&());
    let namespace = pipeline.namespace.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let patch = json!({
        "metadata": {"resourceVersion": pipeline.resource_version, "finalizers": finalizers},
    });
    context.metrics.record_write("patch", "IoTPipeline");
    api.patch(pipeline.name.as_deref().unwrap_or_default(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .context(WriteFinalizersSnafu)?;
    Ok(())
}

/// Publishes an Event about a pipeline. One that cannot be published is only logged: nothing depends on it, and a
/// namespace that is being deleted takes none.
pub async fn publish<K: Resource<DynamicType = ()>>(context: &Context, object: &K, event: Event) {
    let (regarding, now) = (object.object_ref(&()), Timestamp::now());
    let namespace = regarding.namespace.clone().unwrap_or_default();
    let api: Api<v1::Event> = Api::namespaced(context.client.clone(), &namespace);
    let first = event.first(regarding, &context.instance, now);
    if let Err(error) = say(context, &api, &first, now).await {
        tracing::warn!(reason = event.reason, note = event.note, %error, "An Event could not be published");
    }
}

async fn say(context: &Context, api: &Api<v1::Event>, first: &v1::Event, now: Timestamp) -> kube::Result<()> {
    context.metrics.record_write("create", "Event");
    match api.create(&PostParams::default(), first).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        result => return result.map(|_| ()),
    }
    // It was said before.
    let name = first.name_any();
    let patch = said_again(&api.get(&name).await?, now);
    context.metrics.record_write("patch", "Event");
    api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
}
