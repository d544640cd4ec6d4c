//! The pipelines: alike but for their names, topics and tables, on one Kafka and one database with one credential, in
//! namespaces of some dozens.

use std::{
    collections::BTreeMap,
    future,
    time::{Duration, Instant},
};

use crds::{IoTPipeline, names::worker_name, status::ConditionType, worker::Component};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Secret, ServiceAccount},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt};

use super::{PATIENCE, backends::Backends, control_plane::ControlPlane};
use crate::{Result, wait::eventually};

/// How many are created at once.
const AT_ONCE: usize = 32;

/// How many are in one namespace: each plant or team has its own.
const IN_A_NAMESPACE: usize = 50;

/// The pipelines of a measurement.
pub struct Pipelines {
    client: Client,
    manifests: Vec<Value>,
}

impl Pipelines {
    /// Prepares them, and makes their namespaces and Secrets.
    ///
    /// # Errors
    /// Fails where the API server refuses.
    pub async fn new(cluster: &ControlPlane, backends: &Backends, count: usize) -> Result<Self> {
        let client = cluster.client.clone();
        for number in 0..count.div_ceil(IN_A_NAMESPACE) {
            create_namespace(&client, &namespace(number * IN_A_NAMESPACE), backends).await?;
        }
        Ok(Self { client, manifests: (0..count).map(|index| manifest(index, backends)).collect() })
    }

    /// Applies them all, some at once.
    ///
    /// # Errors
    /// Fails where the API server refuses one.
    pub async fn create(&self) -> Result<()> {
        let applied =
            stream::iter(&self.manifests).map(|manifest| self.apply(manifest)).buffer_unordered(AT_ONCE);
        applied.try_collect::<Vec<_>>().await.map(|_| ())
    }

    /// Watches them until all are as `holds` says; answers how long that took.
    ///
    /// # Errors
    /// Fails where watching does, or it takes for ever.
    pub async fn wait_until(
        &self,
        what: &str,
        holds: fn(&IoTPipeline) -> bool,
        begun: Instant,
    ) -> Result<Duration> {
        let mut pipelines = BTreeMap::new();
        let mut told = Instant::now();
        let all = Api::<IoTPipeline>::all(self.client.clone());
        let changes = watcher(all, watcher::Config::default()).default_backoff().applied_objects();
        let mut still = changes
            .try_skip_while(|pipeline| {
                pipelines.insert(pipeline.name_any(), holds(pipeline));
                let held = pipelines.values().filter(|holds| **holds).count();
                if told.elapsed() > Duration::from_secs(10) {
                    println!("{:>7.1} s  {held} are {what}", begun.elapsed().as_secs_f64());
                    told = Instant::now();
                }
                future::ready(Ok(held < self.manifests.len()))
            })
            .boxed();
        tokio::time::timeout(PATIENCE, still.try_next())
            .await
            .with_whatever_context(|_| format!("gave up waiting until all are {what}"))?
            .whatever_context("failed to watch the pipelines")?;
        drop(still);
        println!("{:>7.1} s  all are {what}", begun.elapsed().as_secs_f64());
        Ok(begun.elapsed())
    }

    /// The name of the first one, which the next ones are about.
    pub fn first(&self) -> String {
        name(0)
    }

    /// Changes what the first one's processor is told.
    ///
    /// # Errors
    /// Fails where the API server refuses.
    pub async fn edit_first(&self) -> Result<()> {
        let patch = json!({"spec": {"processing": {"program": ".value = to_float!(.value) + 1.0"}}});
        let patched =
            self.beside_first().patch(&name(0), &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(|_: IoTPipeline| ()).whatever_context("failed to change the first pipeline")
    }

    /// Whether the first one is applied as it is, and Ready.
    ///
    /// # Errors
    /// Fails where it cannot be read.
    pub async fn first_is_settled(&self) -> Result<Result<(), String>> {
        let pipeline = self.beside_first().get(&name(0)).await;
        let pipeline = pipeline.whatever_context("failed to read the first pipeline")?;
        let settled = is_applied(&pipeline) && is_ready(&pipeline);
        Ok(settled.then_some(()).ok_or_else(|| "it is on its way".to_owned()))
    }

    /// Deletes the first one's Deployment; answers which that was.
    ///
    /// # Errors
    /// Fails where there is none.
    pub async fn delete_first_deployment(&self) -> Result<String> {
        let name = worker_name(&name(0), Component::Processor);
        let deployments = self.beside_first::<Deployment>();
        let deployment =
            deployments.get(&name).await.with_whatever_context(|_| format!("failed to read {name}"))?;
        deployments
            .delete(&name, &DeleteParams::background())
            .await
            .with_whatever_context(|_| format!("failed to delete {name}"))?;
        deployment.uid().whatever_context("a Deployment has no UID")
    }

    /// Whether the first one has another Deployment than that one.
    ///
    /// # Errors
    /// Fails where that cannot be read.
    pub async fn first_has_another_deployment(&self, deleted: &str) -> Result<Result<(), String>> {
        let name = worker_name(&name(0), Component::Processor);
        let deployment = self
            .beside_first::<Deployment>()
            .get_opt(&name)
            .await
            .with_whatever_context(|_| format!("failed to read {name}"))?;
        let is_another = deployment.and_then(|deployment| deployment.uid()).is_some_and(|uid| uid != deleted);
        Ok(is_another.then_some(()).ok_or_else(|| "there is none".to_owned()))
    }

    /// The objects of one kind in the first one's namespace.
    fn beside_first<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &namespace(0))
    }

    async fn apply(&self, manifest: &Value) -> Result<()> {
        let metadata = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default();
        let (namespace, name) = (metadata("namespace"), metadata("name"));
        Api::<IoTPipeline>::namespaced(self.client.clone(), namespace)
            .patch(name, &PatchParams::apply("many"), &Patch::Apply(manifest))
            .await
            .with_whatever_context(|_| format!("failed to apply {name}"))?;
        Ok(())
    }
}

/// A namespace with the database's Secret, in which pods can be made.
async fn create_namespace(client: &Client, name: &str, backends: &Backends) -> Result<()> {
    let failed = || format!("failed to make namespace {name}");
    let namespaces = Api::<Namespace>::all(client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": name}}));
    let object = object.with_whatever_context(|_| failed())?;
    namespaces.create(&PostParams::default(), &object).await.with_whatever_context(|_| failed())?;
    let secret =
        serde_json::from_value(json!({"metadata": {"name": "tsdb"}, "stringData": {"uri": backends.uri}}));
    let secret: Secret = secret.with_whatever_context(|_| failed())?;
    let secrets = Api::namespaced(client.clone(), name);
    secrets.create(&PostParams::default(), &secret).await.with_whatever_context(|_| failed())?;
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), name);
    eventually(Duration::from_secs(60), "pods have an account", async || {
        let account = accounts.get_opt("default").await.with_whatever_context(|_| failed())?;
        Ok(account.map(|_| ()).ok_or_else(|| "they have none".to_owned()))
    })
    .await
}

/// Whether all of the spec was brought about.
pub fn is_applied(pipeline: &IoTPipeline) -> bool {
    let applied = pipeline.status.as_ref().and_then(|status| status.applied_generation);
    applied.is_some() && applied == pipeline.metadata.generation
}

/// Whether it is Ready.
pub fn is_ready(pipeline: &IoTPipeline) -> bool {
    let ready: &str = ConditionType::Ready.into();
    let mut conditions = pipeline.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.type_ == ready && condition.status == "True")
}

fn namespace(index: usize) -> String {
    format!("many-{:03}", index / IN_A_NAMESPACE)
}

fn name(index: usize) -> String {
    format!("p{index:05}")
}

fn manifest(index: usize, backends: &Backends) -> Value {
    let name = name(index);
    json!({
        "apiVersion": "iotpipeline.dev/v1alpha1",
        "kind": "IoTPipeline",
        "metadata": {"name": name, "namespace": namespace(index)},
        "spec": {
            "mqtt": {
                "url": "mqtt://mosquitto.mqtt:1883",
                "subscriptions": [{"filter": format!("{name}/+"), "qos": 1}],
            },
            "kafka": {
                "bootstrapServers": backends.kafka,
                "topic": {
                    "name": format!("{}{name}", backends.prefix),
                    "partitions": 1,
                    "replicationFactor": 1,
                    "retention": "1d",
                },
            },
            "processing": {"program": ".value = to_float!(.value)"},
            "timescale": {
                "secretRef": {"name": "tsdb"},
                "table": {"schema": "many", "name": name},
                "columns": [
                    {"name": "time", "type": "timestamptz", "from": ".ts"},
                    {"name": "device", "type": "text", "nullable": false},
                    {"name": "value", "type": "double precision"},
                ],
                "timeColumn": "time",
                "chunkInterval": "1d",
                "indexes": [{"columns": ["device", "time DESC"]}],
                "retention": {"dropAfter": "90d"},
            },
            "processor": {"replicas": 1},
        },
    })
}
