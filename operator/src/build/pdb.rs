//! The PodDisruptionBudget of a worker: evictions come one at a time, and none is ever refused for long. Pure.

use crds::worker::Component;
use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{metadata, selector};
use crate::pipeline::Pipeline;

/// Builds the PodDisruptionBudget `<pipeline>-<component>`.
///
/// One pod may always go, the only one too: what it had in flight is not lost, so a drain of its node need not
/// wait. A pod that is not ready protects nothing and may go at any time.
pub fn build_pdb(pipeline: &Pipeline, component: Component) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(pipeline, component),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(pipeline, component)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, pipeline};

    #[test]
    fn pdb_of_the_processor() {
        insta::assert_yaml_snapshot!(build_pdb(&pipeline(QUICKSTART), Component::Processor));
    }
}
