//! How fast the bridge drains a persistent session.

use std::time::Instant;

use crds::{
    pipeline::ProtocolVersion,
    worker::{BridgeConfig, KeyConfig, MqttTransport, RoleConfig, Subscription, TlsConfig},
};
use snafu::whatever;

use super::{
    Bench,
    load::{FILTER, publish},
    process::{Usage, Worker},
    processor::per_second,
    reading::PARTITIONS,
};
use crate::{Result, fleet::Broker};

/// The topic that is filled.
const TOPIC: &str = "bench-bridge";

/// What one run of the bridge came to.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// From the first message to the last acknowledgement.
    pub messages_per_second: f64,
    /// What the process used from its start on.
    pub usage: Usage,
}

/// What the bridge is told: the defaults of the spec.
pub fn config(broker: &Broker, client_id: &str) -> RoleConfig {
    RoleConfig::Bridge(BridgeConfig {
        host: broker.host.clone(),
        port: broker.port,
        transport: MqttTransport::Tcp,
        tls: TlsConfig::default(),
        alpn: Vec::new(),
        protocol_version: ProtocolVersion::V5,
        client_id: client_id.to_owned(),
        subscriptions: vec![Subscription { filter: FILTER.to_owned(), qos: 1 }],
        unsubscribe: Vec::new(),
        retire: false,
        session_expiry_seconds: 600,
        max_packet_size_bytes: 1 << 20,
        max_in_flight: 1_000,
        max_in_flight_bytes: 16 << 20,
        has_credentials: broker.credentials.is_some(),
        key: KeyConfig::Topic,
        max_record_bytes: (1 << 20) + (128 << 10),
        spool: None,
        shared: None,
    })
}

/// Has a session queue so many messages, then drains it into a fresh topic.
///
/// # Errors
/// Fails where not every message becomes one record.
pub async fn drain(bench: &Bench, messages: u64) -> Result<Drain> {
    bench.kafka.delete(TOPIC).await?;
    bench.kafka.create_with(TOPIC, PARTITIONS).await?;
    let client_id = format!("bench-{}", jiff::Timestamp::now().as_microsecond());
    // The first one subscribes and leaves, so that the broker queues for the second.
    let mut first = bench.start(TOPIC, config(&bench.broker, &client_id))?;
    wait_until_ready(&mut first).await?;
    first.stop().await?;
    publish(&bench.broker, messages, None).await?;

    let mut worker = bench.start(TOPIC, config(&bench.broker, &client_id))?;
    // The last look at which nothing had arrived.
    let mut begun = Instant::now();
    let mut has_begun = false;
    let ended = worker
        .wait_until("every message is acknowledged", async |worker| {
            let looked = Instant::now();
            let acknowledged =
                worker.metric("iotpipeline_bridge_messages_acknowledged_total").unwrap_or_default();
            if !has_begun && acknowledged == 0.0 {
                begun = looked;
            } else {
                has_begun = true;
            }
            Ok(acknowledged >= messages as f64)
        })
        .await?;
    let usage = worker.usage()?;
    worker.stop().await?;
    let found = bench.kafka.count(TOPIC).await?;
    if found != messages {
        whatever!("{found} records, where {messages} should be");
    }
    bench.kafka.delete(TOPIC).await?;
    Ok(Drain { messages_per_second: per_second(messages, begun, ended), usage })
}

/// Waits until a worker does its work.
///
/// # Errors
/// Fails where it does not.
pub async fn wait_until_ready(worker: &mut Worker) -> Result<()> {
    worker
        .wait_until("it is ready", async |worker| Ok(worker.status().is_some_and(|status| status.ready)))
        .await?;
    Ok(())
}
