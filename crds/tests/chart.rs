//! The chart's own description speaks of this version, and its example is one that the API server accepts.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod api_server;

use api_server::ApiServer;
use serde_json::Value;

#[test]
fn the_chart_is_of_this_version() {
    let chart = chart();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    for image in annotation(&chart, "artifacthub.io/images") {
        let reference = image["image"].as_str().unwrap();
        assert!(reference.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{reference}");
    }
}

#[test]
fn the_charts_example_is_accepted() {
    let api_server = ApiServer::new();
    for example in annotation(&chart(), "artifacthub.io/crdsExamples") {
        assert_eq!(api_server.refusals(&example, None), Vec::<String>::new());
    }
}

#[test]
fn the_charts_readme_explains_every_value() {
    let values: Value =
        serde_saphyr::from_str(include_str!("../../charts/iotpipeline-operator/values.yaml")).unwrap();
    let readme = include_str!("../../charts/iotpipeline-operator/README.md");
    for name in names("", &values) {
        assert!(readme.contains(&format!("| `{name}` |")), "the chart's README.md has no row for {name}");
    }
}

fn chart() -> Value {
    serde_saphyr::from_str(include_str!("../../charts/iotpipeline-operator/Chart.yaml")).unwrap()
}

/// The list that an annotation holds as YAML.
fn annotation(chart: &Value, name: &str) -> Vec<Value> {
    let list: Vec<Value> = serde_saphyr::from_str(chart["annotations"][name].as_str().unwrap()).unwrap();
    assert!(!list.is_empty(), "{name} is empty");
    list
}

/// The values' full names, `image.tag`; those of `resources` are Kubernetes' own.
fn names(prefix: &str, values: &Value) -> Vec<String> {
    let Value::Object(fields) = values else { return vec![prefix.to_owned()] };
    if fields.is_empty() || prefix == "resources" {
        return vec![prefix.to_owned()];
    }
    let path = |name: &String| if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
    fields.iter().flat_map(|(name, value)| names(&path(name), value)).collect()
}
