//! The pod of a worker. Pure.
//!
//! Nothing in it changes but by the spec and the worker's image: no version of chart or operator, no hash of a
//! Secret. Workers read their Secrets again at every connect, so a rotation restarts nothing.

use crds::{
    names::{SECRETS_DIR, SPOOL_DIR, STATE_DIR, WORKER_CONFIG_PATH, WORKER_HTTP_PORT, spool_claim},
    worker::{Component, RoleConfig},
};
use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
        EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector, PersistentVolumeClaimVolumeSource,
        PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretVolumeSource,
        SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use super::{WorkerImage, labels};
use crate::pipeline::{MountedSecret, Pipeline, Worker};

/// The name of the worker's HTTP port.
pub const HTTP_PORT_NAME: &str = "http";

/// The name of the worker's container.
pub const CONTAINER_NAME: &str = "worker";

/// The variable with the name of the pod.
const POD_NAME_VARIABLE: &str = "POD_NAME";

/// The volume with the worker's configuration.
pub const CONFIG_VOLUME: &str = "config";

/// The directory of a processor that outlives its container.
const STATE_VOLUME: &str = "state";

/// The volume of the bridge's spool.
pub const SPOOL_VOLUME: &str = "spool";

/// User and group of the worker, in the image too.
const WORKER_ID: i64 = 65_532;

/// A worker flushes and hands over when asked to stop; after this many seconds it is killed.
const TERMINATION_GRACE_SECONDS: i64 = 45;

/// The taints of a node that does not answer.
const NODE_TROUBLE: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// How long a worker stays on such a node; Kubernetes' own default is five minutes.
const NODE_PATIENCE_SECONDS: i64 = 60;

/// Readable by the owner and by the worker's group, `fsGroup`.
const SECRET_FILE_MODE: i32 = 0o440;

/// Builds the template of a worker's pods, which read their configuration from the ConfigMap `config_map`.
pub fn build_pod_template(
    pipeline: &Pipeline,
    worker: &Worker,
    config_map: &str,
    image: &WorkerImage,
) -> PodTemplateSpec {
    // The user's labels come first, so that they never override what the selector and the status rest on.
    let mut pod_labels = worker.pod.labels.clone();
    pod_labels.extend(labels(&pipeline.id.name, worker.component()));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: some_unless_empty(worker.pod.annotations.clone()),
            labels: Some(pod_labels),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: worker.pod.affinity.clone(),
            automount_service_account_token: Some(false),
            containers: vec![build_container(worker, image)],
            enable_service_links: Some(false),
            image_pull_secrets: some_unless_empty(worker.pod.image_pull_secrets.clone()),
            node_selector: some_unless_empty(worker.pod.node_selector.clone()),
            priority_class_name: worker.pod.priority_class_name.clone(),
            security_context: Some(PodSecurityContext {
                fs_group: Some(WORKER_ID),
                run_as_group: Some(WORKER_ID),
                run_as_non_root: Some(true),
                run_as_user: Some(WORKER_ID),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
            tolerations: Some(
                worker.pod.tolerations.iter().cloned().chain(NODE_TROUBLE.map(for_a_minute)).collect(),
            ),
            volumes: Some(
                std::iter::once(config_volume(config_map))
                    .chain(worker.secrets.iter().map(secret_volume))
                    .chain(worker.spool.iter().map(|_| spool_volume(pipeline)))
                    .chain(has_state(worker).then(state_volume))
                    .collect(),
            ),
            ..PodSpec::default()
        }),
    }
}

fn for_a_minute(taint: &str) -> Toleration {
    Toleration {
        key: Some(taint.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(NODE_PATIENCE_SECONDS),
        ..Toleration::default()
    }
}

fn build_container(worker: &Worker, image: &WorkerImage) -> Container {
    let subcommand = match worker.component() {
        Component::Bridge => "bridge",
        Component::Processor => "process",
    };
    let mut args = vec![subcommand.to_owned()];
    let mut env = None;
    if is_shared(worker) {
        args.extend(["--pod".to_owned(), format!("$({POD_NAME_VARIABLE})")]);
        env = Some(vec![pod_name_variable()]);
    }
    let config_mount = VolumeMount {
        name: CONFIG_VOLUME.to_owned(),
        mount_path: directory_of(WORKER_CONFIG_PATH).to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    Container {
        name: CONTAINER_NAME.to_owned(),
        image: Some(image.reference.clone()),
        image_pull_policy: image.pull_policy.clone(),
        args: Some(args),
        env,
        ports: Some(vec![ContainerPort {
            name: Some(HTTP_PORT_NAME.to_owned()),
            container_port: i32::from(WORKER_HTTP_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        // A worker that is cut off from its neighbours lives on and is not ready; only one that hangs is killed.
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 5, 2)),
        resources: Some(worker.resources.clone()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(
            std::iter::once(config_mount)
                .chain(worker.secrets.iter().map(secret_mount))
                .chain(worker.spool.iter().map(|_| spool_mount()))
                .chain(has_state(worker).then(state_mount))
                .collect(),
        ),
        ..Container::default()
    }
}

/// Bridges that share their subscriptions find their ordinal in their pod's name.
fn is_shared(worker: &Worker) -> bool {
    matches!(&worker.config.role, RoleConfig::Bridge(bridge) if bridge.shared.is_some())
}

fn pod_name_variable() -> EnvVar {
    EnvVar {
        name: POD_NAME_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.name".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(HTTP_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn config_volume(config_map: &str) -> Volume {
    Volume {
        name: CONFIG_VOLUME.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Which message kills a processor is seen from one run of its container to the next.
fn has_state(worker: &Worker) -> bool {
    worker.component() == Component::Processor
}

fn state_volume() -> Volume {
    Volume {
        name: STATE_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity("1Mi".to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn state_mount() -> VolumeMount {
    VolumeMount { name: STATE_VOLUME.to_owned(), mount_path: STATE_DIR.to_owned(), ..VolumeMount::default() }
}

fn spool_volume(pipeline: &Pipeline) -> Volume {
    Volume {
        name: SPOOL_VOLUME.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: spool_claim(&pipeline.id.name),
            read_only: None,
        }),
        ..Volume::default()
    }
}

fn spool_mount() -> VolumeMount {
    VolumeMount { name: SPOOL_VOLUME.to_owned(), mount_path: SPOOL_DIR.to_owned(), ..VolumeMount::default() }
}

fn secret_volume(secret: &MountedSecret) -> Volume {
    Volume {
        name: secret_volume_name(secret),
        secret: Some(SecretVolumeSource {
            default_mode: Some(SECRET_FILE_MODE),
            items: some_unless_empty(secret.files.iter().map(secret_file).collect()),
            // A pod without its Secret would start and fail in a way that is harder to read.
            optional: Some(false),
            secret_name: Some(secret.name.clone()),
        }),
        ..Volume::default()
    }
}

fn secret_file((key, file): &(String, &'static str)) -> KeyToPath {
    KeyToPath { key: key.clone(), path: (*file).to_owned(), ..KeyToPath::default() }
}

fn secret_mount(secret: &MountedSecret) -> VolumeMount {
    VolumeMount {
        name: secret_volume_name(secret),
        mount_path: format!("{SECRETS_DIR}/{}", secret.purpose),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// A volume is named after what the Secret is for, so that another Secret's name fits in the same place.
fn secret_volume_name(secret: &MountedSecret) -> String {
    format!("{}-secret", secret.purpose)
}

fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(directory, _)| directory)
}

/// Kubernetes drops empty lists and maps, so they are not written at all.
fn some_unless_empty<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, image, pipeline};

    const POD_OPTIONS: &str = r"
  bridge:
    resources: {limits: {memory: 64Mi}, requests: {cpu: 100m, memory: 64Mi}}
    pod:
      annotations: {example.com/team: telemetry}
      labels:
        example.com/team: telemetry
        app.kubernetes.io/component: mine
      imagePullSecrets: [{name: registry}]
      nodeSelector: {kubernetes.io/arch: amd64}
      tolerations: [{key: dedicated, operator: Exists}]
      priorityClassName: high
";

    #[test]
    fn pod_with_every_option() {
        let pipeline = pipeline(&format!("{QUICKSTART}{}", POD_OPTIONS.trim_start_matches('\n')));
        let bridge = pipeline.bridge.as_ref().unwrap();
        let template = build_pod_template(&pipeline, bridge, "line-bridge-0123456789", &image());
        insta::assert_yaml_snapshot!(template);
    }

    #[test]
    fn labels_of_the_user_never_override_the_operators() {
        let pipeline = pipeline(&format!("{QUICKSTART}{}", POD_OPTIONS.trim_start_matches('\n')));
        let template = build_pod_template(&pipeline, pipeline.bridge.as_ref().unwrap(), "x", &image());
        let labels = template.metadata.unwrap().labels.unwrap();
        assert_eq!(labels["app.kubernetes.io/component"], "bridge");
        assert_eq!(labels["example.com/team"], "telemetry");
    }
}
