//! What is wrong is refused with a message that says what to write instead: by the API server where a rule can
//! see it, by the operator where it must look around first. Nothing is made half.

use crds::{status::Reason, worker::Component};
use e2e::{
    Result,
    manifest::set,
    scenario::{PIPELINE, Scenario, scenario},
};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use snafu::{Report, ResultExt, Whatever};

#[tokio::test]
async fn the_api_server_refuses_what_its_rules_can_see() -> Report<Whatever> {
    scenario("refused", async |test: &Scenario| {
        test.cluster
            .try_pipeline(&test.manifest()?)
            .await
            .whatever_context("the pipeline to start from is refused")?;
        for (pointer, value, message) in [
            ("/metadata/name", json!("a.b"), "metadata.name must be a DNS label of at most 40 characters"),
            (
                "/metadata/name",
                json!("a".repeat(41)),
                "metadata.name must be a DNS label of at most 40 characters",
            ),
            ("/spec/mqtt/url", json!("http://mosquitto:1883"), "spec.mqtt.url"),
            ("/spec/mqtt/subscriptions", json!([]), "spec.mqtt.subscriptions"),
            ("/spec/mqtt/subscriptions/-", json!({"filter": "a/#/b"}), "# must be the last one"),
            ("/spec/mqtt/subscriptions/-", json!({"filter": "a/b+"}), "must stand alone in a topic level"),
            (
                "/spec/mqtt/subscriptions/-",
                json!({"filter": "$share/g/a"}),
                "a shared subscription is not written into the filter",
            ),
            (
                "/spec/mqtt/subscriptions/-",
                json!({"filter": format!("{}/+/telemetry", test.namespace)}),
                "each filter may be listed once",
            ),
            ("/spec/mqtt/subscriptions/-", json!({"filter": "a", "qos": 3}), "qos"),
            ("/spec/mqtt/sessionExpiry", json!("one day"), "spec.mqtt.sessionExpiry"),
            ("/spec/mqtt/maxPacketSize", json!("1MB"), "spec.mqtt.maxPacketSize"),
            ("/spec/kafka/bootstrapServers", json!("kafka"), "spec.kafka.bootstrapServers"),
            ("/spec/kafka/topic/name", json!(".."), "are no topic names"),
            ("/spec/kafka/topic/name", json!("__offsets"), "names that begin with __ are Kafka's own"),
            ("/spec/kafka/topic/name", json!("a topic"), "spec.kafka.topic.name"),
            ("/spec/kafka/topic/partitions", json!(0), "spec.kafka.topic.partitions"),
            (
                "/spec/kafka/topic/config",
                json!({"retention.ms": "1"}),
                "retention.ms follows topic.retention",
            ),
            (
                "/spec/kafka/topic/config",
                json!({"cleanup.policy": "compact"}),
                "cleanup.policy must be delete",
            ),
            ("/spec/kafka/key", json!({"from": "Field"}), "path is needed for from: Field and only there"),
            (
                "/spec/kafka/key",
                json!({"from": "Topic", "level": 1}),
                "level is needed for from: TopicLevel and only there",
            ),
            ("/spec/kafka/startFrom", json!("yesterday"), "spec.kafka.startFrom"),
            ("/spec/processing/codec", json!({"type": "Xml"}), "spec.processing.codec.type"),
            (
                "/spec/timescale/timeColumn",
                json!("device"),
                "timeColumn must name a column of type timestamptz",
            ),
            ("/spec/timescale/extraColumn", json!("device"), "extraColumn is a column of its own"),
            (
                "/spec/timescale/table/schema",
                json!("pg_catalog"),
                "this schema belongs to PostgreSQL or TimescaleDB",
            ),
            (
                "/spec/timescale/table/name",
                json!("_iotpipeline_mine"),
                "names that begin with _iotpipeline_ are the operator's own",
            ),
            ("/spec/timescale/table/name", json!("My Table"), "spec.timescale.table.name"),
            (
                "/spec/timescale/columns/-",
                json!({"name": "device", "type": "text"}),
                "each column may be listed once",
            ),
            (
                "/spec/timescale/columns/-",
                json!({"name": "a", "type": "money"}),
                "Unsupported value: \"money\"",
            ),
            (
                "/spec/timescale/columns/-",
                json!({"name": "a\"; DROP TABLE b", "type": "text"}),
                "spec.timescale.columns",
            ),
            (
                "/spec/timescale/indexes",
                json!([{"columns": ["colour"]}]),
                "an index may hold declared columns only",
            ),
            ("/spec/timescale/retention", json!({"dropAfter": "1y"}), "spec.timescale.retention.dropAfter"),
            ("/spec/bridge", json!({"replicas": 2}), "a Single session belongs to one bridge"),
            ("/spec/bridge", json!({"replicas": 0}), "spec.bridge.replicas"),
            ("/spec/processor/replicas", json!(-1), "spec.processor.replicas"),
            ("/spec/suspend", json!("Maybe"), "spec.suspend"),
            ("/spec/timescale/secretRef", json!({"name": "tsdb", "namespace": "other"}), "namespace"),
        ] {
            expect_refusal(test, &set(test.manifest()?, pointer, value)?, message).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_api_server_refuses_changes_that_would_lose_data() -> Report<Whatever> {
    scenario("immutable", async |test: &Scenario| {
        let two_times =
            set(test.manifest()?, "/spec/timescale/columns/-", json!({"name": "t2", "type": "timestamptz"}))?;
        let stored = set(two_times, "/spec/suspend", json!("All"))?;
        test.apply(&stored).await?;
        for (pointer, value, message) in [
            (
                "/spec/timescale/table/name",
                json!("another"),
                "timescale.table cannot change; create another IoTPipeline",
            ),
            (
                "/spec/timescale/table/schema",
                json!("another"),
                "timescale.table cannot change; create another IoTPipeline",
            ),
            ("/spec/timescale/timeColumn", json!("t2"), "timescale.timeColumn cannot change"),
            (
                "/spec/kafka/topic/name",
                json!("another"),
                "kafka.topic.name cannot change; create another IoTPipeline",
            ),
            ("/spec/kafka/topic/partitions", json!(3), "kafka.topic.partitions may grow but never shrink"),
            ("/spec/mqtt/clientId", json!("appears"), "mqtt.clientId cannot change"),
        ] {
            expect_refusal(test, &set(stored.clone(), pointer, value)?, message).await?;
        }
        let grown = set(stored, "/spec/kafka/topic/partitions", json!(5))?;
        test.cluster.try_pipeline(&grown).await.whatever_context("partitions may grow")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_operator_says_what_only_it_can_see() -> Report<Whatever> {
    scenario("not-ready", async |test: &Scenario| {
        let manifest = test.manifest()?;
        let broken = set(manifest.clone(), "/spec/processing/program", json!(".line = upcase(.line)\n"))?;
        expect_not_ready(test, &broken, Reason::ProgramInvalid, "upcase(.line)").await?;

        let no_secret = set(manifest.clone(), "/spec/timescale/secretRef/name", json!("nowhere"))?;
        expect_not_ready(test, &no_secret, Reason::SecretMissing, "nowhere").await?;

        let half = json!({"metadata": {"name": "half"}, "stringData": {"host": "timescaledb.timescaledb"}});
        let half: Secret = serde_json::from_value(half).whatever_context("failed to write a Secret")?;
        let created = test.cluster.api::<Secret>(&test.namespace).create(&PostParams::default(), &half).await;
        created.whatever_context("failed to create a Secret")?;
        let half_secret = set(manifest.clone(), "/spec/timescale/secretRef/name", json!("half"))?;
        expect_not_ready(test, &half_secret, Reason::SecretInvalid, "half").await?;

        // So far there is nothing: no topic, no table, no worker.
        assert_eq!(test.kafka.partitions(&test.topic()).await?, None);
        assert!(test.table().neighbours().await?.is_empty());

        test.database.execute(&format!("CREATE SCHEMA {}", test.schema())).await?;
        test.database.execute(&format!("CREATE TABLE {}.telemetry (value int)", test.schema())).await?;
        expect_not_ready(test, &manifest, Reason::TableNotOwned, "telemetry").await?;
        let columns = format!(
            "SELECT count(*) FROM information_schema.columns WHERE table_schema = '{}' AND table_name = 'telemetry'",
            test.schema()
        );
        assert_eq!(test.database.number(&columns).await?, 1, "a foreign table is not altered");
        test.delete(PIPELINE).await?;
        test.database.execute(&format!("DROP TABLE {}.telemetry", test.schema())).await?;

        test.kafka.create(&test.topic()).await?;
        let settings = test.kafka.settings(&test.topic()).await?;
        expect_not_ready(test, &manifest, Reason::TopicNotOwned, &test.topic()).await?;
        assert_eq!(test.kafka.settings(&test.topic()).await?, settings, "a foreign topic is not altered");
        assert_eq!(test.kafka.partitions(&test.topic()).await?, Some(1), "a foreign topic does not grow");

        // Mended, it goes on by itself.
        test.kafka.delete(&test.topic()).await?;
        test.ready().await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_pipelines_never_manage_one_table_or_one_topic() -> Report<Whatever> {
    scenario("conflict", async |test: &Scenario| {
        let first = test.manifest()?;
        test.start(&first).await?;
        for (name, other) in
            [("same-table", "/spec/kafka/topic/name"), ("same-topic", "/spec/timescale/table/name")]
        {
            let second = set(
                set(first.clone(), "/metadata/name", json!(name))?,
                other,
                json!(format!("{}_other", test.schema())),
            )?;
            test.apply(&second).await?;
            let pipelines = test.cluster.pipelines(&test.namespace);
            let conflict = |pipeline: Option<&crds::IoTPipeline>| {
                let ready = pipeline.and_then(|pipeline| {
                    e2e::scenario::condition(pipeline, crds::status::ConditionType::Ready).cloned()
                });
                ready.is_some_and(|ready| {
                    ready.reason == "ResourceConflict" && ready.message.contains("telemetry")
                })
            };
            let deadline = std::time::Duration::from_secs(60);
            test.cluster.wait_until(pipelines, name, "is told of the conflict", deadline, conflict).await?;
        }
        test.ready().await?;
        test.kafka.delete(&format!("{}_other", test.schema())).await
    })
    .await
}

async fn expect_refusal(test: &Scenario, manifest: &Value, message: &str) -> Result<()> {
    let refused =
        test.cluster.try_pipeline(manifest).await.map(|_| "taken").map_err(|error| error.to_string());
    assert!(
        refused.as_ref().is_err_and(|error| error.contains(message)),
        "{refused:?}\nshould say: {message}"
    );
    Ok(())
}

/// The pipeline says why it is not Ready, an Event says so too, and no worker runs.
async fn expect_not_ready(test: &Scenario, manifest: &Value, reason: Reason, message: &str) -> Result<()> {
    test.apply(manifest).await?;
    let said = test.not_ready(reason).await?;
    assert!(said.contains(message), "{said}\nshould name: {message}");
    let events = test.cluster.api::<Event>(&test.namespace).list(&ListParams::default()).await;
    let events = events.whatever_context("failed to list Events")?;
    let reason: &str = reason.into();
    let is_told = events.iter().any(|event| event.reason.as_deref() == Some(reason));
    assert!(is_told, "no Event says {reason}");
    for component in [Component::Bridge, Component::Processor] {
        assert!(test.workers(component).await?.is_empty(), "a {component} runs");
    }
    Ok(())
}
