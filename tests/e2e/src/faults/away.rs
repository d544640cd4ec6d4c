//! Backends that are gone for a while, in order: their StatefulSets have no pod.

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use snafu::{OptionExt, ResultExt};
use tokio::time::sleep;

use super::{PATIENCE, Trial};
use crate::{Result, pods::is_ready, wait::eventually};

/// How long, seconds: a while, and so long that everything between has filled up.
pub const A_MINUTE: u64 = 60;
pub const TEN_MINUTES: u64 = 600;

/// One of the servers on which a pipeline depends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    /// The MQTT broker.
    Mosquitto,
    /// Kafka, its only broker.
    Kafka,
    /// The database.
    Timescale,
}

/// Namespace and name of the StatefulSet of each.
pub const BACKENDS: [(&str, &str); 3] =
    [("mqtt", "mosquitto"), ("kafka", "kafka"), ("timescaledb", "timescaledb")];

impl Backend {
    fn names(self) -> (&'static str, &'static str) {
        BACKENDS[self as usize]
    }

    /// Its program, as its process is called.
    pub fn program(self) -> &'static str {
        match self {
            Self::Mosquitto => "mosquitto",
            Self::Kafka => "java",
            Self::Timescale => "postgres",
        }
    }

    /// The port at which the workers come.
    pub fn port(self) -> u16 {
        match self {
            Self::Mosquitto => 1883,
            Self::Kafka => 9092,
            Self::Timescale => 5432,
        }
    }

    /// Its Service, with the port.
    pub fn address(self) -> String {
        let (namespace, name) = self.names();
        format!("{name}.{namespace}:{}", self.port())
    }

    /// Its pod.
    pub async fn pod(self, trial: &Trial<'_>) -> Result<Pod> {
        let mut pods = self.pods(trial).await?;
        pods.pop().with_whatever_context(|| format!("there is no {self:?}"))
    }

    async fn pods(self, trial: &Trial<'_>) -> Result<Vec<Pod>> {
        let (namespace, name) = self.names();
        trial.test.cluster.pods(namespace, &format!("app.kubernetes.io/name={name}")).await
    }

    async fn scale(self, trial: &Trial<'_>, replicas: i32) -> Result<()> {
        let (namespace, name) = self.names();
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let sets = trial.test.cluster.api::<StatefulSet>(namespace);
        sets.patch_scale(name, &PatchParams::default(), &patch)
            .await
            .with_whatever_context(|_| format!("failed to scale {name}"))?;
        Ok(())
    }
}

/// Takes a backend away for so many seconds.
pub async fn away(trial: &Trial<'_>, backend: Backend, seconds: u64) -> Result<String> {
    trial.at_random(500, 3_000).await;
    backend.scale(trial, 0).await?;
    let gone = stays_away(trial, backend, seconds).await;
    backend.scale(trial, 1).await?;
    gone?;
    eventually(PATIENCE, &format!("{backend:?} is back"), async || {
        let pods = backend.pods(trial).await?;
        let is_back = pods.len() == 1 && pods.iter().all(is_ready);
        Ok(is_back.then_some(()).ok_or(format!("{} pods", pods.len())))
    })
    .await?;
    Ok(format!("{backend:?} was away for {:?}", trial.lasting(seconds)))
}

async fn stays_away(trial: &Trial<'_>, backend: Backend, seconds: u64) -> Result<()> {
    eventually(PATIENCE, &format!("{backend:?} is gone"), async || {
        let left = backend.pods(trial).await?.len();
        Ok((left == 0).then_some(()).ok_or(format!("{left} pods")))
    })
    .await?;
    trial.say(&format!("{backend:?} is gone"));
    sleep(trial.lasting(seconds)).await;
    Ok(())
}
