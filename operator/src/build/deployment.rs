//! The Deployment of the processors. Pure.

use crds::worker::Component;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{WorkerImage, metadata, pod::build_pod_template, selector};
use crate::pipeline::{Pipeline, Worker};

/// Builds the Deployment `<pipeline>-processor`.
pub fn build_deployment(
    pipeline: &Pipeline,
    processor: &Worker,
    config_map: &str,
    image: &WorkerImage,
) -> Deployment {
    Deployment {
        metadata: metadata(pipeline, Component::Processor),
        spec: Some(DeploymentSpec {
            replicas: Some(processor.replicas),
            // The way back is an edit of the IoTPipeline: the configuration of older revisions is removed.
            revision_history_limit: Some(1),
            selector: selector(pipeline, Component::Processor),
            // One goes before its successor comes. A surplus processor is of no use: where there are as many
            // processors as partitions it would get none and never become ready, and the roll would never end.
            // What waits meanwhile waits in Kafka.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            template: build_pod_template(pipeline, processor, config_map, image),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, image, pipeline};

    #[test]
    fn deployment_of_the_processors() {
        let pipeline = pipeline(QUICKSTART);
        insta::assert_yaml_snapshot!(build_deployment(
            &pipeline,
            &pipeline.processor,
            "line-processor-0123456789",
            &image()
        ));
    }

    #[test]
    fn suspending_the_processor_leaves_the_bridge() {
        let suspended = pipeline(&format!("{QUICKSTART}  suspend: Processor\n"));
        let deployment = build_deployment(&suspended, &suspended.processor, "x", &image());
        assert_eq!(deployment.spec.unwrap().replicas, Some(0));
        assert_eq!(suspended.bridge.unwrap().replicas, 1);
    }
}
