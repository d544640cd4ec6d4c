//! What the tests need: topics of their own, users with passwords and rights, and what is in the Secrets.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use access::{
    kafka::{KafkaAccess, SaslAccess},
    tls::{ClientCertificate, TlsMaterial},
};
use crds::{pipeline::SaslMechanism, worker::PipelineId};
use operator::{
    change::{Approvals, Change},
    kafka::{Error, KafkaClient, ObservedTopic, TopicAdmin, TopicPlan, Watermarks, plan},
    pipeline::{Topic, TopicName, WantedTopic},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};

/// A variable that `make test` sets.
pub fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: these tests need Kafka, run `make test`"))
}

/// One topic of its own for each test.
pub struct Test {
    pub kafka: KafkaClient,
    pub topic: Topic,
    pub pipeline: PipelineId,
}

impl Test {
    pub fn new(name: &str) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        Self {
            kafka: KafkaClient::default(),
            topic: Topic {
                kafka: plain(&variable("IOTPIPELINE_TEST_KAFKA")),
                name: TopicName::parse(&format!("operator-test-{name}-{now}")).unwrap(),
                wanted: Some(WantedTopic {
                    adopt: false,
                    partitions: 2,
                    allow_reorder: false,
                    replication_factor: 1,
                    config: BTreeMap::from([
                        ("retention.ms".into(), "3600000".into()),
                        ("compression.type".into(), "zstd".into()),
                    ]),
                }),
                min_max_message_bytes: Some(2_000_000),
            },
            pipeline: PipelineId { cluster_name: "c".into(), namespace: "n".into(), name: "p".into() },
        }
    }

    pub fn wanted(&mut self) -> &mut WantedTopic {
        self.topic.wanted.as_mut().unwrap()
    }

    pub async fn created(name: &str) -> Self {
        let test = Self::new(name);
        test.try_create().await.unwrap();
        test
    }

    pub async fn try_create(&self) -> Result<(), Error> {
        let plan = self.plan(&self.topic, None).await;
        self.kafka.apply(&self.topic.kafka, &self.topic.name, &plan.steps[0]).await
    }

    pub async fn observe(&self) -> ObservedTopic {
        self.kafka.observe(&self.topic.kafka, &self.topic.name).await.unwrap()
    }

    pub async fn watermarks(&self) -> BTreeMap<i32, Watermarks> {
        self.kafka.watermarks(&self.topic.kafka, &self.topic.name).await.unwrap()
    }

    pub async fn plan(&self, wanted: &Topic, marker: Option<&PipelineId>) -> TopicPlan {
        // No test has records whose loss a person would have to approve.
        let observed = ObservedTopic { is_empty: true, ..self.observe().await };
        plan(wanted, &self.pipeline, &observed, marker, None, &Approvals::default())
    }

    pub async fn apply(&self, plan: &TopicPlan) -> Vec<String> {
        for step in &plan.steps {
            self.kafka.apply(&self.topic.kafka, &self.topic.name, step).await.unwrap();
        }
        plan.steps.iter().flat_map(|step| step.changes.iter().map(Change::to_string)).collect()
    }

    /// Waits until nothing is left to do. What the controller has written, the broker learns a moment later.
    pub async fn settled(&self, wanted: &Topic) {
        let mut plan = self.plan(wanted, Some(&self.pipeline)).await;
        for _ in 0..100 {
            if plan == TopicPlan::default() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            plan = self.plan(wanted, Some(&self.pipeline)).await;
        }
        panic!("still to do: {plan:?}");
    }

    /// Replaces all settings of the topic, as another tool would.
    pub async fn set_config(&self, config: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.topic.kafka.bootstrap_servers)
            .create()
            .unwrap();
        let request = config.iter().fold(
            AlterConfig::new(ResourceSpecifier::Topic(self.topic.name.as_str())),
            |request, (name, value)| request.set(name, value),
        );
        let answers = admin.alter_configs([&request], &AdminOptions::new()).await.unwrap();
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        // What the controller has written, the broker learns a moment later.
        for _ in 0..100 {
            let found = self.observe().await.topic.unwrap().config.unwrap();
            if config.iter().all(|(name, value)| found[*name].value == *value) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the settings did not change");
    }

    pub async fn finish(self) {
        self.kafka.delete(&self.topic.kafka, &self.topic.name).await.unwrap();
    }
}

/// Access without certificate and user.
pub fn plain(bootstrap_servers: &str) -> KafkaAccess {
    KafkaAccess { bootstrap_servers: bootstrap_servers.to_owned(), tls: None, sasl: None }
}

/// What is in a Secret that clients may present.
pub fn secret(name: &str, key: &str) -> String {
    fs::read_to_string(Path::new(&variable("IOTPIPELINE_TEST_SECRETS")).join(name).join(key)).unwrap()
}

/// The certificates of an encrypted connection: the Secret with the authority, and that with the client's.
pub fn tls(ca: Option<&str>, client: Option<&str>) -> Option<TlsMaterial> {
    Some(TlsMaterial {
        ca: ca.map(|name| secret(name, "ca.crt")),
        client: client.map(|name| ClientCertificate {
            certificate: secret(name, "tls.crt"),
            key: secret(name, "tls.key"),
        }),
    })
}

/// A user with a password.
pub fn sasl(mechanism: SaslMechanism, username: &str, password: &str) -> Option<SaslAccess> {
    Some(SaslAccess { mechanism, username: username.to_owned(), password: password.to_owned() })
}

/// Gives Kafka's superuser commands, which are those of tests/e2e/cluster/kafka-admin.
pub fn administer(commands: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/cluster/kafka-admin");
    let mut child = Command::new(script).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "kafka-admin failed");
}

/// The operations that docs/security.md tells to allow somebody on a kind of resource.
pub fn documented_rights(who: &str, resource: &str) -> String {
    let document = include_str!("../../../docs/security.md");
    let (_, commands) = document.split_once(&format!("# {who}\n")).unwrap();
    let is_it = |command: &&str| command.contains(&format!("--{resource} "));
    let command = commands.lines().take_while(|line| line.starts_with("kafka-acls.sh")).find(is_it).unwrap();
    let operations: Vec<_> =
        command.split("--operation ").skip(1).map(|rest| rest.split(' ').next().unwrap()).collect();
    operations.join(",")
}
