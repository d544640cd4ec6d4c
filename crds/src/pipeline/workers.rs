//! `spec.bridge` and `spec.processor`: how many workers there are, and what their pods are like.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::DurationText;

/// The workers from MQTT to Kafka.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("(self.mode == 'BuiltIn') == has(self.maxReplicas)")
        .message("maxReplicas is needed with mode BuiltIn, and has no meaning with another one"),
    validation = Rule::new("self.mode == 'BuiltIn' || !(has(self.minReplicas) || has(self.targetRate))")
        .message("minReplicas and targetRate have a meaning with mode BuiltIn only; leave them out"),
    validation = Rule::new("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("minReplicas must not be more than maxReplicas"),
)]
pub struct BridgeSpec {
    /// Who decides how many there are. Fixed (default): `replicas`. BuiltIn: the operator, between `minReplicas` and
    /// `maxReplicas`, by how many messages come; it needs `mqtt.session` Shared.
    #[serde(default)]
    pub mode: BridgeMode,
    /// How many bridges; more than one need `mqtt.session` Shared. One that leaves passes on what the broker holds for it and ends
    /// its session before its pod goes. With BuiltIn, how many there are at first.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,
    /// With BuiltIn: never fewer; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: Option<i32>,
    /// With BuiltIn: never more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: Option<i32>,
    /// With BuiltIn: how many messages a second one bridge shall carry; 10000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub target_rate: Option<i32>,
    /// CPU and memory of each; by default a limit on memory that follows `mqtt.maxInFlightBytes`, and none on CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How the pods are placed and labelled.
    #[serde(default)]
    pub pod: PodSpec,
}

/// Who decides how many bridges there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum BridgeMode {
    /// The spec's `replicas`.
    #[default]
    Fixed,
    /// The operator, by how many messages come.
    BuiltIn,
}

/// The workers from Kafka to TimescaleDB.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("(self.mode in ['BuiltIn', 'Advise']) == has(self.maxReplicas)")
        .message("maxReplicas is needed with mode BuiltIn or Advise, and has no meaning with another one"),
    validation = Rule::new("self.mode in ['BuiltIn', 'Advise'] || !(has(self.minReplicas) || has(self.targetDrain))")
        .message("minReplicas and targetDrain have a meaning with mode BuiltIn or Advise only; leave them out"),
    validation = Rule::new("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("minReplicas must not be more than maxReplicas"),
)]
pub struct ProcessorSpec {
    /// Who decides how many there are. Fixed (default): `replicas`. BuiltIn: the operator, between `minReplicas` and
    /// `maxReplicas`. Advise: `replicas`, and the status says what BuiltIn would do. External: an HPA or KEDA, which
    /// writes `replicas` by the scale subresource.
    #[serde(default)]
    pub mode: ProcessorMode,
    /// How many processors; `kubectl scale` and autoscalers write it too. At most one for each partition has work. With
    /// BuiltIn, how many there are at first.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// With BuiltIn or Advise: never fewer; 1 by default. With 0, none while nothing comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: Option<i32>,
    /// With BuiltIn or Advise: never more. More than the topic has partitions there never are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<i32>,
    /// With BuiltIn or Advise: within which time what waits in the topic shall be rows; 30s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_drain: Option<DurationText>,
    /// CPU and memory of each; by default a limit on memory, and none on CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How the pods are placed and labelled.
    #[serde(default)]
    pub pod: PodSpec,
}

/// Who decides how many processors there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ProcessorMode {
    /// The spec's `replicas`.
    #[default]
    Fixed,
    /// The operator, by what comes, what waits and what a processor was measured to do.
    BuiltIn,
    /// The spec's `replicas`; the status says what BuiltIn would do.
    Advise,
    /// An autoscaler that targets this resource's scale subresource, and so writes `replicas`.
    External,
}

/// How a worker's pods are placed and labelled.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// Secrets of this namespace with the credentials of an image registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Where the pods should or must be placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The pods' priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// More annotations on the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// More labels on the pods. Those of the operator win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Default for BridgeSpec {
    fn default() -> Self {
        Self {
            mode: BridgeMode::default(),
            replicas: default_replicas(),
            min_replicas: None,
            max_replicas: None,
            target_rate: None,
            resources: None,
            pod: PodSpec::default(),
        }
    }
}

impl Default for ProcessorSpec {
    fn default() -> Self {
        Self {
            mode: ProcessorMode::default(),
            replicas: default_replicas(),
            min_replicas: None,
            max_replicas: None,
            target_drain: None,
            resources: None,
            pod: PodSpec::default(),
        }
    }
}

fn default_replicas() -> i32 {
    1
}
