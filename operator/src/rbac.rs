//! Exactly what the operator asks of the Kubernetes API. No I/O.
//!
//! The Role of the Helm chart grants this list and nothing else; a test compares the two. Each call of the
//! operator stands in `reconcile/fetch.rs`, `reconcile/write.rs` or `run.rs`.

/// One line of the Role.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// The API group; empty for the core group.
    pub api_group: &'static str,
    /// The resource in plural, with its subresource if any.
    pub resource: &'static str,
    /// The verbs, in alphabetical order.
    pub verbs: &'static [&'static str],
}

/// What the operator needs in each watched namespace, in alphabetical order.
pub const RULES: &[Rule] = &[
    // A worker's configuration is immutable: a new one is created and the old one deleted. Patch
    // is how server-side apply writes.
    rule("", "configmaps", CHILD),
    // Read while a deleted pipeline cannot be cleaned up: a namespace that goes is never held.
    rule("", "namespaces", &["get"]),
    // What the workers report is read through the pod's address.
    rule("", "pods", &["list"]),
    // By name only: those that a pipeline refers to.
    rule("", "secrets", &["get"]),
    rule("", "services", CHILD),
    rule("apps", "deployments", CHILD),
    rule("apps", "statefulsets", CHILD),
    rule("events.k8s.io", "events", &["create", "patch"]),
    // Patch is for the finalizer alone.
    rule("iotpipeline.dev", "iotpipelines", &["list", "patch", "watch"]),
    rule("iotpipeline.dev", "iotpipelines/status", &["patch"]),
    rule("policy", "poddisruptionbudgets", CHILD),
];

/// The verbs for what the operator creates, repairs and removes.
const CHILD: &[&str] = &["create", "delete", "get", "list", "patch", "watch"];

const fn rule(api_group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Rule {
    Rule { api_group, resource, verbs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_sorted_and_name_no_resource_twice() {
        let resources: Vec<_> = RULES.iter().map(|rule| (rule.api_group, rule.resource)).collect();
        assert!(resources.is_sorted_by(|a, b| a < b), "{resources:?}");
        for rule in RULES {
            assert!(rule.verbs.is_sorted_by(|a, b| a < b), "{rule:?}");
        }
    }

    #[test]
    fn secrets_can_only_be_read_by_name() {
        let secrets = RULES.iter().find(|rule| rule.resource == "secrets").unwrap();
        assert_eq!(secrets.verbs, ["get"]);
    }
}
