//! The headless Service in front of a worker's pods: it gives the bridge's pod its stable name, and monitoring the
//! pods to scrape. Pure.

use crds::{names::WORKER_HTTP_PORT, worker::Component};
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{metadata, pod::HTTP_PORT_NAME, selector_labels};
use crate::pipeline::Pipeline;

/// Builds the Service `<pipeline>-<component>`.
pub fn build_service(pipeline: &Pipeline, component: Component) -> Service {
    Service {
        metadata: metadata(pipeline, component),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(selector_labels(&pipeline.id.name, component)),
            ports: Some(vec![ServicePort {
                name: Some(HTTP_PORT_NAME.to_owned()),
                port: i32::from(WORKER_HTTP_PORT),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(HTTP_PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            // A worker that is not ready is the one whose metrics are wanted most.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, pipeline};

    #[test]
    fn service_of_the_bridge() {
        insta::assert_yaml_snapshot!(build_service(&pipeline(QUICKSTART), Component::Bridge));
    }
}
