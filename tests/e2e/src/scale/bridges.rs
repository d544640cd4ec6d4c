//! Bridges on one shared subscription that come and leave under load, from one to three and back: whether anything is lost,
//! and whether the broker keeps anything of those that left.

use std::time::{Duration, Instant};

use crds::{
    IoTPipeline,
    names::{bridge_client_id, default_client_id},
    worker::Component,
};
use kube::ResourceExt;
use serde_json::{Value, json};
use snafu::{OptionExt, whatever};
use tokio::time::sleep;

use super::{
    Figures,
    step::{Redelivery, account},
};
use crate::{
    Result,
    fleet::{Fleet, Shares},
    manifest::set,
    mqtt,
    scenario::{PIPELINE, Scenario, in_namespace},
};

/// The cluster's name, as tests/e2e/install gives it to the chart.
const CLUSTER_NAME: &str = "local";

/// How often Mosquitto says how it is, and a little more.
const SAID_AGAIN: Duration = Duration::from_secs(12);

/// Devices, and their messages a second.
const DEVICES: usize = 200;
const RATE: f64 = 1_000.0;

/// Has bridges come and leave, from an empty namespace to an empty namespace.
///
/// # Errors
/// Fails where bridges do not come or leave, and where the broker keeps a session or has dropped a message.
pub async fn run() -> Result<Figures> {
    in_namespace("bridges", async |test: &Scenario| prove(test).await).await
}

/// The same in a namespace that is there. Nobody else may use the broker meanwhile: its counters are of all clients.
///
/// # Errors
/// As [`run`].
pub async fn prove(test: &Scenario) -> Result<Figures> {
    sleep(SAID_AGAIN).await;
    let (dropped_before, away_before) = (dropped(test).await?, clients_away(test).await?);
    test.start(&shared(test, 1)?).await?;
    let fleet = test.fleet(DEVICES, RATE, None, Shares::NONE);
    test.published(&fleet, 3_000).await?;

    let came = change_to(test, 3).await?;
    test.published(&fleet, fleet.progress().published() + 5_000).await?;
    for bridge in test.workers(Component::Bridge).await? {
        let pods = std::slice::from_ref(&bridge);
        let delivered = "iotpipeline_bridge_messages_delivered_total";
        if test.cluster.worker_counter(pods, delivered).await? == 0 {
            whatever!("{} has no share of the messages", bridge.name_any());
        }
    }
    let stays = bridge(test, 0).await?.uid();

    let left = change_to(test, 1).await?;
    if bridge(test, 0).await?.uid() != stays {
        whatever!("the bridge that stays was restarted");
    }
    test.published(&fleet, fleet.progress().published() + 3_000).await?;

    let mut figures = account(test, fleet, None, Redelivery::Possible).await?;
    sleep(SAID_AGAIN).await;
    let dropped = dropped(test).await? - dropped_before;
    let orphans = clients_away(test).await?.saturating_sub(away_before);
    println!(
        "bridges: from_1_to_3_s={:.1} from_3_to_1_s={:.1} orphan_sessions={orphans} broker_dropped={dropped}",
        came.as_secs_f64(),
        left.as_secs_f64()
    );
    expect_no_session(test, &[1, 2]).await?;
    if orphans + dropped > 0 {
        whatever!("the broker keeps {orphans} sessions that nobody has, and has dropped {dropped} messages");
    }
    figures.others = vec![("orphan_sessions", orphans.to_string()), ("broker_dropped", dropped.to_string())];
    Ok(figures)
}

/// Has so many bridges, and says how long that took.
async fn change_to(test: &Scenario, number: i32) -> Result<Duration> {
    let began = Instant::now();
    scale_bridges(test, number).await?;
    test.wait_for(&format!("has {number} bridges"), |pipeline| bridges(pipeline) == (number, Some(number)))
        .await?;
    test.ready().await?;
    Ok(began.elapsed())
}

/// The pipeline with so many bridges that share.
///
/// # Errors
/// Fails where the manifest has no such place.
pub fn shared(test: &Scenario, replicas: i32) -> Result<Value> {
    let manifest = set(test.manifest()?, "/spec/mqtt/session", json!("Shared"))?;
    set(manifest, "/spec/bridge", json!({"replicas": replicas}))
}

/// Asks for so many bridges.
///
/// # Errors
/// Fails where the API server refuses it.
pub async fn scale_bridges(test: &Scenario, replicas: i32) -> Result<()> {
    test.patch(json!({"spec": {"bridge": {"replicas": replicas}}})).await.map(drop)
}

/// How many bridges there are, and how many sessions there may be.
pub fn bridges(pipeline: &IoTPipeline) -> (i32, Option<i32>) {
    let bridge = pipeline.status.as_ref().and_then(|status| status.bridge.as_ref());
    bridge.map_or((0, None), |bridge| (bridge.replicas, bridge.sessions))
}

/// The pod of one bridge.
///
/// # Errors
/// Fails where there is none.
pub async fn bridge(test: &Scenario, ordinal: u32) -> Result<k8s_openapi::api::core::v1::Pod> {
    let name = format!("{PIPELINE}-bridge-{ordinal}");
    let pods = test.workers(Component::Bridge).await?;
    pods.into_iter().find(|pod| pod.name_any() == name).whatever_context(format!("there is no pod {name}"))
}

/// Lets more come to the bridges that there are, and ends the load: everything has become rows, whatever MQTT delivered again,
/// and the broker keeps no session of those that left.
///
/// # Errors
/// Fails where a message is lost or there twice, or a session is kept.
pub async fn end(test: &Scenario, fleet: Fleet, left: &[u32]) -> Result<()> {
    test.ready().await?;
    test.published(&fleet, fleet.progress().published() + 1_000).await?;
    let ledger = test.halt(fleet).await?;
    test.expect_delivered(&ledger, true).await?;
    expect_no_session(test, left).await
}

/// Fails where the broker still keeps the session of one of these bridges.
///
/// # Errors
/// Names the client that has it.
pub async fn expect_no_session(test: &Scenario, ordinals: &[u32]) -> Result<()> {
    let first = default_client_id(CLUSTER_NAME, &test.namespace, PIPELINE);
    for ordinal in ordinals {
        let client_id = bridge_client_id(&first, *ordinal);
        if mqtt::has_session(&test.broker, &client_id).await? {
            whatever!("the broker still keeps the session of {client_id}");
        }
    }
    Ok(())
}

/// How many messages the broker has dropped because of its limits, since it started.
async fn dropped(test: &Scenario) -> Result<u64> {
    mqtt::system_value(&test.broker, "$SYS/broker/publish/messages/dropped").await
}

/// How many sessions the broker keeps of clients that are away.
async fn clients_away(test: &Scenario) -> Result<u64> {
    mqtt::system_value(&test.broker, "$SYS/broker/clients/disconnected").await
}
