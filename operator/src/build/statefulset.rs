//! The StatefulSet of the bridge. Pure.
//!
//! A StatefulSet never runs two pods of one ordinal at once, so the MQTT client id, under which the broker keeps
//! the session, is never used twice.

use crds::{
    names,
    worker::{Component, RoleConfig},
};
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy,
};

use super::{WorkerImage, metadata, pod::build_pod_template, selector};
use crate::pipeline::{Pipeline, Worker};

/// Builds the StatefulSet `<pipeline>-bridge`.
pub fn build_statefulset(
    pipeline: &Pipeline,
    bridge: &Worker,
    config_map: &str,
    image: &WorkerImage,
) -> StatefulSet {
    StatefulSet {
        metadata: metadata(pipeline, Component::Bridge),
        spec: Some(StatefulSetSpec {
            // Bridges do not depend on each other, so none waits for another; and a pod that never became ready
            // does not stand in the way of its mended successor.
            pod_management_policy: Some("Parallel".to_owned()),
            replicas: Some(bridge.replicas),
            // The way back is an edit of the IoTPipeline: the configuration of older revisions is removed.
            revision_history_limit: Some(1),
            selector: selector(pipeline, Component::Bridge),
            service_name: Some(names::worker_name(&pipeline.id.name, Component::Bridge)),
            template: build_pod_template(pipeline, bridge, config_map, image),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: retire_from(bridge).map(those_that_leave),
            }),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// The ordinal from which on bridges leave.
fn retire_from(bridge: &Worker) -> Option<u32> {
    match &bridge.config.role {
        RoleConfig::Bridge(config) => config.shared?.retire_from,
        RoleConfig::Processor(_) => None,
    }
}

/// Those that stay go on as they are, until the others have left.
fn those_that_leave(from: u32) -> RollingUpdateStatefulSetStrategy {
    RollingUpdateStatefulSetStrategy {
        partition: Some(i32::try_from(from).unwrap_or(i32::MAX)),
        ..RollingUpdateStatefulSetStrategy::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, image, pipeline};

    #[test]
    fn statefulset_of_the_bridge() {
        let pipeline = pipeline(QUICKSTART);
        insta::assert_yaml_snapshot!(build_statefulset(
            &pipeline,
            pipeline.bridge.as_ref().unwrap(),
            "line-bridge-0123456789",
            &image()
        ));
    }

    #[test]
    fn statefulset_of_bridges_of_which_two_leave() {
        let mut pipeline = pipeline(&QUICKSTART.replacen("  mqtt:\n", "  mqtt:\n    session: Shared\n", 1));
        let bridge = pipeline.bridge.as_mut().unwrap();
        let RoleConfig::Bridge(config) = &mut bridge.config.role else { panic!() };
        config.share(Some(1));
        bridge.replicas = 3;
        let bridge = pipeline.bridge.as_ref().unwrap();
        insta::assert_yaml_snapshot!(build_statefulset(
            &pipeline,
            bridge,
            "line-bridge-0123456789",
            &image()
        ));
    }

    #[test]
    fn a_suspended_bridge_has_no_pods() {
        let suspended = pipeline(&format!("{QUICKSTART}  suspend: All\n"));
        let built = build_statefulset(
            &suspended,
            suspended.bridge.as_ref().unwrap(),
            "line-bridge-0123456789",
            &image(),
        );
        assert_eq!(built.spec.unwrap().replicas, Some(0));
    }
}
