//! Pipelines for tests: written as YAML and parsed by the real `validate`, because one made by hand could be one
//! that no spec leads to.

use std::collections::BTreeMap;

use crds::IoTPipeline;
use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, networking::v1::NetworkPolicyPeer},
};
use serde_json::json;

use crate::{
    build::{WorkerImage, WorkerSettings},
    pipeline::Pipeline,
    reconcile::validate::{Secrets, Settings, validate},
};

/// A small pipeline. More of the spec can be written behind it.
pub const QUICKSTART: &str = r"
apiVersion: iotpipeline.dev/v1alpha1
kind: IoTPipeline
metadata: {name: line, namespace: plant-7, uid: 6f2b, generation: 4, resourceVersion: '17'}
spec:
  mqtt:
    url: mqtt://mosquitto.mqtt:1883
    subscriptions: [{filter: plants/+/telemetry}]
    credentialsSecretRef: {name: mqtt-user}
  kafka:
    bootstrapServers: kafka.kafka:9092
    topic: {name: plant-7.line, partitions: 3, replicationFactor: 1}
  timescale:
    secretRef: {name: tsdb-app}
    table: {schema: plant_7, name: line}
    columns:
      - {name: time, type: timestamptz, from: .ts}
      - {name: device, type: text, nullable: false}
    timeColumn: time
";

/// The object that a YAML text stands for.
pub fn object(yaml: &str) -> IoTPipeline {
    serde_saphyr::from_str(yaml).unwrap()
}

/// The Secrets that [`QUICKSTART`] refers to.
pub fn secrets() -> Secrets {
    let secret = |pairs: &[(&str, &str)]| Secret {
        data: Some(
            pairs.iter().map(|(key, value)| ((*key).to_owned(), ByteString((*value).into()))).collect(),
        ),
        ..Secret::default()
    };
    BTreeMap::from([
        ("mqtt-user".to_owned(), Some(secret(&[("username", "bridge"), ("password", "hunter2")]))),
        (
            "tsdb-app".to_owned(),
            Some(secret(&[("uri", "postgres://app:hunter2@timescaledb.timescaledb:5432/iot")])),
        ),
    ])
}

/// The validated pipeline that a YAML text stands for.
pub fn pipeline(yaml: &str) -> Pipeline {
    validate(&object(yaml), &secrets(), None, &settings()).unwrap()
}

/// The operator's settings.
pub fn settings() -> Settings {
    Settings { cluster_name: "test".to_owned() }
}

/// The workers' image.
pub fn image() -> WorkerImage {
    WorkerImage { reference: "docker.io/iotpipeline/worker:0.1.0".to_owned(), pull_policy: None }
}

/// The operator's pods, as those who may reach the workers.
pub fn peers() -> Vec<NetworkPolicyPeer> {
    let peer = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "iotpipeline-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "iotpipeline-operator"}},
    });
    vec![serde_json::from_value(peer).unwrap()]
}

/// What shapes the objects of every pipeline.
pub fn worker_settings() -> WorkerSettings {
    WorkerSettings { image: image(), ingress_from: Some(peers()) }
}
