//! The Kubernetes cluster that the scenarios run on.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use crds::IoTPipeline;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Pod, Secret},
};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{Condition, await_condition},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use snafu::{OptionExt, ResultExt};

use crate::{Result, wait::eventually};

/// Where the cluster's set-up left the credentials of the backends.
pub const CREDENTIALS_NAMESPACE: &str = "iot-demo";
/// The namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "iotpipeline-system";
/// How long it may take until another operator acts: a dead one's Lease runs out after 30 seconds, and the rest is for
/// a slow machine.
pub const TAKEN_OVER: Duration = Duration::from_secs(90);
/// Who writes what the scenarios write.
pub const USER: &str = "e2e";

/// A connection to the API server.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
}

impl Cluster {
    /// Connects as `$KUBECONFIG` says, or else to the local cluster of `tests/e2e/cluster`.
    ///
    /// # Errors
    /// Fails where there is no cluster.
    pub async fn connect() -> Result<Self> {
        let path = std::env::var("KUBECONFIG").unwrap_or_else(|_| {
            let state =
                std::env::var("IOTPIPELINE_STATE").unwrap_or_else(|_| "/var/lib/iotpipeline".to_owned());
            format!("{state}/kubeconfig")
        });
        let kubeconfig =
            Kubeconfig::read_from(&path).with_whatever_context(|_| format!("failed to read {path}"))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_whatever_context(|_| format!("failed to use {path}"))?;
        let client = Client::try_from(config).whatever_context("failed to make a client")?;
        client.apiserver_version().await.whatever_context("failed to reach the API server")?;
        Ok(Self { client })
    }

    /// The objects of one kind in one namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The pipelines of one namespace.
    pub fn pipelines(&self, namespace: &str) -> Api<IoTPipeline> {
        self.api(namespace)
    }

    /// What `kubectl apply` does with one pipeline: server-side apply.
    ///
    /// # Errors
    /// Fails where the API server refuses it; the error holds the API server's message.
    pub async fn apply_pipeline(&self, manifest: &Value) -> Result<IoTPipeline, kube::Error> {
        self.apply_with(manifest, &PatchParams::apply(USER).force()).await
    }

    /// Whether the API server would take this pipeline; nothing is stored.
    ///
    /// # Errors
    /// Fails where the API server refuses it; the error holds the API server's message.
    pub async fn try_pipeline(&self, manifest: &Value) -> Result<IoTPipeline, kube::Error> {
        self.apply_with(manifest, &PatchParams::apply(USER).force().dry_run()).await
    }

    async fn apply_with(&self, manifest: &Value, how: &PatchParams) -> Result<IoTPipeline, kube::Error> {
        let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_owned();
        self.pipelines(&text("namespace")).patch(&text("name"), how, &Patch::Apply(manifest)).await
    }

    /// Waits, watching the object, until it is as `condition` says.
    ///
    /// # Errors
    /// Fails after `deadline`, and where watching fails.
    pub async fn wait_until<K>(
        &self,
        api: Api<K>,
        name: &str,
        what: &str,
        deadline: Duration,
        condition: impl Condition<K>,
    ) -> Result<Option<K>>
    where
        K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
    {
        tokio::time::timeout(deadline, await_condition(api, name, condition))
            .await
            .with_whatever_context(|_| {
                format!("gave up after {} s waiting until {name} {what}", deadline.as_secs())
            })?
            .with_whatever_context(|_| format!("failed to watch {name}"))
    }

    /// One Secret's values.
    ///
    /// # Errors
    /// Fails where there is no such Secret.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Secret> {
        self.api::<Secret>(namespace)
            .get(name)
            .await
            .with_whatever_context(|_| format!("failed to read the Secret {namespace}/{name}"))
    }

    /// Changes some values of a Secret, as its owner would.
    ///
    /// # Errors
    /// Fails where there is no such Secret.
    pub async fn change_secret(
        &self,
        namespace: &str,
        name: &str,
        values: &BTreeMap<String, String>,
    ) -> Result<()> {
        let patch = Patch::Merge(serde_json::json!({"stringData": values}));
        self.api::<Secret>(namespace)
            .patch(name, &PatchParams::default(), &patch)
            .await
            .with_whatever_context(|_| format!("failed to change the Secret {namespace}/{name}"))?;
        Ok(())
    }

    /// The pods that have these labels.
    ///
    /// # Errors
    /// Fails where the API server does.
    pub async fn pods(&self, namespace: &str, labels: &str) -> Result<Vec<Pod>> {
        let pods = self.api::<Pod>(namespace).list(&ListParams::default().labels(labels)).await;
        Ok(pods.with_whatever_context(|_| format!("failed to list the pods of {namespace}"))?.items)
    }

    /// What the operators have counted under this name, all labels together (`iotpipeline_api_writes_total`).
    ///
    /// # Errors
    /// Fails where one of them does not answer.
    pub async fn operator_counter(&self, metric: &str) -> Result<u64> {
        let pods = self.operators().await?;
        let mut sum = 0;
        for pod in &pods {
            sum += self.operator_metric(pod, metric).await?;
        }
        (!pods.is_empty()).then_some(sum).whatever_context("there is no operator")
    }

    /// The operator's pods.
    ///
    /// # Errors
    /// Fails where the API server does.
    pub async fn operators(&self) -> Result<Vec<Pod>> {
        let labels = "app.kubernetes.io/name=iotpipeline-operator,app.kubernetes.io/component=operator";
        self.pods(OPERATOR_NAMESPACE, labels).await
    }

    /// The operator that acts, once it is one of two.
    ///
    /// # Errors
    /// Fails where two act, or none does in time.
    pub async fn leader(&self) -> Result<Pod> {
        let leader = eventually(TAKEN_OVER, "one of two operators acts", async || {
            let operators = self.operators().await?;
            let mut leaders = Vec::new();
            for operator in &operators {
                if self.operator_metric(operator, "iotpipeline_leader").await? == 1 {
                    leaders.push(operator.clone());
                }
            }
            if leaders.len() > 1 {
                return Ok(Ok(None));
            }
            let leader = leaders.pop().filter(|_| operators.len() == 2);
            Ok(leader.map(Some).ok_or(format!("{} operators", operators.len())))
        })
        .await?;
        leader.whatever_context("two operators act")
    }

    /// What one operator says under this name, all labels together (`iotpipeline_leader`).
    ///
    /// # Errors
    /// Fails where it does not answer.
    pub async fn operator_metric(&self, operator: &Pod, metric: &str) -> Result<u64> {
        let metrics = self.pod_page(OPERATOR_NAMESPACE, &operator.name_any(), "metrics").await?;
        Ok(sum_of(&metrics, metric))
    }

    /// What these workers have counted under this name, all labels together.
    ///
    /// # Errors
    /// Fails where one of them does not answer.
    pub async fn worker_counter(&self, workers: &[Pod], metric: &str) -> Result<u64> {
        let mut sum = 0;
        for pod in workers {
            let namespace = pod.namespace().unwrap_or_default();
            sum += sum_of(&self.pod_page(&namespace, &pod.name_any(), "metrics").await?, metric);
        }
        Ok(sum)
    }

    /// What a pod answers at a path of its HTTP port, asked through the API server.
    ///
    /// # Errors
    /// Fails where the pod does not answer.
    pub async fn pod_page(&self, namespace: &str, pod: &str, path: &str) -> Result<String> {
        self.ask_pod(http::Method::GET, namespace, pod, path).await
    }

    /// Has a worker end as by a crash when it is at this point the next time.
    ///
    /// # Errors
    /// Fails where the worker was built without the feature `failpoints`.
    pub async fn arm_failpoint(&self, pod: &Pod, point: &str) -> Result<()> {
        let namespace = pod.namespace().unwrap_or_default();
        self.ask_pod(http::Method::POST, &namespace, &pod.name_any(), &format!("failpoints/{point}")).await?;
        Ok(())
    }

    /// Sets a worker's clock ahead by so many seconds, or back.
    ///
    /// # Errors
    /// Fails where the worker was built without the feature `failpoints`.
    pub async fn set_clock(&self, pod: &Pod, ahead: i64) -> Result<()> {
        let namespace = pod.namespace().unwrap_or_default();
        self.ask_pod(http::Method::POST, &namespace, &pod.name_any(), &format!("clock/{ahead}")).await?;
        Ok(())
    }

    async fn ask_pod(&self, method: http::Method, namespace: &str, pod: &str, path: &str) -> Result<String> {
        let port = crds::names::WORKER_HTTP_PORT;
        let request = http::Request::builder()
            .method(method.clone())
            .uri(format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path}"))
            .body(Vec::new())
            .whatever_context("failed to make a request")?;
        self.client
            .request_text(request)
            .await
            .with_whatever_context(|_| format!("failed to {method} /{path} of the pod {namespace}/{pod}"))
    }
}

/// The value of one Secret's key as text.
pub fn value_of(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    String::from_utf8(bytes.clone()).ok()
}

/// The sum of a metric over all its labels, in the OpenMetrics text format.
fn sum_of(metrics: &str, name: &str) -> u64 {
    metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_labels() {
        let metrics = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 9\n# EOF\n";
        assert_eq!(sum_of(metrics, "a_total"), 5);
        assert_eq!(sum_of(metrics, "b_total"), 0);
        assert_eq!(sum_of("a_total 7", "a_total"), 7);
    }
}
