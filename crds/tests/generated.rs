//! The generated files are current, and Helm reads nothing in them but what is meant for it.

use std::{fs, path::Path};

#[test]
fn the_definition_is_current() {
    check("crds/yaml/iotpipelines.yaml", &crds::manifest().unwrap());
}

#[test]
fn the_charts_template_is_current() {
    check("charts/iotpipeline-operator/templates/crd/iotpipelines.yaml", &crds::chart_template().unwrap());
}

#[test]
fn the_reference_is_current() {
    check("docs/reference.md", &crds::reference().unwrap());
}

#[test]
fn the_charts_template_is_the_definition_and_a_frame() {
    let template = crds::chart_template().unwrap();
    let is_of_the_frame = |line: &&str| line.trim_start().starts_with("{{-");
    let actions: Vec<_> = template.lines().filter(is_of_the_frame).map(str::trim).collect();
    assert_eq!(
        actions,
        [
            "{{- if .Values.crds.enabled }}",
            r#"{{- include "iotpipeline-operator.labels" . | nindent 4 }}"#,
            "{{- if .Values.crds.keep }}",
            "{{- end }}",
            "{{- end }}",
        ]
    );
    let frame = ["labels:", "annotations:", "helm.sh/resource-policy: keep"];
    let rest: Vec<_> = template
        .lines()
        .filter(|line| !is_of_the_frame(line) && !frame.contains(&line.trim()))
        .map(|line| line.replace(r#"{{ "{{" }}"#, "{{"))
        .collect();
    let manifest = crds::manifest().unwrap();
    let manifest: Vec<_> = manifest.lines().filter(|line| !frame.contains(&line.trim())).collect();
    assert_eq!(rest, manifest);
}

#[test]
fn the_definition_fits_an_annotation() {
    // What `kubectl apply` without --server-side keeps in one annotation, which may hold 262,144 bytes.
    let definition = serde_json::to_vec(&<crds::IoTPipeline as kube::CustomResourceExt>::crd()).unwrap();
    assert!(definition.len() < 200_000, "{} bytes", definition.len());
}

fn check(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is not current: run `make generate`");
}
