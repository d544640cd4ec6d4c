//! Each bound and each CEL rule refuses what it should and says so; `refusals.yaml` lists the cases.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod api_server;

use std::collections::{BTreeMap, BTreeSet};

use api_server::ApiServer;
use kube::CustomResourceExt;
use serde::Deserialize;
use serde_json::Value;

/// One line of `refusals.yaml`, whose head explains the fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    #[serde(default)]
    stored: Option<BTreeMap<String, Value>>,
    change: BTreeMap<String, Value>,
    #[serde(default)]
    at: Option<String>,
    #[serde(default)]
    says: Option<String>,
}

#[test]
fn every_case_has_its_verdict() {
    let sample: Value =
        serde_saphyr::from_str(include_str!("../../config/samples/every-field.yaml")).unwrap();
    let api_server = ApiServer::new();
    for case in cases() {
        let stored = case.stored.as_ref().map(|changes| changed(&sample, changes));
        let object = changed(stored.as_ref().unwrap_or(&sample), &case.change);
        let refusals = api_server.refusals(&object, stored.as_ref());
        match (&case.at, &case.says) {
            (None, None) => assert_eq!(refusals, Vec::<String>::new(), "{}", case.case),
            (at, says) => {
                let in_place =
                    |refusal: &String| at.as_ref().is_none_or(|at| refusal.starts_with(&format!("{at}:")));
                let in_words = |refusal: &String| says.as_ref().is_none_or(|says| refusal.contains(says));
                assert!(
                    refusals.iter().all(in_place) && refusals.iter().any(in_words),
                    "{}: expected {at:?} {says:?}, found {refusals:#?}",
                    case.case
                );
            }
        }
    }
}

#[test]
fn every_rule_has_a_case_that_it_refuses() {
    let schema = serde_json::to_value(crds::IoTPipeline::crd()).unwrap();
    let said: BTreeSet<_> = cases().into_iter().filter_map(|case| case.says).collect();
    let unproven: Vec<_> = messages(&schema)
        .into_iter()
        .filter(|message| !said.iter().any(|says| message.contains(says)))
        .collect();
    assert_eq!(unproven, Vec::<String>::new());
}

fn cases() -> Vec<Case> {
    serde_saphyr::from_str(include_str!("refusals.yaml")).unwrap()
}

/// The messages of all CEL rules.
fn messages(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("x-kubernetes-validations").and_then(Value::as_array);
            let own = own
                .into_iter()
                .flatten()
                .map(|rule| rule["message"].as_str().expect("a rule says why").to_owned());
            own.chain(fields.values().flat_map(messages)).collect()
        }
        Value::Array(entries) => entries.iter().flat_map(messages).collect(),
        _ => Vec::new(),
    }
}

/// A copy in which the value at each path, with its numbers as indexes of lists, is replaced, or removed by null.
/// An index one past the end appends.
fn changed(object: &Value, changes: &BTreeMap<String, Value>) -> Value {
    let mut object = object.clone();
    for (path, value) in changes {
        let (parent, name) = path.rsplit_once('/').expect("a path has a slash");
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}"));
        match (parent, value) {
            (Value::Object(fields), Value::Null) => drop(fields.remove(name)),
            (Value::Object(fields), value) => drop(fields.insert(name.replace("~1", "/"), value.clone())),
            (Value::Array(entries), value) => {
                let index: usize = name.parse().expect("an index");
                entries.splice(
                    index..entries.len().min(index + 1),
                    [value.clone()].into_iter().filter(|value| !value.is_null()),
                );
            }
            _ => panic!("{path} leads nowhere"),
        }
    }
    object
}
