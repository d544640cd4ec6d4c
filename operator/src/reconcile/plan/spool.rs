//! The volume of the bridge's spool: it never shrinks, and one that left the spec stays until it is empty. Pure.

use crds::{
    names,
    worker::{Component, RoleConfig, SpoolConfig},
};

use super::ownership::is_owned;
use crate::{
    build::ChildKind,
    pipeline::{Pipeline, SpoolVolume},
    reconcile::{
        drift::parse_quantity,
        fetch::{LiveChild, Workers},
    },
};

/// The pipeline with a spool as large as its volume is, and with one that left the spec as long as something may be in
/// it.
pub fn with_kept_spool(mut pipeline: Pipeline, workers: &Workers) -> Pipeline {
    let claim = workers
        .child(ChildKind::PersistentVolumeClaim, &names::spool_claim(&pipeline.id.name))
        .filter(|claim| is_owned(&pipeline, claim) && claim.object.metadata.deletion_timestamp.is_none());
    let is_used = (workers.bridge_configuration(&pipeline.id.name))
        .is_some_and(|running| running["role"]["bridge"]["spool"].is_object());
    let Some((claim, bridge)) = claim.zip(pipeline.bridge.as_mut()) else { return pipeline };
    let RoleConfig::Bridge(config) = &mut bridge.config.role else { return pipeline };
    let (found, closing) = (volume_of(claim), bridge.spool.is_none());
    let volume = match bridge.spool.take() {
        Some(wanted) => SpoolVolume { bytes: wanted.bytes.max(found.bytes), ..wanted },
        None if is_used && !is_emptied(workers) => found,
        None => return pipeline,
    };
    config.spool = Some(SpoolConfig { volume_bytes: volume.bytes, closing });
    bridge.spool = Some(volume);
    pipeline
}

fn volume_of(claim: &LiveChild) -> SpoolVolume {
    let spec = &claim.object.data["spec"];
    let bytes = spec["resources"]["requests"]["storage"].as_str().and_then(parse_quantity);
    SpoolVolume {
        bytes: bytes.unwrap_or_default() as u64,
        storage_class: spec["storageClassName"].as_str().map(str::to_owned),
    }
}

/// Whether the bridge says that nothing is in the spool, and nothing more will be.
fn is_emptied(workers: &Workers) -> bool {
    let bridges = workers.pods.iter().filter(|pod| pod.component == Component::Bridge);
    let mut spools = bridges.filter_map(|pod| pod.report.as_ref()?.spool);
    spools.any(|spool| spool.closing && spool.messages == 0)
}

#[cfg(test)]
mod tests {
    use crds::worker::{SpoolStatus, WorkerStatus};
    use serde_json::json;

    use super::*;
    use crate::{
        build::{build_configuration, build_worker},
        reconcile::fetch::WorkerPod,
        test_support::{QUICKSTART, pipeline, worker_settings},
    };

    fn spec(size: Option<&str>) -> Pipeline {
        let spool = size.map(|size| format!("  mqtt:\n    spool: {{size: {size}}}\n")).unwrap_or_default();
        pipeline(&QUICKSTART.replacen("  mqtt:\n", if spool.is_empty() { "  mqtt:\n" } else { &spool }, 1))
    }

    /// The cluster with the bridge of a pipeline, which says this of its spool.
    fn cluster(of: &Pipeline, report: Option<SpoolStatus>) -> Workers {
        let bridge = of.bridge.as_ref().unwrap();
        let configuration = build_configuration(of, bridge).unwrap();
        let mut children = build_worker(of, bridge, &configuration.name, &worker_settings()).unwrap();
        children.push(configuration);
        let children = children
            .into_iter()
            .map(|child| LiveChild {
                kind: child.kind,
                object: serde_json::from_value(child.object).unwrap(),
            })
            .collect();
        let report = report.map(|spool| WorkerStatus {
            spool: Some(spool),
            ..serde_json::from_value(
                json!({"component": "bridge", "version": "1", "ready": true, "problem": null}),
            )
            .unwrap()
        });
        let pod = WorkerPod { component: Component::Bridge, pod: Default::default(), report };
        Workers { children, pods: vec![pod] }
    }

    fn kept(spec: Pipeline, workers: &Workers) -> Option<SpoolConfig> {
        let bridge = with_kept_spool(spec, workers).bridge.unwrap();
        let RoleConfig::Bridge(config) = bridge.config.role else { panic!() };
        assert_eq!(bridge.spool.map(|volume| volume.bytes), config.spool.map(|spool| spool.volume_bytes));
        config.spool
    }

    #[test]
    fn a_spool_grows_and_never_shrinks() {
        let workers = cluster(&spec(Some("64Mi")), None);
        let kept = |size| kept(spec(Some(size)), &workers);
        assert_eq!(kept("128Mi"), Some(SpoolConfig { volume_bytes: 128 << 20, closing: false }));
        assert_eq!(kept("32Mi"), Some(SpoolConfig { volume_bytes: 64 << 20, closing: false }));
    }

    #[test]
    fn one_that_left_the_spec_stays_until_its_bridge_has_emptied_it() {
        let with = spec(Some("64Mi"));
        let closing = Some(SpoolConfig { volume_bytes: 64 << 20, closing: true });
        let says = |messages, closing| Some(SpoolStatus { messages, bytes: 0, closing });
        for report in [None, says(0, false), says(7, true)] {
            assert_eq!(kept(spec(None), &cluster(&with, report)), closing, "{report:?}");
        }
        let emptied = cluster(&with, says(0, true));
        assert_eq!(kept(spec(None), &emptied), None);
        // The bridge runs without it: nobody asks any more what is in it.
        let mut without = cluster(&spec(None), None);
        without.children.extend(
            emptied.children.into_iter().filter(|child| child.kind == ChildKind::PersistentVolumeClaim),
        );
        assert_eq!(kept(spec(None), &without), None);
    }
}
