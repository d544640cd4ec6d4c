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
    use std::collections::BTreeSet;

    use k8s_openapi::api::rbac::v1::PolicyRule;

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

    #[test]
    fn the_chart_grants_these_rules_and_nothing_else() {
        let in_words = |group: &str, resource: &str, verb: &str| format!("{verb} {group}/{resource}");
        let expected: BTreeSet<_> = RULES
            .iter()
            .flat_map(|rule| rule.verbs.iter().map(|verb| in_words(rule.api_group, rule.resource, verb)))
            .collect();
        for (kind, rendered) in [
            ("Role", include_str!("../../charts/iotpipeline-operator/tests/defaults.rendered.yaml")),
            (
                "ClusterRole",
                include_str!("../../charts/iotpipeline-operator/tests/any-namespace.rendered.yaml"),
            ),
        ] {
            let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(rendered).unwrap();
            let role = documents
                .iter()
                .find(|document| {
                    document["kind"] == kind && document["metadata"]["name"] == "iotpipeline-operator"
                })
                .unwrap();
            let rules: Vec<PolicyRule> = serde_json::from_value(role["rules"].clone()).unwrap();
            let mut granted = BTreeSet::new();
            for rule in &rules {
                assert_eq!((&rule.resource_names, &rule.non_resource_urls), (&None, &None));
                for group in rule.api_groups.iter().flatten() {
                    for resource in rule.resources.iter().flatten() {
                        granted.extend(rule.verbs.iter().map(|verb| in_words(group, resource, verb)));
                    }
                }
            }
            assert_eq!(granted, expected, "{kind}");
        }
    }
}
