use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Value, json};

use super::*;
use crate::{build::ChildKind, change::Refusal};

fn workload(wanted: i32, ready: i32) -> LiveChild {
    let object = json!({
        "metadata": {"name": "line-bridge", "generation": 1},
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": 1, "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": ready},
    });
    LiveChild { kind: ChildKind::StatefulSet, object: serde_json::from_value(object).unwrap() }
}

fn pod(status: Value, problem: Option<(&str, &str)>) -> WorkerPod {
    let report = problem.map(|(reason, message)| {
        json!({
            "component": "bridge", "version": "1", "ready": false,
            "problem": {"reason": reason, "message": message},
        })
    });
    WorkerPod {
        component: Component::Bridge,
        pod: serde_json::from_value(json!({"metadata": {"name": "line-bridge-0"}, "status": status}))
            .unwrap(),
        report: report.map(|report| serde_json::from_value(report).unwrap()),
    }
}

fn waiting(reason: &str) -> Value {
    json!({"containerStatuses": [{
        "name": "worker", "image": "worker:1", "imageID": "", "ready": false, "restartCount": 2,
        "state": {"waiting": {"reason": reason, "message": "back-off 40s restarting failed container"}},
        "lastState": {"terminated": {"exitCode": 1}},
    }]})
}

fn judge(workload: Option<&LiveChild>, pods: &[WorkerPod], outcome: Option<&WorkerOutcome>) -> String {
    let finding =
        judge_worker(Component::Bridge, workload, pods, outcome, Suspend::All, ProcessorMode::Fixed);
    format!("{} {}: {}", finding.holds, finding.reason, finding.message)
}

#[test]
fn workers_are_judged_by_what_is_known_best() {
    let running = json!({"phase": "Running"});
    let current = WorkerOutcome { is_current: true, ..WorkerOutcome::default() };
    let written = WorkerOutcome { is_current: true, starts_anew: true, ..WorkerOutcome::default() };
    let refused = WorkerOutcome {
        problems: vec![Refusal { reason: Reason::ResourceConflict, message: "in the way".to_owned() }],
        ..WorkerOutcome::default()
    };
    let mut over_quota = workload(2, 1);
    over_quota.object.data["status"]["conditions"] = json!([
        {"type": "ReplicaFailure", "status": "True", "message": "pods \"line-1\" is forbidden: exceeded quota."},
    ]);
    let cases = [
        judge(Some(&workload(1, 1)), &[pod(running.clone(), None)], Some(&current)),
        judge(Some(&over_quota), &[pod(running.clone(), None)], Some(&current)),
        judge(
            Some(&workload(1, 1)),
            &[pod(running.clone(), Some(("SlowBroker", "it is slow.")))],
            Some(&current),
        ),
        judge(Some(&workload(1, 0)), &[pod(running.clone(), None)], Some(&current)),
        judge(Some(&workload(1, 0)), &[pod(running.clone(), Some(("BrokerUnreachable", "refused.")))], None),
        judge(Some(&workload(1, 0)), &[pod(running, Some(("Starting", "just started.")))], None),
        judge(Some(&workload(1, 0)), &[pod(waiting("CrashLoopBackOff"), None)], Some(&current)),
        judge(Some(&workload(1, 0)), &[pod(waiting("ErrImagePull"), None)], Some(&current)),
        judge(Some(&workload(1, 0)), &[pod(waiting("CreateContainerConfigError"), None)], Some(&current)),
        judge(Some(&workload(1, 1)), &[], Some(&written)),
        judge(Some(&workload(1, 1)), &[], Some(&refused)),
        judge(Some(&workload(0, 0)), &[], Some(&current)),
        judge(None, &[], Some(&current)),
        judge(None, &[], Some(&written)),
        judge(None, &[], None),
    ];
    insta::assert_snapshot!(cases.join("\n"));
}

#[test]
fn what_is_only_scaled_goes_on() {
    let now = Timestamp::from_second(1_000).unwrap();
    let condition = |status: &str| Condition {
        type_: "BridgeReady".to_owned(),
        status: status.to_owned(),
        last_transition_time: Time(now),
        message: String::new(),
        observed_generation: None,
        reason: "AsSpecified".to_owned(),
    };
    let pod = |ready: &str, created: i64| {
        let mut pod = pod(json!({"conditions": [{"type": "Ready", "status": ready}]}), None);
        pod.pod.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).unwrap()));
        pod
    };
    let judge = |workload: &LiveChild, pods: &[WorkerPod], before: &str| {
        let before = condition(before);
        let finding = judge_scaling(Component::Bridge, workload, pods, None, Some(&before), now);
        finding.map(|finding| finding.message)
    };
    let (works, starts, hangs, old) =
        (pod("True", 100), pod("False", 995), pod("False", 900), pod("False", 100));
    let edited = |mut workload: LiveChild, seconds: i64| {
        let edit = |subresource: Option<&str>, seconds: i64| ManagedFieldsEntry {
            subresource: subresource.map(str::to_owned),
            time: Some(Time(Timestamp::from_second(seconds).unwrap())),
            ..ManagedFieldsEntry::default()
        };
        let edits = vec![edit(None, 10), edit(Some("scale"), seconds), edit(Some("status"), 999)];
        workload.object.metadata.managed_fields = Some(edits);
        workload
    };
    let grows = edited(workload(2, 1), 995);
    let goes_on = Some("1 of 2 ready, and the others come or go".to_owned());
    assert_eq!(judge(&grows, &[works.clone(), starts.clone()], "True"), goes_on);
    let mut lacks_one = grows.clone();
    for count in ["replicas", "updatedReplicas"] {
        lacks_one.object.data["status"][count] = 1.into();
    }
    let one = std::slice::from_ref(&works);
    assert_eq!(judge(&lacks_one, one, "True"), goes_on, "its pod is not there yet");
    assert_eq!(judge(&edited(lacks_one.clone(), 900), one, "True"), None, "its pod never comes");
    lacks_one.object.data["status"]["conditions"] = json!([{"type": "ReplicaFailure", "status": "True"}]);
    assert_eq!(judge(&lacks_one, one, "True"), None, "its pod is refused");
    assert_eq!(judge(&grows, &[works.clone(), starts.clone()], "False"), None, "it is being rolled");
    assert_eq!(judge(&grows, &[works.clone(), hangs.clone()], "True"), None, "it takes too long");
    assert_eq!(judge(&grows, &[old, works.clone()], "True"), None, "one of those before fails");
    assert_eq!(judge(&workload(2, 0), std::slice::from_ref(&starts), "True"), None, "none works");
    assert_eq!(judge(&workload(0, 0), &[], "True"), None);
    let mut rolls = workload(2, 1);
    rolls.object.data["status"]["updatedReplicas"] = 1.into();
    assert_eq!(judge(&rolls, &[works.clone(), starts.clone()], "True"), None, "one has another template");
    let mut retires = rolls.clone();
    retires.object.data["spec"]["updateStrategy"] = json!({"rollingUpdate": {"partition": 1}});
    assert_eq!(judge(&retires, &[works.clone(), starts], "True"), goes_on, "the other one stays");
    assert_eq!(judge(&retires, &[works.clone(), hangs], "True"), None, "it takes too long to start anew");
    let mut has_left = workload(1, 2);
    has_left.object.data["status"]["replicas"] = 2.into();
    let left = Some("2 of 1 ready, and the others come or go".to_owned());
    assert_eq!(judge(&has_left, &[works], "True"), left, "the other one has still to go");
}

#[test]
fn no_processor_is_all_right_where_something_scales_it() {
    let judge = |suspend, mode| {
        let current = WorkerOutcome { is_current: true, ..WorkerOutcome::default() };
        judge_worker(Component::Processor, Some(&workload(0, 0)), &[], Some(&current), suspend, mode).holds
    };
    assert!(judge(Suspend::None, ProcessorMode::BuiltIn) && judge(Suspend::None, ProcessorMode::External));
    assert!(!judge(Suspend::None, ProcessorMode::Fixed) && !judge(Suspend::None, ProcessorMode::Advise));
    assert!(!judge(Suspend::Processor, ProcessorMode::BuiltIn));
}
