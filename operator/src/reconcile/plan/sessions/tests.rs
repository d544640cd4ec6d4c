use crds::{
    names::{COMPONENT_LABEL, PIPELINE_LABEL},
    status::BridgeStatus,
    worker::Component,
};
use serde_json::json;

use super::*;
use crate::{
    build::{ChildKind, build_configuration, build_worker},
    reconcile::{
        fetch::WorkerPod,
        plan::{filters::with_left_filters, spool::with_kept_spool},
    },
    test_support::{QUICKSTART, object, pipeline, worker_settings},
};

/// A pipeline with so many bridges that share, or with one that does not.
fn yaml(bridges: Option<i32>) -> String {
    match bridges {
        None => QUICKSTART.to_owned(),
        Some(replicas) => {
            let shared = QUICKSTART.replacen("  mqtt:\n", "  mqtt:\n    session: Shared\n", 1);
            format!("{shared}  bridge: {{replicas: {replicas}}}\n")
        }
    }
}

/// A cluster in which this is done about bridges again and again.
struct Cluster {
    spec: String,
    noted: Option<i32>,
    workers: Workers,
}

impl Cluster {
    /// One that is as the spec says.
    fn with(bridges: Option<i32>) -> Self {
        let mut cluster = Self { spec: yaml(bridges), noted: bridges, workers: Workers::default() };
        cluster.write();
        cluster.settle();
        cluster
    }

    fn edit(&mut self, bridges: Option<i32>) {
        self.spec = yaml(bridges);
    }

    fn plan(&self) -> (Pipeline, Option<Sessions>) {
        let mut object = object(&self.spec);
        let bridge = BridgeStatus { sessions: self.noted, ..BridgeStatus::default() };
        object.status.get_or_insert_default().bridge = Some(bridge);
        with_sessions(with_kept_spool(pipeline(&self.spec), &self.workers), &object, &self.workers)
    }

    /// Does what is planned; answers it in words: how many bridges, which of them leave, and for how many sessions.
    fn write(&mut self) -> String {
        let (pipeline, sessions) = self.plan();
        let pipeline = with_left_filters(pipeline, &self.workers);
        let bridge = pipeline.bridge.as_ref().unwrap();
        let RoleConfig::Bridge(config) = &bridge.config.role else { panic!() };
        let how = match config.shared {
            None => "alone".to_owned(),
            Some(shared) => match shared.retire_from {
                None => "shared".to_owned(),
                Some(from) => format!("shared, leaving from {from}"),
            },
        };
        let configuration = build_configuration(&pipeline, bridge).unwrap();
        let mut children = build_worker(&pipeline, bridge, &configuration.name, &worker_settings()).unwrap();
        children.push(configuration);
        let statefulset = self
            .workers
            .workload("line", Component::Bridge)
            .map(|bridge| bridge.object.data["status"].clone());
        self.workers.children = children
            .into_iter()
            .map(|mut child| {
                if child.kind == ChildKind::StatefulSet {
                    child.object["metadata"]["uid"] = json!("s1");
                    child.object["status"] = statefulset.clone().unwrap_or_default();
                }
                LiveChild { kind: child.kind, object: serde_json::from_value(child.object).unwrap() }
            })
            .collect();
        self.noted = sessions.as_ref().and_then(|sessions| sessions.afterwards);
        format!("{} {how}, {:?}", bridge.replicas, self.noted)
    }

    /// All pods are there and ready, and say nothing of a retirement.
    fn settle(&mut self) {
        let bridge =
            self.workers.children.iter_mut().find(|child| child.kind == ChildKind::StatefulSet).unwrap();
        let replicas = bridge.object.data["spec"]["replicas"].clone();
        bridge.object.data["status"] =
            json!({"replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas});
        self.workers.pods.clear();
        for ordinal in 0..replicas.as_i64().unwrap() {
            self.report(ordinal, json!(null));
        }
    }

    fn report(&mut self, ordinal: i64, retirement: Value) {
        let bridge = self.workers.workload("line", Component::Bridge).unwrap();
        let name = format!("line-bridge-{ordinal}");
        let mut spec = bridge.object.data["spec"]["template"]["spec"].clone();
        spec["containers"] = json!([]);
        let labels = json!({PIPELINE_LABEL: "line", COMPONENT_LABEL: "bridge"});
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "line-bridge", "uid": "s1"}]);
        let metadata = json!({"name": name, "labels": labels, "ownerReferences": owner});
        let report = json!({"component": "bridge", "version": "1", "ready": true, "retirement": retirement});
        self.workers.pods.retain(|pod| pod.pod.metadata.name.as_deref() != Some(&name));
        self.workers.pods.push(WorkerPod {
            component: Component::Bridge,
            pod: serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap(),
            report: Some(serde_json::from_value(report).unwrap()),
        });
    }

    fn ends(&mut self, ordinal: i64) {
        self.report(ordinal, json!({"ended": true, "passedOn": 7, "inFlight": 0}));
    }
}

#[test]
fn bridges_that_leave_stay_until_each_has_ended_its_session() {
    let mut cluster = Cluster::with(Some(3));
    assert_eq!(cluster.write(), "3 shared, Some(3)");
    cluster.edit(Some(1));
    assert_eq!(cluster.write(), "3 shared, leaving from 1, Some(3)");
    let note = cluster.plan().1.unwrap().note.unwrap().message;
    assert!(note.starts_with("bridges 1 to 2 leave: ") && note.ends_with("; 2 not done yet"), "{note}");
    cluster.settle();
    cluster.report(1, json!({"ended": false, "passedOn": 3, "inFlight": 4}));
    cluster.ends(2);
    assert_eq!(cluster.write(), "3 shared, leaving from 1, Some(3)");
    cluster.ends(1);
    assert_eq!(cluster.write(), "1 shared, Some(1)");
    // The pods stop meanwhile.
    assert_eq!(cluster.write(), "1 shared, Some(1)");
}

#[test]
fn what_a_bridge_said_before_it_was_told_to_leave_does_not_count() {
    let mut cluster = Cluster::with(Some(2));
    cluster.ends(1);
    cluster.edit(Some(1));
    assert_eq!(cluster.write(), "2 shared, leaving from 1, Some(2)");
    assert_eq!(cluster.write(), "2 shared, leaving from 1, Some(2)", "it runs with the configuration before");
    cluster.ends(1);
    cluster.workers.pods.last_mut().unwrap().pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(cluster.write(), "2 shared, leaving from 1, Some(2)", "another one comes in its place");
}

#[test]
fn bridges_that_are_wanted_again_stay() {
    let mut cluster = Cluster::with(Some(3));
    cluster.edit(Some(1));
    cluster.write();
    cluster.edit(Some(3));
    assert_eq!(cluster.write(), "3 shared, Some(3)");
    // Where only some are, all are led to the end first.
    cluster.edit(Some(1));
    cluster.write();
    cluster.settle();
    cluster.edit(Some(2));
    assert_eq!(cluster.write(), "3 shared, leaving from 1, Some(3)");
    cluster.ends(1);
    cluster.ends(2);
    assert_eq!(cluster.write(), "2 shared, Some(2)");
    cluster.edit(Some(5));
    assert_eq!(cluster.write(), "5 shared, Some(5)");
}

#[test]
fn sessions_without_a_bridge_get_one_that_ends_them() {
    // Somebody deleted the StatefulSet while the spec asked for fewer.
    let mut cluster = Cluster::with(Some(3));
    cluster.workers = Workers::default();
    cluster.edit(Some(1));
    assert_eq!(cluster.write(), "3 shared, leaving from 1, Some(3)");
    // Somebody added bridges by hand, and the operator forgot how many there were.
    let mut cluster = Cluster::with(Some(2));
    let bridge = cluster.workers.children.iter_mut().find(|child| child.kind == ChildKind::StatefulSet);
    bridge.unwrap().object.data["spec"]["replicas"] = json!(4);
    cluster.noted = None;
    assert_eq!(cluster.write(), "4 shared, leaving from 2, Some(4)");
}

#[test]
fn sessions_are_noted_before_there_are_more_of_them() {
    let mut cluster = Cluster::with(Some(1));
    cluster.edit(Some(4));
    assert_eq!(cluster.plan().1.unwrap().meanwhile, 4);
    cluster.write();
    cluster.settle();
    cluster.edit(Some(1));
    cluster.write();
    (1..4).for_each(|ordinal| cluster.ends(ordinal));
    let sessions = cluster.plan().1.unwrap();
    assert_eq!((sessions.meanwhile, sessions.afterwards), (4, Some(1)), "as long as that is not written");
}

#[test]
fn suspended_bridges_keep_their_sessions() {
    let mut cluster = Cluster::with(Some(3));
    cluster.spec = format!("{}  suspend: All\n", yaml(Some(1)));
    assert_eq!(cluster.write(), "0 shared, Some(3)");
    cluster.settle();
    cluster.edit(Some(1));
    assert_eq!(cluster.write(), "3 shared, leaving from 1, Some(3)");
}

#[test]
fn one_bridge_becomes_several_once_it_shares_itself() {
    let mut cluster = Cluster::with(None);
    assert_eq!(cluster.write(), "1 alone, None");
    cluster.edit(Some(3));
    assert_eq!(cluster.write(), "1 shared, Some(1)");
    // It is being rolled.
    let bridge = cluster.workers.children.iter_mut().find(|child| child.kind == ChildKind::StatefulSet);
    bridge.unwrap().object.data["status"]["readyReplicas"] = json!(0);
    assert_eq!(cluster.write(), "1 shared, Some(1)");
    assert!(cluster.plan().1.unwrap().are_changing);
    cluster.settle();
    assert_eq!(cluster.write(), "3 shared, Some(3)");
    // The new ones start; one that somebody takes away meanwhile comes back.
    assert_eq!(cluster.write(), "3 shared, Some(3)");
    let bridge = cluster.workers.children.iter_mut().find(|child| child.kind == ChildKind::StatefulSet);
    bridge.unwrap().object.data["spec"]["replicas"] = json!(2);
    assert_eq!(cluster.write(), "3 shared, Some(3)");
}

#[test]
fn nobody_joins_a_bridge_that_was_suspended_before_it_shared_itself() {
    let mut cluster = Cluster::with(None);
    cluster.spec = format!("{}  suspend: All\n", yaml(Some(3)));
    assert_eq!(cluster.write(), "0 shared, Some(1)");
    cluster.settle();
    cluster.edit(Some(3));
    assert_eq!(cluster.write(), "1 shared, Some(1)", "its session still has what it had for itself");
    cluster.settle();
    assert_eq!(cluster.write(), "3 shared, Some(3)");
    // From then on all of them sleep and wake together.
    cluster.spec = format!("{}  suspend: All\n", yaml(Some(3)));
    cluster.write();
    cluster.settle();
    cluster.edit(Some(3));
    assert_eq!(cluster.write(), "3 shared, Some(3)");
}

#[test]
fn several_bridges_become_one_once_the_others_have_left() {
    let mut cluster = Cluster::with(Some(3));
    cluster.edit(None);
    assert_eq!(cluster.write(), "3 shared, leaving from 1, Some(3)");
    cluster.settle();
    cluster.ends(1);
    cluster.ends(2);
    assert_eq!(cluster.write(), "1 alone, None");
    let unsubscribed = cluster.workers.bridge_configuration("line").unwrap();
    let unsubscribed = &unsubscribed["role"]["bridge"]["unsubscribe"];
    assert_eq!(*unsubscribed, json!(["$share/test-plant-7-line/plants/+/telemetry"]));
    assert_eq!(cluster.write(), "1 alone, None");
}

#[test]
fn a_spool_is_emptied_before_others_join_and_made_once_one_is_alone() {
    let with_spool = QUICKSTART.replacen("  mqtt:\n", "  mqtt:\n    spool: {size: 64Mi}\n", 1);
    let has_spool = |cluster: &Cluster| cluster.plan().0.bridge.unwrap().spool.is_some();
    let mut cluster = Cluster::with(Some(2));
    cluster.spec = with_spool;
    assert_eq!(cluster.write(), "2 shared, leaving from 1, Some(2)");
    assert!(!has_spool(&cluster));
    cluster.settle();
    cluster.ends(1);
    assert!(has_spool(&cluster));
    assert_eq!(cluster.write(), "1 alone, None");
    cluster.settle();

    cluster.edit(Some(3));
    assert_eq!(cluster.write(), "1 shared, Some(1)");
    cluster.settle();
    assert_eq!(cluster.write(), "1 shared, Some(1)", "messages may be in it");
    assert!(has_spool(&cluster));
    let emptied = json!({"messages": 0, "bytes": 0, "closing": true});
    let report = cluster.workers.pods[0].report.as_mut().unwrap();
    report.spool = Some(serde_json::from_value(emptied).unwrap());
    cluster.write();
    assert!(!has_spool(&cluster));
    cluster.settle();
    assert_eq!(cluster.write(), "3 shared, Some(3)");
}
