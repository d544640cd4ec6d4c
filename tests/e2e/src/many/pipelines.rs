//! The pipelines: alike but for their names, topics and tables, on one Kafka and one database with one Secret.

use std::{
    collections::BTreeMap,
    future,
    time::{Duration, Instant},
};

use crds::{IoTPipeline, names::worker_name, status::ConditionType, worker::Component};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt};

use super::{
    PATIENCE,
    backends::Backends,
    control_plane::{ControlPlane, NAMESPACE},
};
use crate::Result;

/// How many are created at once.
const AT_ONCE: usize = 32;

/// The pipelines of a measurement.
pub struct Pipelines {
    api: Api<IoTPipeline>,
    deployments: Api<Deployment>,
    manifests: Vec<Value>,
}

impl Pipelines {
    /// Prepares them, and makes their Secret.
    ///
    /// # Errors
    /// Fails where the API server refuses.
    pub async fn new(cluster: &ControlPlane, backends: &Backends, count: usize) -> Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), NAMESPACE);
        let secret = serde_json::from_value(
            json!({"metadata": {"name": "tsdb"}, "stringData": {"uri": backends.uri}}),
        )
        .whatever_context("failed to write a Secret")?;
        secrets.create(&PostParams::default(), &secret).await.whatever_context("failed to make a Secret")?;
        Ok(Self {
            api: Api::namespaced(cluster.client.clone(), NAMESPACE),
            deployments: Api::namespaced(cluster.client.clone(), NAMESPACE),
            manifests: (0..count).map(|index| manifest(index, backends)).collect(),
        })
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
        let changes =
            watcher(self.api.clone(), watcher::Config::default()).default_backoff().applied_objects();
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

    /// The name of the first one.
    pub fn first(&self) -> String {
        name(0)
    }

    /// Changes what its processor is told.
    ///
    /// # Errors
    /// Fails where the API server refuses.
    pub async fn edit(&self, name: &str) -> Result<()> {
        let patch = json!({"spec": {"processing": {"program": ".value = to_float!(.value) + 1.0"}}});
        self.api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_whatever_context(|_| format!("failed to change {name}"))?;
        Ok(())
    }

    /// Whether it is applied as it is, and Ready.
    ///
    /// # Errors
    /// Fails where it cannot be read.
    pub async fn is_settled(&self, name: &str) -> Result<Result<(), String>> {
        let pipeline =
            self.api.get(name).await.with_whatever_context(|_| format!("failed to read {name}"))?;
        let settled = is_applied(&pipeline) && is_ready(&pipeline);
        Ok(settled.then_some(()).ok_or_else(|| "it is on its way".to_owned()))
    }

    /// Deletes its Deployment; answers which that was.
    ///
    /// # Errors
    /// Fails where there is none.
    pub async fn delete_deployment(&self, pipeline: &str) -> Result<String> {
        let name = worker_name(pipeline, Component::Processor);
        let deployment =
            self.deployments.get(&name).await.with_whatever_context(|_| format!("failed to read {name}"))?;
        self.deployments
            .delete(&name, &DeleteParams::background())
            .await
            .with_whatever_context(|_| format!("failed to delete {name}"))?;
        deployment.uid().whatever_context("a Deployment has no UID")
    }

    /// Whether it has another Deployment than that one.
    ///
    /// # Errors
    /// Fails where that cannot be read.
    pub async fn has_another_deployment(&self, pipeline: &str, deleted: &str) -> Result<Result<(), String>> {
        let name = worker_name(pipeline, Component::Processor);
        let deployment = self
            .deployments
            .get_opt(&name)
            .await
            .with_whatever_context(|_| format!("failed to read {name}"))?;
        let is_another = deployment.and_then(|deployment| deployment.uid()).is_some_and(|uid| uid != deleted);
        Ok(is_another.then_some(()).ok_or_else(|| "there is none".to_owned()))
    }

    async fn apply(&self, manifest: &Value) -> Result<()> {
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
        self.api
            .patch(name, &PatchParams::apply("many"), &Patch::Apply(manifest))
            .await
            .with_whatever_context(|_| format!("failed to apply {name}"))?;
        Ok(())
    }
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

fn name(index: usize) -> String {
    format!("p{index:05}")
}

fn manifest(index: usize, backends: &Backends) -> Value {
    let name = name(index);
    json!({
        "apiVersion": "iotpipeline.dev/v1alpha1",
        "kind": "IoTPipeline",
        "metadata": {"name": name, "namespace": NAMESPACE},
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
