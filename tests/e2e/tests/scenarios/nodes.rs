//! A node that stops answering. It never had a kubelet: once its status is written, nobody says anything of it.

use std::time::Duration;

use crds::worker::Component;
use e2e::{
    Result,
    fleet::{Ledger, Shares},
    manifest::set,
    scenario::{Scenario, scenario},
    wait::eventually,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, from_value, json};
use snafu::{OptionExt, Report, ResultExt, Whatever};

/// Label and taint of the node; their value is the name of the scenario's namespace. One pipeline's bridge goes there,
/// and nobody else.
const KEY: &str = "e2e-silent-node";

/// How long Kubernetes may take to take in a node, and to place a pod.
const PLACED: Duration = Duration::from_secs(60);

/// How long the bridge may stay on a node that does not answer. Kubernetes sees that after some 50 seconds, and gives
/// the pod up a minute later; ten seconds more, and the operator removes it when it looks next.
const LEFT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_bridge_leaves_a_node_that_does_not_answer() -> Report<Whatever> {
    scenario("silent-node", async |test: &Scenario| {
        test.start(&set(test.manifest()?, "/spec/bridge", bridge(test))?).await?;
        // Whatever comes, the node goes: between the two there is nothing that panics.
        let published = there_and_back(test).await;
        remove_node(test).await?;
        let ledger = published?;
        test.told("Changed", &format!("on node {}, which does not answer, deleted", test.namespace)).await?;
        test.ready().await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

/// Has the bridge be placed on a silent node, publishes while it is there, and waits until it is on another one.
async fn there_and_back(test: &Scenario) -> Result<Ledger> {
    make_node(test).await?;
    let bridges = test.workers(Component::Bridge).await?;
    let first = bridges.first().whatever_context("there is no bridge")?;
    test.cluster.remove_in_order(first).await?;
    bridge_is(test, PLACED, "on the silent node", |bridge| node_of(bridge) == Some(&test.namespace)).await?;

    let ledger =
        test.publish(20, 200.0, 1_000, Shares { late: 0.02, repeated: 0.01, malformed: 0.01 }).await?;
    let is_back = |bridge: &Pod| {
        let conditions = bridge.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        node_of(bridge) != Some(&test.namespace) && ready.any(|condition| condition.status == "True")
    };
    bridge_is(test, LEFT, "ready on another node", is_back).await?;
    Ok(ledger)
}

/// A bridge that prefers the silent node.
fn bridge(test: &Scenario) -> Value {
    let is_there = json!({"key": KEY, "operator": "In", "values": [test.namespace]});
    json!({"pod": {
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchExpressions": [is_there]}},
        ]}},
        "tolerations": [{"key": KEY, "operator": "Equal", "value": test.namespace, "effect": "NoSchedule"}],
    }})
}

/// Makes a node that says once that it is ready, and waits until pods may be placed on it.
async fn make_node(test: &Scenario) -> Result<()> {
    let name = test.namespace.as_str();
    let node: Node = from_value(json!({
        "metadata": {"name": name, "labels": {KEY: name, "kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": KEY, "value": name, "effect": "NoSchedule"}]},
    }))
    .whatever_context("failed to write a Node")?;
    let created = nodes(test).create(&PostParams::default(), &node).await;
    created.whatever_context("failed to make a node")?;
    let (now, room) = (Timestamp::now().to_string(), json!({"cpu": "4", "memory": "8Gi", "pods": "10"}));
    let status = json!({"status": {
        "capacity": room,
        "allocatable": room,
        "conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "said once",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }],
    }});
    let patched = nodes(test).patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
    patched.whatever_context("failed to write the node's status")?;
    eventually(PLACED, "Kubernetes takes the node for ready", async || {
        let node = nodes(test).get(name).await.whatever_context("failed to read the node")?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        Ok(taints.iter().all(|taint| taint.key == KEY).then_some(()).ok_or(format!("{taints:?}")))
    })
    .await
}

async fn remove_node(test: &Scenario) -> Result<()> {
    match nodes(test).delete(&test.namespace, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(|_| ()).whatever_context("failed to delete the node"),
    }
}

fn nodes(test: &Scenario) -> Api<Node> {
    Api::all(test.cluster.client.clone())
}

/// Waits until the bridge is as `wanted` says.
async fn bridge_is(
    test: &Scenario,
    patience: Duration,
    what: &str,
    wanted: impl Fn(&Pod) -> bool,
) -> Result<()> {
    eventually(patience, &format!("the bridge is {what}"), async || {
        let bridges = test.workers(Component::Bridge).await?;
        let is_so = bridges.iter().any(&wanted);
        let nodes: Vec<_> = bridges.iter().map(node_of).collect();
        Ok(is_so.then_some(()).ok_or(format!("bridges are on {nodes:?}")))
    })
    .await
}

fn node_of(pod: &Pod) -> Option<&String> {
    pod.spec.as_ref()?.node_name.as_ref()
}
