//! One pipeline and all that is around it.

use std::{sync::Arc, time::Duration};

use crds::{
    IoTPipeline,
    names::{COMPONENT_LABEL, FIELD_MANAGER, MANAGED_BY_LABEL, PIPELINE_LABEL},
};
use kube::{
    core::DeserializeGuard,
    runtime::{
        controller::Action,
        events::{Recorder, Reporter},
    },
};
use operator::{
    build::WorkerImage,
    context::Context,
    error::Error,
    kafka::TopicKey,
    memory::Memory,
    pipeline::TopicName,
    reconcile::{reconcile, validate::Settings},
    telemetry::metrics::Metrics,
};
use serde_json::{Value, json};

use crate::{
    api_server::{ApiServer, Log},
    stores::{FakeDatabases, FakeKafka},
};

pub const PIPELINE: &str = r"
apiVersion: iotpipeline.dev/v1alpha1
kind: IoTPipeline
metadata: {name: line, namespace: plant-7, uid: 6f2b, generation: 1, resourceVersion: '17'}
spec:
  mqtt:
    url: mqtt://mosquitto.mqtt:1883
    subscriptions: [{filter: plants/+/telemetry}]
  kafka:
    bootstrapServers: kafka.kafka:9092
    topic: {name: plant-7.line, partitions: 3, replicationFactor: 1}
  timescale:
    secretRef: {name: tsdb-app}
    table: {schema: plant_7, name: line}
    columns:
      - {name: time, type: timestamptz, from: .ts}
      - {name: device, type: text}
    timeColumn: time
";

pub const STATEFULSET: &str = "statefulsets/line-bridge";
pub const DEPLOYMENT: &str = "deployments/line-processor";
pub const BRIDGE: Labels = Labels("bridge");

/// The labels of a worker's pods.
pub struct Labels(&'static str);

impl Labels {
    pub fn labels(&self) -> Value {
        json!({PIPELINE_LABEL: "line", COMPONENT_LABEL: self.0, MANAGED_BY_LABEL: FIELD_MANAGER})
    }
}

pub struct World {
    pub api: ApiServer,
    pub kafka: FakeKafka,
    pub databases: FakeDatabases,
    context: Arc<Context>,
    log: Log,
}

impl World {
    /// A world in which this pipeline was applied a moment ago.
    pub fn with(yaml: &str) -> Self {
        let log = Log::default();
        let api = ApiServer::new(Arc::clone(&log));
        let (kafka, databases) = (FakeKafka::new(Arc::clone(&log)), FakeDatabases::new(Arc::clone(&log)));
        api.put("iotpipelines/line", serde_saphyr::from_str(yaml).unwrap());
        // base64 of postgres://app:hunter2@db:5432/iot
        let uri = "cG9zdGdyZXM6Ly9hcHA6aHVudGVyMkBkYjo1NDMyL2lvdA==";
        api.put("secrets/tsdb-app", json!({"metadata": {"name": "tsdb-app"}, "data": {"uri": uri}}));
        let client = api.client();
        let context = Arc::new(Context {
            recorder: Recorder::new(client.clone(), Reporter::from("test")),
            client,
            http: reqwest::Client::new(),
            kafka: Arc::new(kafka.clone()),
            databases: Arc::new(databases.clone()),
            metrics: Metrics::default(),
            memory: Memory::default(),
            settings: Settings { cluster_name: "test".to_owned() },
            worker_image: WorkerImage { reference: "worker:1".to_owned(), pull_policy: None },
            resync: Duration::from_secs(60),
        });
        Self { api, kafka, databases, context, log }
    }

    /// A world in which everything is as the pipeline says.
    pub async fn at_rest(yaml: &str) -> Self {
        let world = Self::with(yaml);
        world.reconcile().await.unwrap();
        world.settle_workers();
        world.reconcile().await.unwrap();
        world.log();
        world
    }

    /// A world in which everything was at rest, `Delete` was the policy, and the pipeline was deleted.
    pub async fn deleted_after_rest() -> Self {
        let policy = "  deletionPolicy: {topic: Delete, table: Delete}\n";
        let world = Self::at_rest(&format!("{PIPELINE}{policy}")).await;
        world.api.change("iotpipelines/line", |pipeline| {
            pipeline["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        world
    }

    pub async fn reconcile(&self) -> Result<Action, Error> {
        let object: DeserializeGuard<IoTPipeline> =
            serde_json::from_value(self.api.get("iotpipelines/line")).unwrap();
        reconcile(Arc::new(object), Arc::clone(&self.context)).await
    }

    /// What the operator remembers of the pipeline is lost, as by a restart.
    pub fn forget(&self) {
        self.context.memory.forget(&("plant-7".to_owned(), "line".to_owned()));
    }

    /// A pipeline of another namespace, with another database, manages the topic.
    pub fn let_another_manage_the_topic(&self) {
        let other = ("plant-8".to_owned(), "other".to_owned());
        let topic =
            TopicKey { cluster_id: "kafka-1".to_owned(), topic: TopicName::parse("plant-7.line").unwrap() };
        assert_eq!(self.context.memory.claim_topic(&other, &topic), None);
    }

    /// What was written since the last look.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Changes the spec, as a user would.
    pub fn edit(&self, edit: impl FnOnce(&mut Value)) {
        self.api.change("iotpipelines/line", |pipeline| {
            edit(&mut pipeline["spec"]);
            let generation = pipeline["metadata"]["generation"].as_i64().unwrap();
            pipeline["metadata"]["generation"] = json!(generation + 1);
        });
    }

    /// Does what the controllers of Kubernetes do: all pods are there, new and ready.
    pub fn settle_workers(&self) {
        for key in self.api.keys() {
            if key == STATEFULSET || key == DEPLOYMENT {
                self.api.change(&key, |workload| {
                    let replicas = workload["spec"]["replicas"].clone();
                    workload["status"] = json!({
                        "observedGeneration": workload["metadata"]["generation"],
                        "replicas": replicas,
                        "updatedReplicas": replicas,
                        "readyReplicas": replicas,
                    });
                });
            }
        }
    }

    pub fn status(&self) -> Value {
        self.api.get("iotpipelines/line")["status"].clone()
    }

    /// Status and reason of a condition.
    pub fn condition(&self, condition_type: &str) -> String {
        let condition = self.find(condition_type);
        format!("{} {}", condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
    }

    pub fn message(&self, condition_type: &str) -> String {
        self.find(condition_type)["message"].as_str().unwrap().to_owned()
    }

    fn find(&self, condition_type: &str) -> Value {
        let status = self.status();
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().find(|condition| condition["type"] == condition_type).unwrap().clone()
    }
}
