//! Second step: parses a spec, once, into a [`Pipeline`], or says all that is wrong with it. Synchronous, no
//! client: the Secrets it needs were read by `fetch`.
//!
//! The API server has already refused what CEL can see. It is checked again here, because the CRD in a cluster may
//! be older than this operator.

mod columnstore;
mod connections;
mod problems;
mod rollups;
mod stores;
mod workers;

use std::collections::{BTreeMap, BTreeSet};

use crds::{IoTPipeline, IoTPipelineSpec, status::Reason, worker::PipelineId};
use k8s_openapi::api::core::v1::Secret;
use kube::{Resource, ResourceExt};

use self::{connections::References, problems::Problems};
use crate::{compiler::Verdict, pipeline::Pipeline};

/// The Secrets that a spec refers to, by name; `None` where there is none of that name.
pub type Secrets = BTreeMap<String, Option<Secret>>;

/// What of the operator's own settings decides what a spec means.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The chart value `clusterName`, first part of every pipeline's identity.
    pub cluster_name: String,
}

/// Why a spec is not accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invalid {
    /// The reason of the first problem.
    pub reason: Reason,
    /// Every problem, for a person: which field, what is wrong, what to write instead.
    pub message: String,
}

/// The names of all Secrets that a spec refers to.
pub fn referenced_secrets(spec: &IoTPipelineSpec) -> BTreeSet<String> {
    let mqtt = spec.mqtt.iter();
    let mqtt_tls = mqtt.clone().filter_map(|mqtt| mqtt.tls.as_ref());
    let (kafka_tls, database_tls) = (spec.kafka.tls.iter(), spec.timescale.tls.iter());
    let whole = (mqtt.filter_map(|mqtt| mqtt.credentials_secret_ref.as_ref()))
        .chain(mqtt_tls.clone().filter_map(|tls| tls.client_secret_ref.as_ref()))
        .chain(kafka_tls.clone().filter_map(|tls| tls.client_secret_ref.as_ref()))
        .chain(database_tls.clone().filter_map(|tls| tls.client_secret_ref.as_ref()))
        .chain([&spec.timescale.secret_ref])
        .chain(&spec.timescale.admin_secret_ref)
        .map(|reference| &reference.name);
    let authorities = (mqtt_tls.filter_map(|tls| tls.ca_secret_ref.as_ref()))
        .chain(kafka_tls.filter_map(|tls| tls.ca_secret_ref.as_ref()))
        .chain(database_tls.filter_map(|tls| tls.ca_secret_ref.as_ref()))
        .map(|reference| &reference.name);
    let password = spec.kafka.sasl.iter().map(|sasl| &sasl.password_secret_ref.name);
    whole.chain(authorities).chain(password).cloned().collect()
}

/// Parses an IoTPipeline. `verdict` is what the compiler says of its program; without one it does not matter whether that compiles.
///
/// # Errors
/// Says everything that is wrong at once, so that it can be mended in one edit.
pub fn validate(
    object: &IoTPipeline,
    secrets: &Secrets,
    verdict: Option<&Verdict>,
    settings: &Settings,
) -> Result<Pipeline, Invalid> {
    let mut problems = Problems::default();
    let parsed = parse(object, secrets, verdict, settings, &mut problems);
    match (parsed, problems.found.first()) {
        (Some(pipeline), None) => Ok(pipeline),
        (_, Some((reason, _))) => {
            let messages: Vec<&str> = problems.found.iter().map(|(_, message)| message.as_str()).collect();
            Err(Invalid { reason: *reason, message: messages.join("; ") })
        }
        (None, None) => Err(Invalid {
            reason: Reason::InvalidSpec,
            message: "the object has no namespace or no uid; it was not read from an API server".to_owned(),
        }),
    }
}

fn parse(
    object: &IoTPipeline,
    secrets: &Secrets,
    verdict: Option<&Verdict>,
    settings: &Settings,
    problems: &mut Problems,
) -> Option<Pipeline> {
    let spec = &object.spec;
    let id = PipelineId {
        cluster_name: settings.cluster_name.clone(),
        namespace: object.namespace()?,
        name: object.name_any(),
    };
    // Each part is parsed, and its problems noted, before any of them ends the whole.
    let mut references = References { secrets, id: &id, problems };
    let kafka = connections::kafka(&spec.kafka, &mut references);
    let database = connections::database(&spec.timescale, &mut references);
    let max_packet_size =
        spec.mqtt.as_ref().and_then(|mqtt| stores::max_packet_size(mqtt, references.problems));
    let bridge = spec
        .mqtt
        .as_ref()
        .map(|mqtt| workers::bridge(spec, mqtt, kafka.as_ref(), max_packet_size, &mut references));
    if let Some(problem) = verdict.and_then(|verdict| verdict.problem.as_ref()) {
        problems.note(Reason::ProgramInvalid, format!("processing.program does not compile: {problem}"));
    }
    let processor = workers::processor(spec, kafka.as_ref(), database.as_ref(), &id, problems);
    let autoscaling = workers::autoscaling(&spec.processor, problems);
    let bridge_scaling = workers::bridge_scaling(spec.bridge.as_ref(), problems);
    let writer = database.as_ref().map(|database| database.worker_role.clone());
    let table = stores::table(spec, writer, problems);
    let topic = stores::topic(spec, kafka.map(|kafka| kafka.access), max_packet_size, problems);
    let database = database?;
    Some(Pipeline {
        owner: object.controller_owner_ref(&())?,
        generation: object.metadata.generation?,
        topic: topic?,
        table: table?,
        database: database.access,
        // `None` stands for a problem, `Some(None)` for a pipeline without a bridge.
        bridge: bridge.map_or(Some(None), |bridge| bridge.map(Some))?,
        processor: processor?,
        autoscaling: autoscaling?,
        bridge_scaling: bridge_scaling?,
        deletion_policy: spec.deletion_policy.clone(),
        suspend: spec.suspend,
        mode: spec.mode,
        id,
    })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    use super::*;
    use crate::{compiler::Source, scale::bridges};

    fn spec() -> Value {
        json!({
            "mqtt": {"url": "mqtt://mosquitto", "subscriptions": [{"filter": "plants/#"}], "credentialsSecretRef": {"name": "mqtt"}},
            "kafka": {"bootstrapServers": "kafka:9092,other.kafka:9093", "topic": {"name": "line", "partitions": 3, "replicationFactor": 1}},
            "timescale": {
                "secretRef": {"name": "db"},
                "table": {"schema": "plant", "name": "line"},
                "columns": [
                    {"name": "time", "type": "timestamptz", "from": ".ts"},
                    {"name": "device", "type": "text", "nullable": false},
                ],
                "timeColumn": "time",
                "extraColumn": "extra",
                "indexes": [{"columns": ["device", "time DESC"]}],
                "retention": {"dropAfter": "90d"},
                "deadLetters": {"retention": {"dropAfter": "52w"}},
            },
        })
    }

    fn secrets() -> Secrets {
        let secret = |pairs: &[(&str, &str)]| Secret {
            data: Some(
                pairs.iter().map(|(key, value)| ((*key).into(), ByteString((*value).into()))).collect(),
            ),
            ..Secret::default()
        };
        BTreeMap::from([
            ("mqtt".to_owned(), Some(secret(&[("username", "u"), ("password", "p")]))),
            ("db".to_owned(), Some(secret(&[("uri", "postgres://app:secret@db/iot")]))),
        ])
    }

    fn check(spec: Value, secrets: &Secrets) -> Result<Pipeline, Invalid> {
        let object: IoTPipeline = serde_json::from_value(json!({
            "apiVersion": "iotpipeline.dev/v1alpha1",
            "kind": "IoTPipeline",
            "metadata": {"name": "line", "namespace": "plant-7", "uid": "1", "generation": 4},
            "spec": spec,
        }))
        .unwrap();
        let verdict = Source::of(&object.spec).map(|source| source.judge());
        validate(&object, secrets, verdict.as_ref(), &Settings { cluster_name: "test".to_owned() })
    }

    /// What is said of a spec in which `pointer` is replaced by `value`.
    fn message(pointer: &str, value: Value) -> String {
        let mut spec = spec();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match spec.pointer_mut(parent).unwrap() {
            Value::Object(fields) => drop(fields.insert(key.to_owned(), value)),
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
            other => panic!("{other}"),
        }
        let invalid = check(spec, &secrets()).unwrap_err();
        format!("{}: {}", invalid.reason, invalid.message)
    }

    #[test]
    fn a_spec_becomes_a_pipeline_with_full_host_names_and_defaults() {
        let pipeline = check(spec(), &secrets()).unwrap();
        assert_snapshot!(format!("{pipeline:#?}"));
    }

    #[test]
    fn suspension_counts_as_replicas() {
        let replicas = |suspend: &str| {
            let mut spec = spec();
            spec["suspend"] = suspend.into();
            spec["processor"] = json!({"replicas": 2});
            let pipeline = check(spec, &secrets()).unwrap();
            (pipeline.bridge.unwrap().replicas, pipeline.processor.replicas)
        };
        assert_eq!(replicas("None"), (1, 2));
        assert_eq!(replicas("Processor"), (1, 0));
        assert_eq!(replicas("All"), (0, 0));
    }

    #[test]
    fn bridges_are_scaled_within_bounds_where_they_share_and_run() {
        let scaled = |session: &str, suspend: &str, bridge: Value| {
            let mut spec = spec();
            spec["mqtt"]["session"] = session.into();
            spec["mqtt"]["protocolVersion"] = "V5".into();
            spec["suspend"] = suspend.into();
            spec["bridge"] = bridge;
            check(spec, &secrets())
                .map(|pipeline| pipeline.scaled_bridges())
                .map_err(|invalid| invalid.message)
        };
        let bounds = json!({"mode": "BuiltIn", "minReplicas": 2, "maxReplicas": 4, "targetRate": 500});
        let settings = |min, target_rate| Ok(Some(bridges::Settings { min, max: 4, target_rate }));
        assert_eq!(scaled("Shared", "None", bounds.clone()), settings(2, 500));
        assert_eq!(
            scaled("Shared", "None", json!({"mode": "BuiltIn", "maxReplicas": 4})),
            settings(1, 10_000)
        );
        assert_eq!(scaled("Shared", "Processor", bounds.clone()), settings(2, 500));
        assert_eq!(scaled("Shared", "All", bounds.clone()), Ok(None));
        assert_eq!(scaled("Shared", "None", json!({"replicas": 3})), Ok(None));
        let message = scaled("Single", "None", bounds).unwrap_err();
        assert!(message.contains("set mqtt.session to Shared, or bridge.mode to Fixed"), "{message}");
        let message =
            scaled("Shared", "None", json!({"mode": "BuiltIn", "minReplicas": 5, "maxReplicas": 4}));
        assert_eq!(message.unwrap_err(), "bridge.minReplicas 5 is more than maxReplicas 4");
    }

    #[test]
    fn without_a_bridge_a_program_must_handle_what_records_lack() {
        let reason = |has_bridge: bool, program: &str| {
            let mut spec = spec();
            if !has_bridge {
                spec.as_object_mut().unwrap().remove("mqtt");
                spec["kafka"]["topic"] = json!({"name": "line", "management": "External"});
            }
            spec["processing"] = json!({"program": program});
            check(spec, &secrets()).err().map(|invalid| invalid.reason)
        };
        let careless = ".device = split(%topic, \"/\")[1]";
        assert_eq!(reason(true, careless), None);
        assert_eq!(reason(false, careless), Some(Reason::ProgramInvalid));
        assert_eq!(reason(false, ".device = split(%topic, \"/\")[1] ?? \"unknown\""), None);
    }

    #[test]
    fn everything_wrong_is_said_at_once_and_says_what_to_write() {
        let cases = [
            message("/timescale/table/schema", json!("pg_catalog")),
            message("/timescale/table/name", json!("x\"; DROP TABLE y;--")),
            message("/timescale/columns/1/name", json!("x".repeat(64))),
            message("/timescale/timeColumn", json!("device")),
            message("/timescale/extraColumn", json!("device")),
            message("/timescale/indexes/0/columns", json!(["device", "nothing DESC"])),
            message("/timescale/indexes/0/columns", json!(["device; DROP"])),
            message("/timescale/uniqueBy", json!(["device", "device", "nothing"])),
            message("/timescale/retention/dropAfter", json!("90 days")),
            message("/timescale/columnstore", json!({"after": "7"})),
            message("/timescale/columnstore", json!({"after": "90d"})),
            message(
                "/timescale/columnstore",
                json!({"after": "7d", "segmentBy": ["time", "extra", "nothing"]}),
            ),
            message("/timescale/columnstore", json!({"after": "7d", "segmentBy": ["device", "device"]})),
            message(
                "/timescale/columnstore",
                json!({"after": "7d", "orderBy": ["time NULLS LAST", "extra"]}),
            ),
            message("/timescale/columnstore", json!({"after": "7d", "orderBy": ["time", "time DESC"]})),
            message(
                "/timescale/columnstore",
                json!({"after": "7d", "segmentBy": ["device"], "orderBy": ["device"]}),
            ),
            message("/timescale/deadLetters", json!({"retention": {"dropAfter": "1y"}})),
            message("/kafka/topic/name", json!("a b")),
            message("/kafka/topic/config", json!({"retention.ms": "1"})),
            message("/kafka/startFrom", json!("yesterday")),
            message("/kafka/key", json!({"from": "TopicLevel"})),
            message("/mqtt/url", json!("mqtt://host:0")),
            message("/mqtt/maxPacketSize", json!("32Mi")),
            message("/mqtt/maxPacketSize", json!("1Gi")),
            message("/processing", json!({"program": ".x = unknown_function()"})),
        ];
        assert_snapshot!(cases.join("\n\n"));
    }

    #[test]
    fn a_columnstore_has_every_setting() {
        let settings = |unique_by: &[&str], columnstore: Value| {
            let mut spec = spec();
            spec["processing"] = json!({"acceptTime": {"maxLate": "2d"}});
            let columns = spec["timescale"]["columns"].as_array_mut().unwrap();
            columns.push(json!({"name": "seq", "type": "bigint", "nullable": false}));
            spec["timescale"]["uniqueBy"] = json!(unique_by);
            spec["timescale"]["columnstore"] = columnstore;
            let table = check(spec, &secrets()).unwrap().table;
            let columnstore = table.wanted.unwrap().columnstore.unwrap();
            assert_eq!(columnstore.max_late, Some(std::time::Duration::from_secs(2 * 86_400)));
            let segment_by: Vec<_> = columnstore.segment_by.iter().map(ToString::to_string).collect();
            let order_by = columnstore.order_by.iter().map(|(name, order)| format!("{name} {order:?}"));
            (segment_by.join(", "), order_by.collect::<Vec<_>>().join(", "))
        };
        let of = |segment_by: &str, order_by: &str| (segment_by.to_owned(), order_by.to_owned());
        let bare = json!({"after": "7d"});
        assert_eq!(settings(&[], bare.clone()), of("", "time Descending"));
        let key = ["device", "time", "seq"];
        assert_eq!(settings(&key, bare), of("", "device Ascending, time Descending, seq Ascending"));
        let by_device = json!({"after": "7d", "segmentBy": ["device"]});
        assert_eq!(settings(&key, by_device), of("device", "time Descending, seq Ascending"));
        // Where it is written, it is as written, with the time.
        let written = json!({"after": "7d", "segmentBy": ["device"], "orderBy": ["seq DESC"]});
        assert_eq!(settings(&key, written), of("device", "seq Descending, time Descending"));
        let written = json!({"after": "7d", "orderBy": ["time", "device DESC"]});
        assert_eq!(settings(&[], written), of("", "time Ascending, device Descending"));
    }

    #[test]
    fn missing_and_incomplete_secrets_are_named() {
        let mut secrets = secrets();
        secrets.insert("db".to_owned(), None);
        secrets.insert("mqtt".to_owned(), Some(Secret::default()));
        let invalid = check(spec(), &secrets).unwrap_err();
        assert_eq!(invalid.reason, Reason::SecretMissing);
        assert_eq!(
            invalid.message,
            "timescale.secretRef: there is no Secret plant-7/db; create it or name another; \
             mqtt.credentialsSecretRef: Secret plant-7/mqtt has no key username; \
             mqtt.credentialsSecretRef: Secret plant-7/mqtt has no key password"
        );
    }

    #[test]
    fn a_hostile_spec_says_nothing_of_secrets() {
        let invalid = check(
            {
                let mut spec = spec();
                spec["kafka"]["topic"]["name"] = "..".into();
                spec
            },
            &secrets(),
        )
        .unwrap_err();
        assert!(!invalid.message.contains("secret@"), "{}", invalid.message);
    }
}
