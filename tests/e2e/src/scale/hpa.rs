//! A HorizontalPodAutoscaler of Kubernetes on the scale subresource (`processor.mode: External`). It decides by the lag of
//! the consumer group, as one that KEDA makes does, and the operator copies what it writes.
//!
//! It is the real one, of the cluster's kube-controller-manager. What it asks for metrics is an API that adapters serve
//! (`external.metrics.k8s.io`); here that is a custom resource of the same shape, which this program keeps up to date.

use std::time::{Duration, Instant};

use crds::{
    names::{default_consumer_group, worker_name},
    status::ConditionType,
    worker::Component,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt, whatever};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Figures,
    hands::{Hands, changes, longest_apart},
    step::{Redelivery, account, manifest_with},
};
use crate::{
    Result,
    cluster::USER,
    fleet::{Ledger, Shares},
    scenario::{PIPELINE, Scenario, condition, in_namespace},
    wait::eventually,
};

/// The metric, and so the plural of the resource.
const METRIC: &str = "lag";
const GROUP: &str = "external.metrics.k8s.io";
const VERSION: &str = "v1beta1";
const KIND: &str = "ExternalMetricValue";

/// How often the metric is told anew, and how often to look.
const PERIOD: Duration = Duration::from_secs(1);

/// How long there is little load, and how long much, in turn.
const LITTLE: Duration = Duration::from_secs(240);
const MUCH: Duration = Duration::from_secs(60);

/// How long the Deployment may differ from what the autoscaler wrote.
const COPIED: Duration = Duration::from_secs(10);

/// How long the API server may take to serve a new resource.
const SERVED: Duration = Duration::from_secs(60);

/// What the pipeline is scaled with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long, in minutes.
    pub minutes: u64,
    /// Messages a second, most of the time.
    pub low: f64,
    /// Messages a second for one minute of five.
    pub high: f64,
    /// Devices that publish, in each of two fleets.
    pub devices: usize,
    /// The limit of each processor's CPU, as Kubernetes writes it.
    pub cpu: String,
    /// The topic's partitions; there may be as many processors.
    pub partitions: i32,
    /// How many messages may wait for each processor (`lagThreshold` in KEDA's words).
    pub threshold: u64,
}

/// Lets the autoscaler scale a pipeline, from an empty namespace to an empty namespace.
///
/// # Errors
/// Fails where it never changes anything, or the operator does not leave its hands off.
pub async fn run(options: &Options) -> Result<Figures> {
    in_namespace("hpa", async |test: &Scenario| {
        let (result, removed) = (prove(options, test).await, remove_metric(test).await);
        let figures = result?;
        removed?;
        Ok(figures)
    })
    .await
}

async fn prove(options: &Options, test: &Scenario) -> Result<Figures> {
    // The number of processors is the autoscaler's to write.
    let processor = json!({"mode": "External"});
    test.start(&manifest_with(processor, &options.cpu, options.partitions, test)?).await?;
    serve_metric(test).await?;
    let hpas = test.cluster.api::<HorizontalPodAutoscaler>(&test.namespace);
    let applied = hpas.patch(PIPELINE, &PatchParams::apply(USER), &Patch::Apply(autoscaler(options))).await;
    applied.whatever_context("failed to apply the HorizontalPodAutoscaler")?;

    let base = test.fleet_named("base", options.devices, options.low, None, Shares::NONE);
    let looking = tokio::spawn(keep_looking(test.clone(), Duration::from_secs(options.minutes * 60)));
    let mut more = Ledger { entries: Vec::new(), lost_connections: 0 };
    let count = ((options.high - options.low) * MUCH.as_secs_f64()) as u64;
    for turn in 0.. {
        tokio::time::sleep(LITTLE).await;
        if looking.is_finished() {
            break;
        }
        let name = format!("turn-{turn}");
        let fleet =
            test.fleet_named(&name, options.devices, options.high - options.low, Some(count), Shares::NONE);
        let ledger = fleet.finish().await.whatever_context("failed to publish")?;
        more.entries.extend(ledger.entries);
        more.lost_connections += ledger.lost_connections;
    }
    let seen = looking.await.whatever_context("failed to wait for the looks")?;
    let (wanted, had) = (changes(&seen, |hands| hands.wanted), changes(&seen, |hands| hands.had));
    let (apart, unready) = (longest_apart(&seen), seen.iter().filter(|hands| !hands.is_ready).count());
    println!(
        "hpa: minutes={} changes={wanted} copied={had} longest_apart_s={:.0} not_ready_s={unready}",
        options.minutes,
        apart.as_secs_f64()
    );
    let figures = account(test, base, Some(more), Redelivery::Impossible).await?;
    if wanted < 2 {
        whatever!(
            "the autoscaler changed the number {wanted} times: take a higher rate, or a lower limit of CPU"
        );
    }
    if apart > COPIED || had > wanted {
        whatever!(
            "the Deployment was not what the autoscaler wrote for {} s, or was changed more often",
            apart.as_secs()
        );
    }
    Ok(figures)
}

/// Tells the metric and looks what becomes of it, again and again.
async fn keep_looking(test: Scenario, lasting: Duration) -> Vec<Hands> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begun, mut seen) = (Instant::now(), Vec::<Hands>::new());
    while begun.elapsed() < lasting {
        ticks.tick().await;
        // A busy server that does not answer is asked again.
        let Ok(hands) = look(&test, begun).await else { continue };
        if seen.last().is_none_or(|last| last.wanted != hands.wanted) {
            println!("{:>6.1}s  {} processors are wanted", hands.at.as_secs_f64(), hands.wanted);
        }
        seen.push(hands);
    }
    seen
}

async fn look(test: &Scenario, begun: Instant) -> Result<Hands> {
    let group = default_consumer_group(&test.namespace, PIPELINE);
    tell(test, test.kafka.lag_of_group(&test.topic(), &group).await?).await?;
    let at = begun.elapsed();
    let pipeline = test.cluster.pipelines(&test.namespace).get(PIPELINE).await;
    let pipeline = pipeline.whatever_context("failed to read the pipeline")?;
    let processors = worker_name(PIPELINE, Component::Processor);
    let deployment = test.cluster.api::<Deployment>(&test.namespace).get(&processors).await;
    let deployment = deployment.whatever_context("failed to read the Deployment")?;
    Ok(Hands {
        at,
        wanted: pipeline.spec.processor.replicas,
        had: deployment.spec.and_then(|spec| spec.replicas).whatever_context("it has no replicas")?,
        is_ready: condition(&pipeline, ConditionType::Ready).is_some_and(|ready| ready.status == "True"),
    })
}

fn autoscaler(options: &Options) -> Value {
    json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": PIPELINE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "iotpipeline.dev/v1alpha1", "kind": "IoTPipeline", "name": PIPELINE},
            "minReplicas": 1,
            "maxReplicas": options.partitions,
            "metrics": [{"type": "External", "external": {
                "metric": {"name": METRIC},
                "target": {"type": "AverageValue", "averageValue": options.threshold.to_string()},
            }}],
            // So that it comes down within the low turns.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        },
    })
}

/// Has the API server serve the metric.
async fn serve_metric(test: &Scenario) -> Result<()> {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": definition_name(),
            "annotations": {"api-approved.kubernetes.io": "unapproved, stands for a metrics adapter in a test"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"plural": METRIC, "singular": METRIC, "kind": KIND, "listKind": format!("{KIND}List")},
            "versions": [{"name": VERSION, "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    });
    let definitions: Api<CustomResourceDefinition> = Api::all(test.cluster.client.clone());
    let applied = definitions
        .patch(&definition_name(), &PatchParams::apply(USER).force(), &Patch::Apply(definition))
        .await;
    applied.whatever_context("failed to apply the resource of the metric")?;
    eventually(SERVED, "the metric is served", async || tell(test, 0).await.map(Ok)).await
}

async fn remove_metric(test: &Scenario) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(test.cluster.client.clone());
    match definitions.delete(&definition_name(), &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).whatever_context("failed to delete the resource of the metric"),
    }
}

fn definition_name() -> String {
    format!("{METRIC}.{GROUP}")
}

async fn tell(test: &Scenario, lag: u64) -> Result<()> {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, KIND);
    let resource = ApiResource::from_gvk_with_plural(&kind, METRIC);
    let metrics: Api<DynamicObject> =
        Api::namespaced_with(test.cluster.client.clone(), &test.namespace, &resource);
    let value = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {"name": PIPELINE},
        "metricName": METRIC,
        "metricLabels": {},
        "timestamp": Timestamp::now().to_string(),
        "value": lag.to_string(),
    });
    let told = metrics.patch(PIPELINE, &PatchParams::apply(USER).force(), &Patch::Apply(value)).await;
    told.whatever_context("failed to tell the metric")?;
    Ok(())
}
