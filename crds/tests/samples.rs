//! Every IoTPipeline of `config/samples/` is one that the API server accepts and the operator reads.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod api_server;

use std::{fs, path::Path};

use api_server::ApiServer;
use kube::CustomResourceExt;
use serde_json::Value;

#[test]
fn every_sample_is_accepted_and_read() {
    let samples = samples();
    assert!(samples.len() >= 3, "only {} samples found", samples.len());
    let api_server = ApiServer::new();
    for (file, sample) in samples {
        assert_eq!(api_server.refusals(&sample, None), Vec::<String>::new(), "{file}");
        let read: crds::IoTPipeline = serde_json::from_value(sample.clone())
            .unwrap_or_else(|error| panic!("the operator cannot read {file}: {error}"));
        // Whatever is written in a sample is still there when the operator writes it down again.
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(missing(&sample, &written, String::new()), Vec::<String>::new(), "{file}");
    }
}

#[test]
fn the_tour_names_every_field() {
    let sample = |name: &str| samples().into_iter().find(|(file, _)| file == name).unwrap().1;
    let mut spec = sample("every-field.yaml")["spec"].clone();
    // Its session belongs to one bridge, which leaves nothing to scale.
    let scaled = sample("bridge-autoscaling.yaml")["spec"]["bridge"].clone();
    spec["bridge"] = merged(&[scaled, spec["bridge"].clone()]);
    // Both workers' pods have the same fields: what one shows, the other need not.
    let pods = [spec["bridge"]["pod"].clone(), spec["processor"]["pod"].clone()];
    spec["bridge"]["pod"] = merged(&pods);
    spec["processor"]["pod"] = merged(&pods);
    // Excluded by `level`.
    spec["kafka"]["key"]["path"] = Value::Null;
    let definition = serde_json::to_value(crds::IoTPipeline::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(unnamed(schema, &spec, "spec".to_owned()), Vec::<String>::new());
}

/// The documents of kind IoTPipeline, with the names of their files.
fn samples() -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples");
    let mut samples = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        samples.extend(
            documents
                .into_iter()
                .filter(|document| document["kind"] == "IoTPipeline")
                .map(|document| (file.clone(), document)),
        );
    }
    samples
}

/// Paths of what `written` lacks or changes.
fn missing(sample: &Value, written: &Value, path: String) -> Vec<String> {
    match (sample, written) {
        (Value::Object(sample), Value::Object(written)) => sample
            .iter()
            .flat_map(|(name, value)| {
                missing(value, written.get(name).unwrap_or(&Value::Null), format!("{path}.{name}"))
            })
            .collect(),
        (Value::Array(sample), Value::Array(written)) if sample.len() == written.len() => sample
            .iter()
            .zip(written)
            .enumerate()
            .flat_map(|(index, (sample, written))| missing(sample, written, format!("{path}[{index}]")))
            .collect(),
        (sample, written) if sample == written => Vec::new(),
        _ => vec![path],
    }
}

/// Paths of the project's own fields that the sample does not show. What lies inside a Kubernetes type
/// (resources, affinity, tolerations) is Kubernetes' own matter.
fn unnamed(schema: &Value, sample: &Value, path: String) -> Vec<String> {
    const KUBERNETES_TYPES: [&str; 4] = [".resources", ".affinity", ".tolerations", ".imagePullSecrets"];
    if KUBERNETES_TYPES.iter().any(|name| path.ends_with(name)) {
        return Vec::new();
    }
    if let (Some(items), Some(samples)) = (schema.get("items"), sample.as_array()) {
        return unnamed(items, &merged(samples), format!("{path}[]"));
    }
    let Some(properties) = schema["properties"].as_object() else { return Vec::new() };
    properties
        .iter()
        .flat_map(|(name, schema)| {
            let path = format!("{path}.{name}");
            match sample.get(name) {
                Some(sample) => unnamed(schema, sample, path),
                None => vec![path],
            }
        })
        .collect()
}

/// One object with the fields of all of them.
fn merged(objects: &[Value]) -> Value {
    let fields = objects.iter().filter_map(Value::as_object).flatten();
    Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
}
