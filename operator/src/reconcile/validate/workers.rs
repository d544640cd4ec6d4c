//! The workers of a spec: how many, with which resources, and what each is told. Synchronous, no client.

use std::{ops::RangeInclusive, time::Duration};

use crds::{
    IoTPipelineSpec,
    names::{self, SecretPurpose},
    pipeline::{
        AcceptTimeSpec, BridgeMode, BridgeSpec, KeyFrom, KeySpec, MqttSpec, ProcessorMode, ProcessorSpec,
        ProtocolVersion, SecretRef, Session, SpoolSpec, Suspend,
    },
    status::Reason,
    units::DurationText,
    worker::{
        AcceptTimeConfig, BridgeConfig, ColumnConfig, KeyConfig, MqttTransport, PipelineId, ProcessorConfig,
        RoleConfig, SpoolConfig, StartFrom, Subscription, TableConfig, WORKER_CONFIG_VERSION, WorkerConfig,
    },
};
use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};

use super::{
    connections::{self, Content, Database, Kafka, References},
    problems::Problems,
    stores::{is_nullable, record_bytes},
};
use crate::{
    pipeline::{Autoscaling, MountedSecret, SpoolVolume, Worker},
    scale::{bridges, policy::Settings},
};

/// The smallest volume that a spool can use.
const MIN_SPOOL_BYTES: u64 = 16 << 20;

/// Within which time a lag can be asked to be drained: a rebalance alone takes seconds, and after an hour it is late.
const TARGET_DRAIN: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(3600);

/// How many messages a second one bridge carries, unless the spec says it.
const TARGET_RATE: i32 = 10_000;

/// The keys of the Secret of `mqtt.credentialsSecretRef`, and the names of their files.
const CREDENTIALS: [&str; 2] = ["username", "password"];

pub(super) fn bridge(
    spec: &IoTPipelineSpec,
    mqtt: &MqttSpec,
    kafka: Option<&Kafka>,
    max_packet_size: Option<u32>,
    references: &mut References<'_>,
) -> Option<Worker> {
    let tls = connections::mqtt(mqtt, references);
    let credentials = credentials(mqtt, references);
    let References { id, problems, .. } = references;
    let broker = problems.require(broker_address(&mqtt.url), || {
        format!(
            "mqtt.url {:?} is no MQTT address; write mqtt://, mqtts://, ws:// or wss://host:port",
            mqtt.url
        )
    });
    let session_expiry = problems.duration("mqtt.sessionExpiry", &mqtt.session_expiry);
    let max_in_flight_bytes = problems.size("mqtt.maxInFlightBytes", &mqtt.max_in_flight_bytes);
    if let (Some(in_flight), Some(packet)) = (max_in_flight_bytes, max_packet_size) {
        problems.refuse_if(in_flight < u64::from(packet), || {
            format!(
                "mqtt.maxInFlightBytes {} is less than mqtt.maxPacketSize {}, so the largest message could never pass",
                mqtt.max_in_flight_bytes, mqtt.max_packet_size
            )
        });
    }
    let spool = spool(mqtt, max_packet_size, problems);
    problems.refuse_if(mqtt.subscriptions.is_empty(), || {
        "mqtt.subscriptions is empty; name a topic filter".to_owned()
    });
    let key = key(spec.kafka.key.as_ref(), problems);
    let wanted = spec.bridge.clone().unwrap_or_default();
    sharing(mqtt, &wanted, problems);
    let (broker, kafka, tls) = (broker?, kafka?, tls?);
    let max_packet_size_bytes = max_packet_size?;
    let max_in_flight_bytes = max_in_flight_bytes?;
    let mut config = BridgeConfig {
        host: names::service_host(broker.host, &id.namespace),
        port: broker.port,
        transport: broker.transport,
        tls: tls.config,
        alpn: mqtt.tls.as_ref().map(|tls| tls.alpn.clone()).unwrap_or_default(),
        protocol_version: mqtt.protocol_version,
        client_id: mqtt
            .client_id
            .clone()
            .unwrap_or_else(|| names::default_client_id(&id.cluster_name, &id.namespace, &id.name)),
        subscriptions: mqtt
            .subscriptions
            .iter()
            .map(|wanted| Subscription { filter: wanted.filter.clone(), qos: wanted.qos.clamp(0, 2) as u8 })
            .collect(),
        unsubscribe: Vec::new(),
        retire: false,
        // MQTT's own largest value means "never" (MQTT-3.1.2.11.2).
        session_expiry_seconds: u32::try_from(session_expiry?.as_secs()).unwrap_or(u32::MAX),
        max_packet_size_bytes,
        max_in_flight: mqtt.max_in_flight.clamp(1, 65_535) as u16,
        max_in_flight_bytes,
        has_credentials: mqtt.credentials_secret_ref.is_some(),
        key: key?,
        max_record_bytes: record_bytes(max_packet_size_bytes),
        spool: spool.as_ref().map(|volume| SpoolConfig { volume_bytes: volume.bytes, closing: false }),
        shared: None,
    };
    if mqtt.session == Session::Shared {
        config.share(None);
    }
    Some(Worker {
        replicas: if spec.suspend == Suspend::All { 0 } else { wanted.replicas },
        config: worker_config(kafka, id, RoleConfig::Bridge(config)),
        secrets: credentials.into_iter().chain(tls.mounts).chain(kafka.mounts.clone()).collect(),
        // A message is held by the MQTT client, by the producer and once on its way between them.
        resources: wanted
            .resources
            .unwrap_or_else(|| default_resources("32Mi", (64 << 20) + 4 * max_in_flight_bytes)),
        pod: wanted.pod,
        spool,
    })
}

/// Refuses what several bridges, or none that shares, cannot do.
fn sharing(mqtt: &MqttSpec, bridge: &BridgeSpec, problems: &mut Problems) {
    let replicas = bridge.replicas;
    match mqtt.session {
        Session::Single => {
            problems.refuse_if(replicas > 1, || {
                format!(
                    "bridge.replicas is {replicas}, and a Single session belongs to one bridge; set mqtt.session to Shared, \
                     or bridge.replicas to 1"
                )
            });
            problems.refuse_if(bridge.mode == BridgeMode::BuiltIn, || {
                "bridge.mode is BuiltIn, and a Single session belongs to one bridge; set mqtt.session to Shared, or \
                 bridge.mode to Fixed"
                    .to_owned()
            });
        }
        Session::Shared => {
            problems.refuse_if(mqtt.protocol_version != ProtocolVersion::V5, || {
                "mqtt.session Shared needs mqtt.protocolVersion V5: an MQTT 3.1.1 broker that has no shared subscriptions \
                 cannot say so, and would send nothing"
                    .to_owned()
            });
            problems.refuse_if(mqtt.spool.is_some(), || {
                "mqtt.session Shared and mqtt.spool exclude each other: a bridge that leaves would leave a volume; use a \
                 Single session, or let messages wait at the broker"
                    .to_owned()
            });
        }
    }
}

fn spool(mqtt: &MqttSpec, max_packet_size: Option<u32>, problems: &mut Problems) -> Option<SpoolVolume> {
    let SpoolSpec { size, storage_class_name } = mqtt.spool.as_ref()?;
    let bytes = problems.size("mqtt.spool.size", size)?;
    let least = MIN_SPOOL_BYTES.max(32 * u64::from(max_packet_size.unwrap_or_default()));
    problems.refuse_if(bytes < least, || {
        format!(
            "mqtt.spool.size {size} is too small; it needs 16Mi at least, and 32 times mqtt.maxPacketSize {}",
            mqtt.max_packet_size
        )
    });
    Some(SpoolVolume { bytes, storage_class: storage_class_name.clone() })
}

/// What the bridge's pods mount to log in to the MQTT broker.
fn credentials(mqtt: &MqttSpec, references: &mut References<'_>) -> Option<MountedSecret> {
    let SecretRef { name } = mqtt.credentials_secret_ref.as_ref()?;
    for key in CREDENTIALS {
        references.text("mqtt.credentialsSecretRef", name, key, Content::Text);
    }
    Some(MountedSecret {
        name: name.clone(),
        purpose: SecretPurpose::Mqtt,
        files: CREDENTIALS.map(|key| (key.to_owned(), key)).into(),
    })
}

pub(super) fn processor(
    spec: &IoTPipelineSpec,
    kafka: Option<&Kafka>,
    database: Option<&Database>,
    id: &PipelineId,
    problems: &mut Problems,
) -> Option<Worker> {
    let start_from = problems.require(start_from(&spec.kafka.start_from), || {
        format!(
            "kafka.startFrom {:?} is neither Earliest nor Latest nor an RFC 3339 time",
            spec.kafka.start_from
        )
    });
    let accept_time = accept_time(&spec.processing.accept_time, problems);
    let (kafka, database) = (kafka?, database?);
    let timescale = &spec.timescale;
    let config = ProcessorConfig {
        consumer_group: spec.kafka.consumer_group(&id.namespace, &id.name),
        start_from: start_from?,
        on_offset_lost: spec.kafka.on_offset_lost,
        max_rejected_percent: spec.processing.max_rejected_percent.clamp(1, 100) as u8,
        codec: spec.processing.codec.codec_type,
        has_bridge: spec.mqtt.is_some(),
        program: spec.processing.program.clone(),
        accept_time: accept_time?,
        database_tls: database.tls,
        table: TableConfig {
            schema: timescale.table.schema.clone(),
            name: timescale.table.name.clone(),
            columns: timescale
                .columns
                .iter()
                .map(|column| ColumnConfig {
                    name: column.name.clone(),
                    column_type: column.column_type,
                    from: field_path(column.from.as_deref().unwrap_or(&column.name)),
                    nullable: is_nullable(timescale, &column.name),
                })
                .collect(),
            time_column: timescale.time_column.clone(),
            extra_column: timescale.extra_column.clone(),
            unique_by: timescale.unique_by.clone(),
        },
    };
    let wanted = &spec.processor;
    Some(Worker {
        replicas: if spec.suspend == Suspend::None { wanted.replicas } else { 0 },
        config: worker_config(kafka, id, RoleConfig::Processor(config)),
        secrets: database.mounts.iter().chain(&kafka.mounts).cloned().collect(),
        resources: wanted.resources.clone().unwrap_or_else(|| default_resources("64Mi", 256 << 20)),
        pod: wanted.pod.clone(),
        spool: None,
    })
}

/// `Some(None)` where the operator does not decide how many bridges there are, `None` where something is wrong.
pub(super) fn bridge_scaling(
    spec: Option<&BridgeSpec>,
    problems: &mut Problems,
) -> Option<Option<bridges::Settings>> {
    let Some(spec) = spec.filter(|spec| spec.mode == BridgeMode::BuiltIn) else { return Some(None) };
    let max =
        problems.require(spec.max_replicas, || "bridge.maxReplicas is needed with mode BuiltIn".to_owned());
    let min = spec.min_replicas.unwrap_or(1);
    problems.refuse_if(max.is_some_and(|max| min > max), || {
        format!("bridge.minReplicas {min} is more than maxReplicas {}", max.unwrap_or_default())
    });
    let target_rate = spec.target_rate.unwrap_or(TARGET_RATE);
    Some(Some(bridges::Settings { min, max: max?, target_rate }))
}

/// `Some(None)` where the operator does not decide how many processors there are, `None` where something is wrong.
pub(super) fn autoscaling(spec: &ProcessorSpec, problems: &mut Problems) -> Option<Option<Autoscaling>> {
    let acts = match spec.mode {
        ProcessorMode::Fixed | ProcessorMode::External => return Some(None),
        ProcessorMode::BuiltIn => true,
        ProcessorMode::Advise => false,
    };
    let target_drain = spec.target_drain.clone().unwrap_or_else(|| DurationText::from("30s"));
    let duration = problems.duration("processor.targetDrain", &target_drain);
    problems.refuse_if(duration.is_some_and(|duration| !TARGET_DRAIN.contains(&duration)), || {
        format!("processor.targetDrain {target_drain} is not between 5s and 1h")
    });
    let max = problems
        .require(spec.max_replicas, || format!("processor.maxReplicas is needed with mode {:?}", spec.mode));
    let min = spec.min_replicas.unwrap_or(1);
    problems.refuse_if(max.is_some_and(|max| min > max), || {
        format!("processor.minReplicas {min} is more than maxReplicas {}", max.unwrap_or_default())
    });
    let settings = Settings { min, max: max?, target_drain: duration? };
    Some(Some(Autoscaling { acts, settings }))
}

fn accept_time(times: &AcceptTimeSpec, problems: &mut Problems) -> Option<AcceptTimeConfig> {
    let max_late = problems.optional_duration("processing.acceptTime.maxLate", times.max_late.as_ref());
    let max_ahead = problems.optional_duration("processing.acceptTime.maxAhead", times.max_ahead.as_ref());
    Some(AcceptTimeConfig {
        max_late_seconds: max_late?.map(|duration| duration.as_secs()),
        max_ahead_seconds: max_ahead?.map(|duration| duration.as_secs()),
    })
}

fn key(spec: Option<&KeySpec>, problems: &mut Problems) -> Option<KeyConfig> {
    let Some(spec) = spec else { return Some(KeyConfig::Topic) };
    match (spec.from, spec.level, &spec.path) {
        (KeyFrom::Topic, None, None) => Some(KeyConfig::Topic),
        (KeyFrom::TopicLevel, Some(level), None) => Some(KeyConfig::TopicLevel(level.unsigned_abs())),
        (KeyFrom::Field, None, Some(path)) => Some(KeyConfig::Field(field_path(path))),
        _ => {
            problems.note(
                Reason::InvalidSpec,
                "kafka.key needs level for from: TopicLevel, path for from: Field, and neither for from: Topic"
                    .to_owned(),
            );
            None
        }
    }
}

fn worker_config(kafka: &Kafka, id: &PipelineId, role: RoleConfig) -> WorkerConfig {
    WorkerConfig { version: WORKER_CONFIG_VERSION, pipeline: id.clone(), kafka: kafka.config.clone(), role }
}

/// Where the broker is and how MQTT reaches it.
struct Broker<'a> {
    host: &'a str,
    port: u16,
    transport: MqttTransport,
}

fn broker_address(url: &str) -> Option<Broker<'_>> {
    let (scheme, rest) = url.split_once("://")?;
    let (address, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let (transport, default_port) = match scheme {
        "mqtt" => (MqttTransport::Tcp, 1883),
        "mqtts" => (MqttTransport::Tls, 8883),
        "ws" => (MqttTransport::WebSocket(path.to_owned()), 80),
        "wss" => (MqttTransport::SecureWebSocket(path.to_owned()), 443),
        _ => return None,
    };
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        None => (address, default_port),
    };
    let is_host =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    is_host.then_some(Broker { host, port, transport })
}

fn start_from(text: &str) -> Option<StartFrom> {
    match text {
        "Earliest" => Some(StartFrom::Earliest),
        "Latest" => Some(StartFrom::Latest),
        time => time.parse::<jiff::Timestamp>().ok().map(|time| StartFrom::Timestamp(time.as_millisecond())),
    }
}

/// The fields of `.sensor.value`, or of a plain column name.
fn field_path(path: &str) -> Vec<String> {
    path.trim_start_matches('.').split('.').map(str::to_owned).collect()
}

fn default_resources(memory_request: &str, memory_limit_bytes: u64) -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "50m"), ("memory", memory_request)]),
        limits: quantities(&[("memory", &format!("{}Mi", memory_limit_bytes.div_ceil(1 << 20)))]),
        ..ResourceRequirements::default()
    }
}
