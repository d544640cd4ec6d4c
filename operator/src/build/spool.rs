//! The PersistentVolumeClaim of the bridge's spool. Pure.
//!
//! It is the operator's own and not one of the StatefulSet's templates, which cannot change: so it can grow, and go when
//! the spool leaves the spec.

use std::collections::BTreeMap;

use crds::{names, worker::Component};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::metadata;
use crate::pipeline::{Pipeline, SpoolVolume};

/// Builds the PersistentVolumeClaim `<pipeline>-bridge-spool`.
pub fn build_spool(pipeline: &Pipeline, volume: &SpoolVolume) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::spool_claim(&pipeline.id.name)),
            ..metadata(pipeline, Component::Bridge)
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(volume.bytes.to_string()))])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: volume.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, pipeline};

    #[test]
    fn claim_of_the_spool() {
        let volume = SpoolVolume { bytes: 1 << 30, storage_class: Some("fast".to_owned()) };
        insta::assert_yaml_snapshot!(build_spool(&pipeline(QUICKSTART), &volume));
    }
}
