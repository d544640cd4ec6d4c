//! The operator accepts every IoTPipeline of `config/samples/` whose Secrets are there: its program compiles too.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use crds::IoTPipeline;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use operator::{
    compiler::Source,
    reconcile::validate::{Secrets, Settings, referenced_secrets, validate},
};
use serde_json::{Value, json};

/// What holds as a certificate and as a private key.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

#[test]
fn the_operator_accepts_every_sample() {
    let samples = samples();
    assert!(samples.len() >= 11, "only {} samples found", samples.len());
    for (file, mut sample) in samples {
        sample["metadata"]["uid"] = json!("1");
        sample["metadata"]["generation"] = json!(1);
        let object: IoTPipeline = serde_json::from_value(sample).unwrap();
        let settings = Settings { cluster_name: "test".to_owned() };
        let verdict = Source::of(&object.spec).map(|source| source.judge());
        if let Err(invalid) = validate(&object, &secrets(&object), verdict.as_ref(), &settings) {
            panic!("{file}: {}: {}", invalid.reason, invalid.message);
        }
    }
}

/// The Secrets that a pipeline names, each with every key that one may need.
fn secrets(object: &IoTPipeline) -> Secrets {
    let mut values = BTreeMap::from([
        ("host", "db.example.com"),
        ("dbname", "iot"),
        ("username", "iot"),
        ("password", "x"),
        ("ca.crt", CERTIFICATE),
        ("tls.crt", CERTIFICATE),
        ("tls.key", KEY),
    ]);
    values.extend(object.spec.kafka.sasl.iter().map(|sasl| (sasl.password_secret_ref.key.as_str(), "x")));
    let data: BTreeMap<_, _> =
        values.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into()))).collect();
    let secret = Secret { data: Some(data), ..Secret::default() };
    referenced_secrets(&object.spec).into_iter().map(|name| (name, Some(secret.clone()))).collect()
}

/// The documents of kind IoTPipeline, with the names of their files.
fn samples() -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples");
    let mut samples = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let pipelines = documents.into_iter().filter(|document| document["kind"] == "IoTPipeline");
        samples.extend(pipelines.map(|document| (path.display().to_string(), document)));
    }
    samples
}
