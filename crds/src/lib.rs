//! Every type that crosses a process boundary: the `IoTPipeline` resource that users write, the
//! `WorkerConfig` that the operator hands to a worker, the `WorkerStatus` that a worker answers with,
//! and the names on which the processes agree. No I/O, no clients.

pub mod names;
pub mod pipeline;
mod reference;
pub mod status;
pub mod units;
pub mod worker;

pub use pipeline::{IoTPipeline, IoTPipelineSpec};
pub use reference::reference;
pub use status::IoTPipelineStatus;

/// The CustomResourceDefinition as YAML, exactly as it stands in `crds/yaml/iotpipelines.yaml`.
///
/// # Errors
/// Fails where the definition has no YAML form, which no released version does.
pub fn manifest() -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&<IoTPipeline as kube::CustomResourceExt>::crd())
}

/// The CustomResourceDefinition as the Helm chart's template: the same text, installed where `crds.enabled`
/// says so and kept by `helm uninstall` where `crds.keep` does. Nothing else in it is for Helm to read.
///
/// # Errors
/// As [`manifest`].
pub fn chart_template() -> Result<String, serde_saphyr::ser::Error> {
    let manifest = manifest()?.replace("{{", CHART_BRACES).replacen(
        "\nmetadata:\n",
        concat!(
            "\nmetadata:\n",
            "  labels:\n",
            "    {{- include \"iotpipeline-operator.labels\" . | nindent 4 }}\n",
            "  {{- if .Values.crds.keep }}\n",
            "  annotations:\n",
            "    helm.sh/resource-policy: keep\n",
            "  {{- end }}\n",
        ),
        1,
    );
    Ok(format!("{{{{- if .Values.crds.enabled }}}}\n{manifest}{{{{- end }}}}\n"))
}

/// How a template writes two opening braces.
const CHART_BRACES: &str = "{{ \"{{\" }}";
