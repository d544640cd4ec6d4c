//! What tells a bridge to retire: its own configuration with one word more. Pure.
//!
//! It is made from the objects in the cluster, because a pipeline that goes may have no valid spec any more.

use std::collections::BTreeMap;

use crds::names::WORKER_CONFIG_KEY;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{ResourceExt, api::DynamicObject};
use serde_json::{Value, json};
use snafu::ResultExt;

use super::{Child, ChildKind, Error, Snafu, child, pod::CONFIG_VOLUME, short_hash};

/// What makes a bridge retire.
#[derive(Debug)]
pub struct Retirement {
    /// Its last configuration.
    pub config_map: Child,
    /// What to change in its StatefulSet (a strategic merge), so that its pods run with it.
    pub patch: Value,
}

/// Builds what makes these bridges, which run with this configuration, retire: all of them, and as many as there may be
/// sessions.
///
/// # Errors
/// Fails where the configuration has no JSON form, which it has just had.
pub fn build_retirement(
    bridge: &DynamicObject,
    mut configuration: Value,
    sessions: i32,
) -> Result<Retirement, Error> {
    configuration["role"]["bridge"]["retire"] = Value::Bool(true);
    let worker_name = bridge.name_any();
    let content =
        serde_json::to_string_pretty(&configuration).with_context(|_| Snafu { name: worker_name.clone() })?;
    let name = format!("{worker_name}-{}", short_hash(&content));
    let config_map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: bridge.namespace(),
            labels: bridge.metadata.labels.clone(),
            owner_references: bridge.metadata.owner_references.clone(),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some(BTreeMap::from([(WORKER_CONFIG_KEY.to_owned(), content)])),
        ..ConfigMap::default()
    };
    let volume = json!({"name": CONFIG_VOLUME, "configMap": {"name": name}});
    Ok(Retirement {
        config_map: child(ChildKind::ConfigMap, &config_map)?,
        // A pod for each session, although the pipeline may be suspended: it still gathers messages. And none keeps the
        // template that it has.
        patch: json!({
            "metadata": {"uid": bridge.uid()},
            "spec": {
                "replicas": sessions,
                "updateStrategy": {"rollingUpdate": {"partition": 0}},
                "template": {"spec": {"volumes": [volume]}},
            },
        }),
    })
}
