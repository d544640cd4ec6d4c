//! The NetworkPolicy of a worker: who may reach its HTTP endpoint. Pure.
//!
//! Nothing is said of where a worker may connect to: it must reach brokers and databases wherever they are.

use crds::{names::WORKER_HTTP_PORT, worker::Component};
use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{metadata, selector};
use crate::pipeline::Pipeline;

/// Builds the NetworkPolicy `<pipeline>-<component>`, which lets in `peers` and nobody else.
pub fn build_network_policy(
    pipeline: &Pipeline,
    component: Component,
    peers: &[NetworkPolicyPeer],
) -> NetworkPolicy {
    let let_in = NetworkPolicyIngressRule {
        from: Some(peers.to_vec()),
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(i32::from(WORKER_HTTP_PORT))),
            protocol: Some("TCP".to_owned()),
            ..NetworkPolicyPort::default()
        }]),
    };
    NetworkPolicy {
        metadata: metadata(pipeline, component),
        spec: Some(NetworkPolicySpec {
            // A rule without peers would let in everybody.
            ingress: (!peers.is_empty()).then(|| vec![let_in]),
            pod_selector: Some(selector(pipeline, component)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ..NetworkPolicySpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, peers, pipeline};

    #[test]
    fn network_policy_of_the_bridge() {
        insta::assert_yaml_snapshot!(build_network_policy(
            &pipeline(QUICKSTART),
            Component::Bridge,
            &peers()
        ));
    }

    #[test]
    fn without_peers_nobody_is_let_in() {
        let policy = build_network_policy(&pipeline(QUICKSTART), Component::Processor, &[]).spec.unwrap();
        assert_eq!((policy.ingress, policy.policy_types), (None, Some(vec!["Ingress".to_owned()])));
    }
}
