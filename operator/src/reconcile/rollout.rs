//! How far a Deployment or StatefulSet has come. Pure.

use super::fetch::LiveChild;

/// Where a StatefulSet says how many pods, from the first one on, keep the template that they have.
pub const HELD_BACK: &str = "/spec/updateStrategy/rollingUpdate/partition";

/// The replicas of a workload, as its controller counted them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rollout {
    /// How many are wanted.
    pub wanted: i32,
    /// How many pods there are.
    pub existing: i32,
    /// How many of them have the newest template.
    pub updated: i32,
    /// How many of them are ready.
    pub ready: i32,
    /// How many of them keep the template that they have.
    pub held_back: i32,
    /// Whether the controller has seen the newest template.
    pub is_observed: bool,
}

impl Rollout {
    /// Every pod that shall have the newest template has it, and all are ready.
    pub fn is_complete(&self) -> bool {
        self.is_observed
            && [self.existing, self.ready] == [self.wanted; 2]
            && (self.wanted - self.held_back..=self.wanted).contains(&self.updated)
    }
}

impl LiveChild {
    /// How far this workload has come. Deployments and StatefulSets have the same fields for it.
    pub fn rollout(&self) -> Rollout {
        let number = |pointer: &str| {
            self.object.data.pointer(pointer).and_then(serde_json::Value::as_i64).unwrap_or_default()
        };
        let count = |pointer: &str| i32::try_from(number(pointer)).unwrap_or(i32::MAX);
        Rollout {
            wanted: count("/spec/replicas"),
            existing: count("/status/replicas"),
            updated: count("/status/updatedReplicas"),
            ready: count("/status/readyReplicas"),
            held_back: count(HELD_BACK),
            is_observed: number("/status/observedGeneration") >= self.object.metadata.generation.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build::ChildKind;

    fn rollout(status: serde_json::Value) -> Rollout {
        let object =
            json!({"metadata": {"name": "x", "generation": 3}, "spec": {"replicas": 2}, "status": status});
        LiveChild { kind: ChildKind::Deployment, object: serde_json::from_value(object).unwrap() }.rollout()
    }

    #[test]
    fn a_rollout_is_complete_when_every_pod_is_new_and_ready() {
        let complete =
            json!({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2});
        assert!(rollout(complete.clone()).is_complete());
        for (field, value) in
            [("observedGeneration", 2), ("replicas", 3), ("updatedReplicas", 1), ("readyReplicas", 1)]
        {
            let mut status = complete.clone();
            status[field] = value.into();
            assert!(!rollout(status).is_complete(), "{field}");
        }
        assert!(!rollout(json!({})).is_complete());
    }

    #[test]
    fn pods_that_keep_their_template_are_not_waited_for() {
        let object = |partition: i32, updated: i32| {
            let object = json!({
                "metadata": {"name": "x", "generation": 3},
                "spec": {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": partition}}},
                "status": {"observedGeneration": 3, "replicas": 3, "updatedReplicas": updated, "readyReplicas": 3},
            });
            LiveChild { kind: ChildKind::StatefulSet, object: serde_json::from_value(object).unwrap() }
        };
        assert!(object(1, 2).rollout().is_complete());
        assert!(!object(1, 1).rollout().is_complete());
        assert!(!object(0, 2).rollout().is_complete());
    }
}
