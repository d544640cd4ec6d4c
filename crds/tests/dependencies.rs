//! Who may talk to whom shows in the dependencies: the worker has no Kubernetes client, the operator no MQTT client,
//! and neither knows the other.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::process::Command;

fn dependencies_of(package: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            package,
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn check(package: &str, needs: &[&str], must_not_have: &[&str]) {
    let dependencies = dependencies_of(package);
    let has = |name: &str| dependencies.lines().any(|line| line.starts_with(&format!("{name} ")));
    for name in needs {
        assert!(
            has(name),
            "{package} no longer depends on {name}; does this test still look at the right thing?"
        );
    }
    for name in must_not_have {
        assert!(!has(name), "{package} depends on {name}");
    }
}

#[test]
fn the_worker_has_no_kubernetes_client_and_does_not_know_the_operator() {
    check("worker", &["crds", "program", "rumqttc-v5-next"], &["kube-client", "kube-runtime", "operator"]);
}

#[test]
fn the_operator_has_no_mqtt_client_and_does_not_know_the_worker() {
    check("operator", &["crds", "program", "kube-client"], &["rumqttc-v5-next", "rumqttc-v4-next", "worker"]);
}

#[test]
fn access_knows_settings_of_clients_and_nobody_who_uses_them() {
    check("access", &["crds", "rdkafka", "sqlx"], &["kube-client", "operator", "rumqttc-v5-next", "worker"]);
}

#[test]
fn the_api_has_no_client_at_all() {
    check("crds", &["kube-core"], &["kube-client", "rdkafka", "sqlx", "tokio"]);
}
