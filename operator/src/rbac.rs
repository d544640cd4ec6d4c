//! Exactly what the operator asks of the Kubernetes API. No I/O.
//!
//! The Role of the Helm chart grants this list and nothing else; a test compares the two. Each call of the
//! operator stands in `reconcile/fetch.rs`, `reconcile/fetch/workers.rs`, `reconcile/write.rs`, `controller.rs` or `lease.rs`.

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
    // The volume of a bridge's spool.
    rule("", "persistentvolumeclaims", CHILD),
    // What the workers report is read through the pod's address. Delete is for bridges on nodes that do not answer.
    rule("", "pods", &["delete", "list"]),
    // By name only: those that a pipeline refers to.
    rule("", "secrets", &["get"]),
    rule("", "services", CHILD),
    rule("apps", "deployments", CHILD),
    rule("apps", "statefulsets", CHILD),
    // Get and patch are for what is said again.
    rule("events.k8s.io", "events", &["create", "get", "patch"]),
    // Patch is for the finalizer alone.
    rule("iotpipeline.dev", "iotpipelines", &["list", "patch", "watch"]),
    rule("iotpipeline.dev", "iotpipelines/status", &["patch"]),
    rule("networking.k8s.io", "networkpolicies", CHILD),
    rule("policy", "poddisruptionbudgets", CHILD),
];

/// What the operator needs in its own namespace where leaders are elected: to create the Lease, because Kubernetes
/// cannot limit that to a name, and the rest for the Lease of its own name alone.
pub const LEASE_RULES: [Rule; 2] = [
    rule("coordination.k8s.io", "leases", &["create"]),
    rule("coordination.k8s.io", "leases", &["get", "update"]),
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
            let rules = rules_of(rendered, kind, "iotpipeline-operator");
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

    #[test]
    fn the_chart_grants_the_lease_by_its_name() {
        let rendered = include_str!("../../charts/iotpipeline-operator/tests/defaults.rendered.yaml");
        let rules = rules_of(rendered, "Role", "iotpipeline-operator-lease");
        let names = [None, Some(vec!["iotpipeline-operator".to_owned()])];
        assert_eq!(rules.len(), LEASE_RULES.len());
        for ((granted, expected), resource_names) in rules.iter().zip(LEASE_RULES).zip(names) {
            assert_eq!(granted.api_groups.as_deref().unwrap(), [expected.api_group]);
            assert_eq!(granted.resources.as_deref().unwrap(), [expected.resource]);
            assert_eq!(granted.verbs, expected.verbs);
            assert_eq!(granted.resource_names, resource_names);
        }
    }

    fn rules_of(rendered: &str, kind: &str, name: &str) -> Vec<PolicyRule> {
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(rendered).unwrap();
        let is_wanted =
            |document: &&serde_json::Value| document["kind"] == kind && document["metadata"]["name"] == name;
        let role = documents.iter().find(is_wanted).unwrap();
        serde_json::from_value(role["rules"].clone()).unwrap()
    }
}
