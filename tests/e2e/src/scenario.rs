//! A scenario: a namespace of its own with the backends' Secrets, a pipeline to change, a fleet to publish, and
//! questions to Kafka and the database. When it is over, nothing of it is left.

use std::{panic::AssertUnwindSafe, time::Duration};

use crds::{
    IoTPipeline,
    names::{COMPONENT_LABEL, PIPELINE_LABEL},
    status::{ConditionType, Reason},
    worker::Component,
};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, Namespace, Pod, Secret},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use snafu::{OptionExt, Report, ResultExt, Whatever};
use tokio::sync::Semaphore;

use crate::{
    Result,
    cluster::{CREDENTIALS_NAMESPACE, Cluster, value_of},
    database::{Database, Table, quoted},
    fleet,
    kafka::Kafka,
    manifest,
    report::report,
    volume,
    wait::eventually,
};

mod delivery;

/// The name of the pipeline of each scenario.
pub const PIPELINE: &str = "telemetry";

/// How long a pipeline may take from `kubectl apply` to Ready, seconds.
const READY: Duration = Duration::from_secs(120);
/// How long a pipeline may take to go: its session is given up after two minutes.
const GONE: Duration = Duration::from_secs(240);
/// How long an Event may take after what it tells of.
const TOLD: Duration = Duration::from_secs(60);

/// What a scenario works with.
#[derive(Clone)]
pub struct Scenario {
    /// The cluster.
    pub cluster: Cluster,
    /// The scenario's own namespace.
    pub namespace: String,
    /// The database.
    pub database: Database,
    /// Kafka.
    pub kafka: Kafka,
    /// The MQTT broker.
    pub broker: fleet::Broker,
}

/// How many scenarios run at once: a machine of two cores keeps up with as many.
const AT_ONCE: u32 = 2;
static TURNS: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// Runs a scenario. Where it fails, a report of its namespace is printed.
pub async fn scenario(name: &str, body: impl AsyncFnOnce(&Scenario) -> Result<()>) -> Report<Whatever> {
    take_turn(1, name, body).await
}

/// Runs a scenario while no other one runs, because it looks at what all of them change.
pub async fn scenario_alone(name: &str, body: impl AsyncFnOnce(&Scenario) -> Result<()>) -> Report<Whatever> {
    take_turn(AT_ONCE, name, body).await
}

async fn take_turn(
    turns: u32,
    name: &str,
    body: impl AsyncFnOnce(&Scenario) -> Result<()>,
) -> Report<Whatever> {
    let _turn = TURNS.acquire_many(turns).await;
    let scenario = match Scenario::set_up(name).await {
        Ok(scenario) => scenario,
        Err(error) => return Report::from_error(error),
    };
    let result = AssertUnwindSafe(body(&scenario)).catch_unwind().await;
    if !matches!(result, Ok(Ok(()))) {
        eprintln!("{}", report(&scenario.cluster, &scenario.namespace).await);
    }
    let cleaned = scenario.clean_up().await;
    match result {
        Ok(Ok(())) => Report::from(cleaned),
        Ok(Err(error)) => Report::from_error(error),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Does something in a namespace of its own, which is gone afterwards. Where it fails, a report of it is printed.
///
/// # Errors
/// Fails where that does, or where something stays.
pub async fn in_namespace<T>(name: &str, body: impl AsyncFnOnce(&Scenario) -> Result<T>) -> Result<T> {
    let test = Scenario::set_up(name).await?;
    let result = body(&test).await;
    if result.is_err() {
        eprintln!("{}", report(&test.cluster, &test.namespace).await);
    }
    let cleaned = test.clean_up().await;
    let done = result?;
    cleaned?;
    Ok(done)
}

impl Scenario {
    /// Makes the namespace `e2e-<name>-<number>` with the backends' Secrets.
    ///
    /// # Errors
    /// Fails where a backend or the API server does not answer.
    pub async fn set_up(name: &str) -> Result<Self> {
        let cluster = Cluster::connect().await?;
        let suffix = Timestamp::now().as_millisecond() % 1_000_000;
        let namespace = format!("e2e-{name}-{suffix:06}");
        let mqtt = cluster.secret(CREDENTIALS_NAMESPACE, "mqtt-user").await?;
        let tsdb = cluster.secret(CREDENTIALS_NAMESPACE, "tsdb").await?;
        create_namespace(&cluster, &namespace).await?;
        for secret in [&mqtt, &tsdb] {
            copy_secret(&cluster, secret, &namespace).await?;
        }
        let credentials = value_of(&mqtt, "username").zip(value_of(&mqtt, "password"));
        Ok(Self {
            database: Database::connect(&tsdb).await?,
            kafka: Kafka::connect()?,
            broker: fleet::Broker { host: "mosquitto.mqtt".to_owned(), port: 1883, credentials },
            cluster,
            namespace,
        })
    }

    /// Leaves nothing: the pipelines first, so that the operator still sees them go; then what they were told to keep,
    /// and a volume, if one was made.
    ///
    /// # Errors
    /// Fails where something stays.
    pub async fn clean_up(&self) -> Result<()> {
        let pipelines = self.cluster.pipelines(&self.namespace);
        for pipeline in
            pipelines.list(&Default::default()).await.whatever_context("failed to list pipelines")?
        {
            self.delete(&pipeline.name_any()).await?;
        }
        let namespaces: Api<Namespace> = Api::all(self.cluster.client.clone());
        let gone = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        gone.with_whatever_context(|_| format!("failed to delete the namespace {}", self.namespace))?;
        self.kafka.delete(&self.topic()).await?;
        self.database.execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&self.schema()))).await?;
        volume::remove(self).await
    }

    /// The pipeline's topic.
    pub fn topic(&self) -> String {
        format!("{}.telemetry", self.namespace)
    }

    /// The pipeline's schema.
    pub fn schema(&self) -> String {
        self.namespace.replace('-', "_")
    }

    /// The pipeline's table.
    pub fn table(&self) -> Table {
        self.database.table(&self.schema())
    }

    /// The pipeline that scenarios start from.
    ///
    /// # Errors
    /// Fails where the manifest is no YAML.
    pub fn manifest(&self) -> Result<Value> {
        let yaml = include_str!("../manifests/pipeline.yaml");
        manifest::read(yaml, &[("NAMESPACE", &self.namespace), ("SCHEMA", &self.schema())])
    }

    /// A pipeline of another name, without a bridge, that reads the same topic into a table of its own, which has this name too.
    ///
    /// # Errors
    /// Fails where the manifest is no YAML.
    pub fn reader(&self, name: &str) -> Result<Value> {
        let program = ".line = split(string!(%topic), \"/\")[1]\n.kafka_partition = %partition\n.kafka_offset = %offset\n";
        let differences = [
            ("/metadata/name", json!(name)),
            ("/spec/mqtt", Value::Null),
            ("/spec/kafka/key", Value::Null),
            ("/spec/kafka/topic", json!({"management": "External", "name": self.topic()})),
            ("/spec/timescale/table/name", json!(name)),
            ("/spec/processing/program", json!(program)),
        ];
        differences
            .into_iter()
            .try_fold(self.manifest()?, |manifest, (pointer, value)| manifest::set(manifest, pointer, value))
    }

    /// Applies a pipeline and waits until it is Ready.
    ///
    /// # Errors
    /// Fails where it is refused or does not become Ready in two minutes.
    pub async fn start(&self, manifest: &Value) -> Result<IoTPipeline> {
        self.apply(manifest).await?;
        self.ready().await
    }

    /// Applies a pipeline.
    ///
    /// # Errors
    /// Fails where the API server refuses it.
    pub async fn apply(&self, manifest: &Value) -> Result<IoTPipeline> {
        self.cluster.apply_pipeline(manifest).await.whatever_context("failed to apply the pipeline")
    }

    /// What `kubectl patch --type=merge` does with the pipeline.
    ///
    /// # Errors
    /// Fails where the API server refuses it.
    pub async fn patch(&self, patch: Value) -> Result<IoTPipeline> {
        let pipelines = self.cluster.pipelines(&self.namespace);
        let patched = pipelines.patch(PIPELINE, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.whatever_context("failed to patch the pipeline")
    }

    /// Waits until the newest spec is applied and Ready.
    ///
    /// # Errors
    /// Fails after two minutes.
    pub async fn ready(&self) -> Result<IoTPipeline> {
        self.wait_for("is Ready with its newest spec", |pipeline| {
            let status = pipeline.status.as_ref();
            let applied = status.and_then(|status| status.applied_generation);
            let ready = condition(pipeline, ConditionType::Ready);
            applied == pipeline.metadata.generation
                && ready.is_some_and(|ready| {
                    ready.status == "True" && ready.observed_generation == pipeline.metadata.generation
                })
        })
        .await
    }

    /// Waits until the newest spec is not Ready for this reason, and returns the message.
    ///
    /// # Errors
    /// Fails after two minutes.
    pub async fn not_ready(&self, reason: Reason) -> Result<String> {
        let reason: &str = reason.into();
        let pipeline = self
            .wait_for(&format!("is not Ready because of {reason}"), |pipeline| {
                condition(pipeline, ConditionType::Ready).is_some_and(|ready| {
                    ready.status == "False"
                        && ready.reason == reason
                        && ready.observed_generation == pipeline.metadata.generation
                })
            })
            .await?;
        Ok(condition(&pipeline, ConditionType::Ready).map(|ready| ready.message.clone()).unwrap_or_default())
    }

    /// Waits until the pipeline is as `wanted` says.
    ///
    /// # Errors
    /// Fails after two minutes.
    pub async fn wait_for(
        &self,
        what: &str,
        wanted: impl Fn(&IoTPipeline) -> bool + Send,
    ) -> Result<IoTPipeline> {
        let pipelines = self.cluster.pipelines(&self.namespace);
        let is_wanted = |pipeline: Option<&IoTPipeline>| pipeline.is_some_and(&wanted);
        let found = self.cluster.wait_until(pipelines, PIPELINE, what, READY, is_wanted).await?;
        found.whatever_context("the pipeline is gone")
    }

    /// Waits until an Event of the pipeline with this reason says this, among other things.
    ///
    /// # Errors
    /// Fails after a minute, with what Events of the reason say.
    pub async fn told(&self, reason: &str, what: &str) -> Result<()> {
        eventually(TOLD, &format!("an Event {reason} says \"{what}\""), async || {
            let notes = self.events(reason).await?;
            Ok(notes.iter().any(|note| note.contains(what)).then_some(()).ok_or(format!("{notes:?}")))
        })
        .await
    }

    /// What the Events of the pipeline with this reason say.
    ///
    /// # Errors
    /// Fails where the API server does.
    pub async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let wanted = ListParams::default().fields(&format!("involvedObject.name={PIPELINE},reason={reason}"));
        let events = self.cluster.api::<Event>(&self.namespace).list(&wanted).await;
        let events = events.whatever_context("failed to list the Events")?;
        Ok(events.items.into_iter().filter_map(|event| event.message).collect())
    }

    /// Deletes a pipeline and waits until it and its pods are gone.
    ///
    /// # Errors
    /// Fails after four minutes.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let pipelines = self.cluster.pipelines(&self.namespace);
        let deleted = pipelines.delete(name, &DeleteParams::default()).await;
        deleted.whatever_context("failed to delete the pipeline")?;
        eventually(GONE, "the pipeline and its pods are gone", async || {
            let object = pipelines.get_opt(name).await.whatever_context("failed to read the pipeline")?;
            let pods = self.cluster.pods(&self.namespace, &format!("{PIPELINE_LABEL}={name}")).await?;
            let is_gone = object.is_none() && pods.is_empty();
            Ok(is_gone.then_some(()).ok_or(format!("pipeline: {}, pods: {}", object.is_some(), pods.len())))
        })
        .await
    }

    /// The worker pods of one kind.
    ///
    /// # Errors
    /// Fails where the API server does.
    pub async fn workers(&self, component: Component) -> Result<Vec<Pod>> {
        self.cluster
            .pods(&self.namespace, &format!("{PIPELINE_LABEL}={PIPELINE},{COMPONENT_LABEL}={component}"))
            .await
    }
}

/// One condition of a pipeline.
pub fn condition(pipeline: &IoTPipeline, wanted: ConditionType) -> Option<&Condition> {
    let wanted: &str = wanted.into();
    pipeline.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == wanted)
}

/// How many messages are in a pipeline's spool, in two digits; `None` where it has none.
pub fn spooled(pipeline: &IoTPipeline) -> Option<i64> {
    let bridge = pipeline.status.as_ref()?.bridge.as_ref()?;
    Some(bridge.spool?.messages)
}

async fn create_namespace(cluster: &Cluster, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {
        "name": name,
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }}));
    let namespace = namespace.whatever_context("failed to write a namespace")?;
    let created = namespaces.create(&PostParams::default(), &namespace).await;
    created.with_whatever_context(|_| format!("failed to create the namespace {name}"))?;
    Ok(())
}

async fn copy_secret(cluster: &Cluster, secret: &Secret, namespace: &str) -> Result<()> {
    let mut copy = Secret { data: secret.data.clone(), ..Secret::default() };
    copy.metadata.name = secret.metadata.name.clone();
    let created = cluster.api::<Secret>(namespace).create(&PostParams::default(), &copy).await;
    created.with_whatever_context(|_| format!("failed to copy a Secret to {namespace}"))?;
    Ok(())
}
