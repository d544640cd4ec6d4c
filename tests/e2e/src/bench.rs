//! The benchmark's parts: what is sent, what is measured, and beside what. Starts workers as plain processes
//! and does network I/O.

pub mod bridge;
pub mod end_to_end;
pub mod load;
pub mod process;
pub mod processor;
pub mod reading;
pub mod store;

use std::{fs, path::PathBuf};

use crds::{
    names::SecretPurpose,
    worker::{KafkaConfig, PipelineId, RoleConfig, WORKER_CONFIG_VERSION, WorkerConfig},
};
use snafu::{OptionExt, ResultExt};

use self::{process::Worker, store::Store};
use crate::{
    Result,
    cluster::{CREDENTIALS_NAMESPACE, Cluster, value_of},
    fleet::Broker,
    kafka::{BOOTSTRAP_SERVERS, Kafka},
};

/// What every measurement works with.
pub struct Bench {
    /// The worker's binary.
    pub worker: PathBuf,
    /// Where configurations, logs and the file of rows go.
    pub directory: PathBuf,
    /// Kafka.
    pub kafka: Kafka,
    /// TimescaleDB.
    pub store: Store,
    /// The MQTT broker.
    pub broker: Broker,
}

impl Bench {
    /// Connects to the local cluster's services and makes a database of the benchmark's own, whose table has a natural
    /// key or not.
    ///
    /// # Errors
    /// Fails where one of them does not answer.
    pub async fn set_up(worker: PathBuf, directory: PathBuf, is_unique: bool) -> Result<Self> {
        let cluster = Cluster::connect().await?;
        let secret = |namespace: &'static str, name: &'static str, key: &'static str| {
            let cluster = &cluster;
            async move {
                value_of(&cluster.secret(namespace, name).await?, key)
                    .with_whatever_context(|| format!("the Secret {namespace}/{name} has no key {key}"))
            }
        };
        let username = secret(CREDENTIALS_NAMESPACE, "mqtt-user", "username").await?;
        let password = secret(CREDENTIALS_NAMESPACE, "mqtt-user", "password").await?;
        let store =
            Store::create(&secret("timescaledb", "credentials", "postgres-password").await?, is_unique)
                .await?;
        let this = Self {
            worker,
            directory,
            kafka: Kafka::connect()?,
            store,
            broker: Broker {
                host: "mosquitto.mqtt".to_owned(),
                port: 1883,
                credentials: Some((username.clone(), password.clone())),
            },
        };
        this.write_secret(SecretPurpose::Mqtt, "username", &username)?;
        this.write_secret(SecretPurpose::Mqtt, "password", &password)?;
        this.write_secret(SecretPurpose::Timescale, "uri", &this.store.uri())?;
        Ok(this)
    }

    fn write_secret(&self, purpose: SecretPurpose, key: &str, value: &str) -> Result<()> {
        let directory = self.directory.join(purpose.to_string());
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join(key), value))
            .with_whatever_context(|_| format!("failed to write to {}", directory.display()))
    }

    /// Starts a worker for a topic.
    ///
    /// # Errors
    /// Fails where it cannot be started.
    pub fn start(&self, topic: &str, role: RoleConfig) -> Result<Worker> {
        let config = WorkerConfig {
            version: WORKER_CONFIG_VERSION,
            pipeline: PipelineId {
                cluster_name: "bench".to_owned(),
                namespace: "bench".to_owned(),
                name: "bench".to_owned(),
            },
            kafka: KafkaConfig {
                bootstrap_servers: BOOTSTRAP_SERVERS.to_owned(),
                topic: topic.to_owned(),
                tls: None,
                sasl: None,
            },
            role,
        };
        Worker::start(&self.worker, &self.directory, &config)
    }
}
