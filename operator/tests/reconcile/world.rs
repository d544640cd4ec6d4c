//! One pipeline and all that is around it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use crds::{
    names::{COMPONENT_LABEL, FIELD_MANAGER, MANAGED_BY_LABEL, PIPELINE_LABEL, WORKER_CONFIG_KEY},
    worker::WorkerStatus,
};
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    runtime::{controller::Action, reflector::store::Writer, watcher},
};
use operator::{
    build::{WorkerImage, WorkerSettings},
    compiler::Compiler,
    context::Context,
    controller::reconcile_in_turn,
    error::Error,
    kafka::TopicKey,
    memory::{Memory, PipelineKey},
    packed::Packed,
    pipeline::TopicName,
    reconcile::{apply::IndexBuilds, report::Reports, validate::Settings},
    rollouts::{Rollouts, Stage},
    scale::probe,
    telemetry::metrics::Metrics,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

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

pub const COMPILER: &str = env!("CARGO_BIN_EXE_iotpipeline-compiler");

const OUTDATED: Stage = Stage::Outdated { work: true };

pub const STATEFULSET: &str = "statefulsets/line-bridge";
pub const DEPLOYMENT: &str = "deployments/line-processor";
pub const BRIDGE: Labels = Labels("bridge");
const PROCESSOR: Labels = Labels("processor");

/// The labels of a worker's pods.
pub struct Labels(&'static str);

impl Labels {
    pub fn labels(&self) -> Value {
        json!({PIPELINE_LABEL: "line", COMPONENT_LABEL: self.0, MANAGED_BY_LABEL: FIELD_MANAGER})
    }
}

/// What workers say, by the names of their pods.
#[derive(Clone, Default)]
pub struct FakeReports(Arc<Mutex<BTreeMap<String, WorkerStatus>>>);

impl Reports for FakeReports {
    fn ask<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Option<WorkerStatus>> {
        let report = self.0.lock().unwrap().get(&pod.name_any()).cloned();
        async { report }.boxed()
    }
}

pub struct World {
    pub api: ApiServer,
    pub kafka: FakeKafka,
    pub databases: FakeDatabases,
    context: Arc<Context>,
    reports: FakeReports,
    log: Log,
}

impl World {
    /// A world in which this pipeline was applied a moment ago.
    pub fn with(yaml: &str) -> Self {
        Self::with_compiler(yaml, Path::new(COMPILER))
    }

    /// The same, with this program as the compiler.
    pub fn with_compiler(yaml: &str, compiler: &Path) -> Self {
        let log = Log::default();
        let api = ApiServer::new(Arc::clone(&log));
        let (kafka, databases) = (FakeKafka::new(Arc::clone(&log)), FakeDatabases::new(Arc::clone(&log)));
        api.put("iotpipelines/line", serde_saphyr::from_str(yaml).unwrap());
        // base64 of postgres://app:hunter2@db:5432/iot
        let uri = "cG9zdGdyZXM6Ly9hcHA6aHVudGVyMkBkYjo1NDMyL2lvdA==";
        api.put("secrets/tsdb-app", json!({"metadata": {"name": "tsdb-app"}, "data": {"uri": uri}}));
        api.put("namespaces/plant-7", json!({"metadata": {"name": "plant-7"}}));
        let client = api.client();
        let reports = FakeReports::default();
        let peers = serde_json::from_value(json!([{"podSelector": {"matchLabels": {"app": "operator"}}}]));
        let context = Arc::new(Context {
            instance: "operator-0".to_owned(),
            client,
            reports: Arc::new(reports.clone()),
            compiler: Compiler::new(compiler, Duration::from_secs(60)),
            kafka: Arc::new(kafka.clone()),
            databases: Arc::new(databases.clone()),
            metrics: Metrics::default(),
            watched: OnceLock::new(),
            memory: Memory::default(),
            looks_at_rest: Semaphore::new(1),
            scaling: Arc::default(),
            rollouts: Rollouts::new(1),
            builds: IndexBuilds::with_patience(Duration::from_millis(300)),
            settings: Settings { cluster_name: "test".to_owned() },
            workers: WorkerSettings {
                image: WorkerImage { reference: "worker:1".to_owned(), pull_policy: None },
                ingress_from: Some(peers.unwrap()),
            },
            resync: Duration::from_secs(60),
        });
        Self { api, kafka, databases, context, reports, log }
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

    /// A world in which everything was at rest, `Delete` was the policy, the pipeline was deleted, and its bridge has
    /// just ended the session.
    pub async fn deleted_after_rest() -> Self {
        let policy = "  deletionPolicy: {topic: Delete, table: Delete}\n";
        let world = Self::at_rest(&format!("{PIPELINE}{policy}")).await;
        world.delete();
        world.reconcile().await.unwrap();
        world.report(json!({"retirement": {"ended": true, "passedOn": 12, "inFlight": 0}}));
        world.log();
        world
    }

    /// Deletes the pipeline, as a user would.
    pub fn delete(&self) {
        self.api.change("iotpipelines/line", |pipeline| {
            pipeline["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
    }

    /// Deletes the namespace, which deletes the pipeline.
    pub fn delete_namespace(&self) {
        self.api.change("namespaces/plant-7", |namespace| {
            namespace["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        self.delete();
    }

    /// The bridge's pod is there and says this of itself.
    pub fn report(&self, report: Value) {
        self.report_of_bridge(0, report);
    }

    /// The pod of the bridge with this ordinal is there and says this of itself.
    pub fn report_of_bridge(&self, ordinal: u32, report: Value) {
        let name = format!("line-bridge-{ordinal}");
        let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "line-bridge",
            "uid": self.api.get(STATEFULSET)["metadata"]["uid"]}]);
        let uid = format!("uid-of-{name}");
        let metadata = json!({"name": name, "uid": uid, "labels": BRIDGE.labels(), "ownerReferences": owner});
        let mut spec = self.api.get(STATEFULSET)["spec"]["template"]["spec"].clone();
        spec["containers"] = json!([]);
        self.api.put(
            &format!("pods/{name}"),
            json!({"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}),
        );
        self.answer(&name, "bridge", report);
    }

    /// A processor's pod is there and says this of itself.
    pub fn report_of_processor(&self, pod: &str, report: Value) {
        let metadata = json!({"name": pod, "labels": PROCESSOR.labels()});
        self.api.put(
            &format!("pods/{pod}"),
            json!({"metadata": metadata, "spec": {"containers": []}, "status": {"phase": "Running"}}),
        );
        self.answer(pod, "processor", report);
    }

    fn answer(&self, pod: &str, component: &str, report: Value) {
        let mut status = json!({"component": component, "version": "1", "ready": true});
        status.as_object_mut().unwrap().extend(report.as_object().unwrap().clone());
        let status = serde_json::from_value(status).unwrap();
        self.reports.0.lock().unwrap().insert(pod.to_owned(), status);
    }

    /// A processor's pod is there and ready, or not.
    pub fn put_processor(&self, is_ready: bool) {
        let metadata = json!({"name": "line-processor-x", "labels": PROCESSOR.labels()});
        self.api.put("pods/line-processor-x", json!({"metadata": metadata, "status": {"phase": "Running"}}));
        let status = json!({"component": "processor", "version": "1", "ready": is_ready});
        let status = serde_json::from_value(status).unwrap();
        self.reports.0.lock().unwrap().insert("line-processor-x".to_owned(), status);
    }

    /// Lets this much time pass for a session that is being ended.
    pub fn pass_time(&self, duration: Duration) {
        let key = pipeline();
        let earlier =
            |since: &mut Option<Instant>| *since = since.map(|since| since.checked_sub(duration).unwrap());
        self.context.memory.update(&key, |remembered| {
            earlier(&mut remembered.retiring_since);
            earlier(&mut remembered.draining_since);
        });
    }

    /// The configuration that the bridge is told to run with.
    pub fn bridge_configuration(&self) -> Value {
        let volumes = self.api.get(STATEFULSET)["spec"]["template"]["spec"]["volumes"].clone();
        let name = volumes[0]["configMap"]["name"].as_str().unwrap().to_owned();
        let config_map = self.api.get(&format!("configmaps/{name}"));
        let content = config_map["data"][WORKER_CONFIG_KEY].as_str().unwrap().to_owned();
        serde_json::from_str::<Value>(&content).unwrap()["role"]["bridge"].clone()
    }

    pub async fn reconcile(&self) -> Result<Action, Error> {
        let object: Packed = serde_json::from_value(self.api.get("iotpipelines/line")).unwrap();
        reconcile_in_turn(Arc::new(object), Arc::clone(&self.context)).await
    }

    /// It is time to look at the pipeline again, and as many others at rest are looked at as may be.
    pub fn let_others_come_first(&self) {
        let generation = self.api.get("iotpipelines/line")["metadata"]["generation"].as_i64().unwrap();
        let key = pipeline();
        self.context.memory.update(&key, |remembered| {
            remembered.rests_until = Some((Instant::now(), generation));
        });
        self.context.looks_at_rest.forget_permits(1);
    }

    /// What the operator remembers of the pipeline is lost, as by a restart.
    pub fn forget(&self) {
        let key = pipeline();
        self.context.memory.forget(&key);
        self.context.scaling.forget(&key);
    }

    /// Lets the operator look for so long how far the pipelines are that it scales, and answers how often it wants another
    /// reconciliation.
    pub async fn watch_load(&self, duration: Duration) -> usize {
        let mut changes = self.context.scaling.changes();
        let _ = tokio::time::timeout(duration, probe::run(&self.context)).await;
        std::iter::from_fn(|| changes.try_recv().ok()).count()
    }

    /// Starts an operator of another version, which wants this image, while another pipeline's workers are replaced or not.
    pub fn upgrade(&mut self, image: &str, is_other_underway: bool) {
        let context = Arc::get_mut(&mut self.context).unwrap();
        context.workers.image.reference = image.to_owned();
        context.rollouts = Rollouts::new(1);
        if is_other_underway {
            assert!(context.rollouts.admit(&other_pipeline(), OUTDATED, Instant::now()));
        }
    }

    /// Another pipeline's workers shall be replaced too: whether they may.
    pub fn admits_another(&self) -> bool {
        let is_admitted = self.context.rollouts.admit(&other_pipeline(), OUTDATED, Instant::now());
        self.context.rollouts.forget(&other_pipeline());
        is_admitted
    }

    /// Whether the operator waits with the pipeline: it is called once there is room.
    pub fn is_called(&self) -> bool {
        let mut turns = self.context.rollouts.turns();
        self.end_other_rollout();
        turns.try_recv().is_ok()
    }

    /// The workers of that other pipeline are all replaced.
    pub fn end_other_rollout(&self) {
        self.context.rollouts.admit(&other_pipeline(), Stage::Complete, Instant::now());
    }

    /// A pipeline of another namespace, with another database, manages the topic.
    pub fn let_another_manage_the_topic(&self) {
        assert_eq!(self.context.memory.claim_topic(&other_pipeline(), &topic()), None);
    }

    /// The operator has just started, and has yet to look at a pipeline of another namespace that names the same topic.
    pub fn let_another_be_unknown(&self) {
        let mut other: Value = serde_saphyr::from_str(PIPELINE).unwrap();
        (other["metadata"]["namespace"], other["metadata"]["name"]) = (json!("plant-8"), json!("other"));
        let mut writer = Writer::default();
        writer.apply_watcher_event(&watcher::Event::Apply(serde_json::from_value(other).unwrap()));
        self.context.watched.set(vec![writer.as_reader()]).ok().unwrap();
    }

    /// The operator has looked at that pipeline.
    pub fn look_at_another(&self) {
        self.context.memory.update(&other_pipeline(), |remembered| remembered.topic_is_known = true);
    }

    /// Whether the operator would refuse the topic to another pipeline, for this one.
    pub fn is_topic_managed(&self) -> bool {
        self.context.memory.other_manager(&other_pipeline(), &topic()).is_some()
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

fn pipeline() -> PipelineKey {
    ("plant-7".to_owned(), "line".to_owned())
}

fn other_pipeline() -> PipelineKey {
    ("plant-8".to_owned(), "other".to_owned())
}

fn topic() -> TopicKey {
    TopicKey { cluster_id: "kafka-1".to_owned(), topic: TopicName::parse("plant-7.line").unwrap() }
}
