//! Whose an object is that has the name or the labels of a child. Pure.

use crds::names::PIPELINE_LABEL;
use kube::ResourceExt;

use crate::{pipeline::Pipeline, reconcile::fetch::LiveChild};

/// Whose an object is that has the name of a child.
pub enum Ownership {
    /// This pipeline's: to be kept as it says.
    Ours,
    /// Of a pipeline of this name that is gone, or on its way out: it will go by itself.
    Going,
    /// Anybody else's: not to be touched.
    SomebodyElses,
}

/// Whether a pipeline created this very object, rather than one of its name before it. Only such an object is ever
/// deleted.
pub fn is_owned(pipeline: &Pipeline, child: &LiveChild) -> bool {
    is_owned_by(&pipeline.owner.uid, child)
}

/// Whether the pipeline with this UID created this very object.
pub fn is_owned_by(uid: &str, child: &LiveChild) -> bool {
    child.object.owner_references().iter().any(|owner| owner.uid == uid)
}

/// Whose this object is.
pub fn ownership(pipeline: &Pipeline, child: &LiveChild) -> Ownership {
    let owner = child.object.owner_references().iter().find(|owner| owner.controller == Some(true));
    let is_labelled = child.object.labels().get(PIPELINE_LABEL) == Some(&pipeline.id.name);
    match owner {
        _ if child.object.metadata.deletion_timestamp.is_some() => Ownership::Going,
        Some(owner) if owner.uid == pipeline.owner.uid => Ownership::Ours,
        Some(owner) if owner.kind == pipeline.owner.kind && owner.name == pipeline.owner.name => {
            Ownership::Going
        }
        // What was orphaned on purpose (`kubectl delete --cascade=orphan`) is taken back.
        None if is_labelled => Ownership::Ours,
        Some(_) | None => Ownership::SomebodyElses,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        build::ChildKind,
        test_support::{QUICKSTART, pipeline},
    };

    #[test]
    fn an_object_is_ours_by_its_owner_and_not_by_its_name() {
        let pipeline = pipeline(QUICKSTART);
        let judged = |owner: Value, labels: Value| {
            let metadata = json!({"name": "line-bridge", "ownerReferences": owner, "labels": labels});
            let object = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            let child = LiveChild { kind: ChildKind::StatefulSet, object };
            match ownership(&pipeline, &child) {
                Ownership::Ours => "ours",
                Ownership::Going => "going",
                Ownership::SomebodyElses => "somebody else's",
            }
        };
        let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        assert_eq!(judged(owner("IoTPipeline", "line", "6f2b"), json!({})), "ours");
        assert_eq!(judged(owner("IoTPipeline", "line", "0000"), json!({})), "going");
        assert_eq!(judged(owner("IoTPipeline", "other", "1111"), json!({})), "somebody else's");
        assert_eq!(judged(owner("Kafka", "line", "2222"), json!({})), "somebody else's");
        assert_eq!(judged(json!([]), json!({PIPELINE_LABEL: "line"})), "ours");
        assert_eq!(judged(json!([]), json!({})), "somebody else's");
    }
}
