//! Whether an object in the cluster still is as the operator wants it. Pure.
//!
//! The answer agrees with server-side apply: it counts what an apply would change and nothing else. What the API
//! server fills in, and what others added beside ours, is no drift; otherwise the operator would write for ever.

use crds::status::ChangeClass;
use kube::ResourceExt;
use serde_json::Value;

use super::fetch::LiveChild;
use crate::{
    build::{Child, SPEC_HASH_ANNOTATION},
    change::Change,
};

/// Lists whose entries Kubernetes merges by a key. Others may own further entries; all other lists are ours as a
/// whole.
const KEYED_LISTS: &[&str] =
    &["containers", "env", "imagePullSecrets", "ownerReferences", "ports", "volumeMounts", "volumes"];

/// Maps whose values are quantities, which the API server may have spelled in another way.
const QUANTITY_MAPS: &[&str] = &["limits", "requests"];

/// A field that an apply would change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// Such as `spec.template.spec.containers[worker].image`.
    pub path: String,
    /// The value found; empty where there is none.
    pub found: String,
    /// The value wanted.
    pub wanted: String,
}

/// Whether applying `desired` would change `live`.
pub fn differs(desired: &Value, live: &Value) -> bool {
    !holds(&typeless(desired), live, "")
}

/// Which fields of `live` applying `desired` would change.
pub fn differences(desired: &Value, live: &Value) -> Vec<Difference> {
    let mut differences = Vec::new();
    collect(&typeless(desired), live, "", "", &mut differences);
    differences
}

/// What applying a child would change about what is there of it.
pub fn changes_of_child(child: &Child, live: Option<&LiveChild>) -> Vec<Change> {
    let object = format!("{} {}", child.kind, child.name);
    let Some(live) = live else { return vec![Change::new(object, "", "", &child.name)] };
    let live = serde_json::to_value(&live.object).unwrap_or_default();
    let mut fields = differences(&child.object, &live);
    if fields.len() > 1 {
        // It says no more than the others; alone it stands for a field that goes.
        fields.retain(|field| !field.path.ends_with(SPEC_HASH_ANNOTATION));
    }
    fields
        .into_iter()
        .map(|field| Change::new(&object, field.path, field.found, field.wanted))
        .map(|change| change.classed(ChangeClass::Disruptive))
        .collect()
}

/// What applying a child would undo of what somebody did by hand. An object of which this operator wrote the same is
/// there as it was written, unless somebody changed it; one of a spec that was applied is there.
pub fn repairs_of_child(child: &Child, live: Option<&LiveChild>, is_applied: bool) -> Vec<Change> {
    let was_written = live.map_or(is_applied, |live| {
        let written = live.object.annotations().get(SPEC_HASH_ANNOTATION);
        written.map(String::as_str) == child.object["metadata"]["annotations"][SPEC_HASH_ANNOTATION].as_str()
    });
    if was_written { changes_of_child(child, live) } else { Vec::new() }
}

/// Lists from the API server do not repeat the type in each of their items.
fn typeless(desired: &Value) -> Value {
    let mut desired = desired.clone();
    if let Value::Object(fields) = &mut desired {
        fields.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind"));
    }
    desired
}

/// Goes down to the fields that do not hold. `field` is the name under which both stand, `path` the whole way there.
fn collect(desired: &Value, live: &Value, field: &str, path: &str, differences: &mut Vec<Difference>) {
    if holds(desired, live, field) {
        return;
    }
    let is_keyed = KEYED_LISTS.contains(&field);
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            for (name, value) in desired {
                let live = live.get(name).unwrap_or(&Value::Null);
                if !(QUANTITY_MAPS.contains(&field) && is_same_quantity(value, live)) {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    collect(value, live, name, &path, differences);
                }
            }
        }
        (Value::Array(desired), Value::Array(live)) if is_keyed || desired.len() == live.len() => {
            for (index, entry) in desired.iter().enumerate() {
                let name = entry["name"].as_str().filter(|_| is_keyed);
                let found = match name {
                    Some(name) => live.iter().find(|live| live["name"] == name),
                    None => live.get(index),
                };
                if !(is_keyed && live.iter().any(|live| holds(entry, live, ""))) {
                    let path = format!("{path}[{}]", name.map_or(index.to_string(), str::to_owned));
                    collect(entry, found.unwrap_or(&Value::Null), "", &path, differences);
                }
            }
        }
        (desired, live) => differences.push(Difference {
            path: path.to_owned(),
            found: describe(live),
            wanted: describe(desired),
        }),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether everything in `desired` is in `live`; `field` is the name under which both stand.
fn holds(desired: &Value, live: &Value, field: &str) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired.iter().all(|(name, value)| {
            let live = live.get(name).unwrap_or(&Value::Null);
            holds(value, live, name) || (QUANTITY_MAPS.contains(&field) && is_same_quantity(value, live))
        }),
        (Value::Array(desired), Value::Array(live)) if KEYED_LISTS.contains(&field) => {
            desired.iter().all(|entry| live.iter().any(|live| holds(entry, live, "")))
        }
        (Value::Array(desired), Value::Array(live)) => {
            desired.len() == live.len()
                && desired.iter().zip(live).all(|(desired, live)| holds(desired, live, ""))
        }
        // The API server drops what is empty.
        (desired, Value::Null) => is_empty(desired),
        (desired, live) => desired == live,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(entries) => entries.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}

fn is_same_quantity(a: &Value, b: &Value) -> bool {
    let amounts = (a.as_str().and_then(parse_quantity), b.as_str().and_then(parse_quantity));
    // Both come from few decimal digits, so equal amounts differ by rounding at most.
    matches!(amounts, (Some(a), Some(b)) if (a - b).abs() <= 1e-9 * a.abs().max(b.abs()))
}

/// The amount that a Kubernetes quantity stands for, such as `0.1` for `100m`.
pub fn parse_quantity(text: &str) -> Option<f64> {
    // `1e3` is a number too, and `E` alone the suffix for 10^18, so whole numbers are tried first.
    if let Ok(amount) = text.parse::<f64>() {
        return amount.is_finite().then_some(amount);
    }
    let digits = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn desired() -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"labels": {"a": "b"}, "ownerReferences": [{"uid": "1"}]},
            "spec": {
                "replicas": 2,
                "template": {"spec": {
                    "containers": [{
                        "name": "worker",
                        "image": "worker:1",
                        "args": ["process"],
                        "resources": {"limits": {"cpu": "1000m", "memory": "1Gi"}},
                    }],
                    "tolerations": [{"key": "dedicated"}],
                    "nodeSelector": {},
                }},
            },
        })
    }

    /// `desired` as the API server gives it back, with one of its fields replaced.
    fn live(pointer: &str, value: Value) -> Value {
        let mut live = json!({
            "metadata": {"labels": {"a": "b", "other": "x"}, "ownerReferences": [{"uid": "1"}], "resourceVersion": "7"},
            "spec": {
                "replicas": 2,
                "template": {"spec": {
                    "containers": [
                        {"name": "sidecar", "image": "proxy"},
                        {
                            "name": "worker",
                            "image": "worker:1",
                            "args": ["process"],
                            "imagePullPolicy": "IfNotPresent",
                            "resources": {"limits": {"cpu": "1", "memory": "1024Mi"}},
                        },
                    ],
                    "tolerations": [{"key": "dedicated"}],
                    "restartPolicy": "Always",
                }},
            },
            "status": {"replicas": 2},
        });
        *live.pointer_mut(pointer).unwrap() = value;
        live
    }

    #[test]
    fn what_others_added_and_the_server_filled_in_is_no_drift() {
        assert!(!differs(&desired(), &live("/status", json!({}))));
    }

    #[test]
    fn what_others_changed_is_drift() {
        for (pointer, value) in [
            ("/spec/replicas", json!(3)),
            ("/spec/template/spec/containers/1/image", json!("worker:2")),
            ("/spec/template/spec/containers/1/args", json!(["process", "--verbose"])),
            ("/spec/template/spec/containers/1/resources/limits/cpu", json!("2")),
            ("/spec/template/spec/tolerations", json!([{"key": "dedicated"}, {"key": "more"}])),
            ("/metadata/labels/a", json!("c")),
            ("/metadata/ownerReferences", json!([])),
        ] {
            assert!(differs(&desired(), &live(pointer, value)), "{pointer}");
        }
    }

    #[test]
    fn quantities_are_compared_by_amount() {
        for (a, b) in [("1000m", "1"), ("1Gi", "1024Mi"), ("0.5", "500m"), ("1e3", "1k"), ("1E", "1000P")] {
            assert!(is_same_quantity(&json!(a), &json!(b)), "{a} {b}");
        }
        for (a, b) in [("1", "1001m"), ("1M", "1Mi"), ("one", "one "), ("", "0")] {
            assert!(!is_same_quantity(&json!(a), &json!(b)), "{a} {b}");
        }
    }

    #[test]
    fn what_differs_is_told_by_its_path() {
        let mut live = desired();
        live["spec"]["replicas"] = json!(3);
        live["metadata"]["labels"] = json!({});
        live["metadata"]["ownerReferences"] = json!([{"uid": "2"}]);
        let container = &mut live["spec"]["template"]["spec"]["containers"][0];
        container["image"] = json!("evil:1");
        container["args"] = json!(["process", "more"]);
        container["resources"]["limits"]["cpu"] = json!("1");
        let told: Vec<String> = differences(&desired(), &live)
            .into_iter()
            .map(|Difference { path, found, wanted }| format!("{path}: {found} -> {wanted}"))
            .collect();
        assert_eq!(
            told,
            [
                "metadata.labels.a:  -> b",
                "metadata.ownerReferences[0].uid: 2 -> 1",
                "spec.replicas: 3 -> 2",
                "spec.template.spec.containers[worker].args: [\"process\",\"more\"] -> [\"process\"]",
                "spec.template.spec.containers[worker].image: evil:1 -> worker:1",
            ]
        );
        assert_eq!(differences(&desired(), &desired()), []);
    }
}
