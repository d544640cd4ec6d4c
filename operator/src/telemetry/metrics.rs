//! The operator's own metrics. No I/O.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crds::status::{ConditionType, LagStatus};
use kube::runtime::reflector::Store;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{
    error::Error,
    memory::{PipelineKey, key_of},
    packed::Packed,
    reconcile::status::find,
    scale::{Scaling, bridges, policy::Inputs},
};

/// The pipelines that one watch has seen.
pub type PipelineStore = Store<Packed>;

/// The operator's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Counter,
    failures: Family<FailureLabels, Counter>,
    durations: Histogram,
    writes: Family<WriteLabels, Counter>,
    leader: Gauge,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FailureLabels {
    category: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WriteLabels {
    verb: &'static str,
    kind: String,
}

/// Counts the pipelines of all watches, and tells of each how it is, at the moment of the scrape: so nothing can drift.
#[derive(Debug)]
struct Pipelines(Vec<PipelineStore>);

/// How one pipeline is.
struct Health {
    key: PipelineKey,
    is_ready: bool,
    /// Why it is ready, or is not.
    reason: String,
    lag: Option<LagStatus>,
}

/// Tells what was decided about the numbers of processors and bridges, at the moment of the scrape.
#[derive(Debug)]
struct Decisions(Arc<Scaling>);

/// What of the inputs of a decision is told; `None` where it is not known.
type Figure = fn(&Inputs) -> Option<f64>;

impl Metrics {
    /// Notes one finished reconciliation.
    pub fn record_reconcile(&self, duration: Duration, result: Result<(), &Error>) {
        self.reconciles.inc();
        self.durations.observe(duration.as_secs_f64());
        if let Err(error) = result {
            self.failures.get_or_create(&FailureLabels { category: error.category() }).inc();
        }
    }

    /// Notes one write to the Kubernetes API.
    pub fn record_write(&self, verb: &'static str, kind: impl fmt::Display) {
        self.writes.get_or_create(&WriteLabels { verb, kind: kind.to_string() }).inc();
    }

    /// Notes whether this operator acts, or stands by while another does.
    pub fn record_leader(&self, acts: bool) {
        self.leader.set(acts.into());
    }

    /// From now on the pipelines in these stores are counted.
    pub fn count_pipelines(&self, stores: Vec<PipelineStore>) {
        self.lock().register_collector(Box::new(Pipelines(stores)));
    }

    /// From now on what is decided about the number of processors is told.
    pub fn tell_decisions(&self, scaling: Arc<Scaling>) {
        self.lock().register_collector(Box::new(Decisions(scaling)));
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// Fails where a metric has no text form.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut body = String::new();
        text::encode(&mut body, &self.lock())?;
        Ok(body)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("iotpipeline");
        let reconciles = Counter::default();
        registry.register("reconciles", "Finished reconciliations", reconciles.clone());
        let failures = Family::default();
        registry.register("reconcile_failures", "Failed reconciliations by category", failures.clone());
        // From 10 ms to 40 s: a reconciliation at rest takes tens of milliseconds, one that waits for two dead
        // stores some 20 seconds.
        let durations = Histogram::new(exponential_buckets(0.01, 2.0, 13));
        registry.register(
            "reconcile_duration_seconds",
            "Duration of reconciliations, waits for outside systems included",
            durations.clone(),
        );
        let writes = Family::default();
        registry.register("api_writes", "Writes to the Kubernetes API by verb and kind", writes.clone());
        let leader = Gauge::default();
        registry.register("leader", "1 where this operator acts, 0 where it stands by", leader.clone());
        Self { registry: Arc::new(Mutex::new(registry)), reconciles, failures, durations, writes, leader }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Collector for Pipelines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let pipelines: Vec<_> =
            self.0.iter().flat_map(Store::state).map(|pipeline| Health::of(&pipeline)).collect();
        let ready = pipelines.iter().filter(|pipeline| pipeline.is_ready).count();
        let mut family =
            encoder.encode_descriptor("pipelines", "IoTPipelines by readiness", None, MetricType::Gauge)?;
        for (label, count) in [("true", ready), ("false", pipelines.len() - ready)] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("ready", label)])?)?;
        }
        encode_readiness(&pipelines, &mut encoder)?;
        encode_lag(&pipelines, &mut encoder)
    }
}

impl Collector for Decisions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let decisions = self.0.decisions();
        let mut family = encoder.encode_descriptor(
            "autoscaling_desired_replicas",
            "Processors that there shall be, by reason",
            None,
            MetricType::Gauge,
        )?;
        for ((namespace, pipeline), decision) in &decisions {
            let reason: &str = decision.reason.into();
            let labels = [("namespace", namespace.as_str()), ("pipeline", pipeline), ("reason", reason)];
            ConstGauge::new(i64::from(decision.desired)).encode(family.encode_family(&labels)?)?;
        }
        let figures: [(&str, &str, Figure); 6] = [
            ("lag_messages", "Messages that wait in partitions that move", |inputs| Some(inputs.lag as f64)),
            ("arrival_rate", "Messages a second that come", |inputs| Some(inputs.arrival)),
            ("drained_rate", "Messages a second that become rows", |inputs| Some(inputs.drained)),
            ("capacity_rate", "Messages a second that the processors can take", |inputs| inputs.capacity),
            ("stuck_partitions", "Partitions that do not move", |inputs| Some(inputs.stuck as f64)),
            ("database_wait_ratio", "Share of the time that processors wait for the database", |inputs| {
                inputs.waiting
            }),
        ];
        for (name, help, figure) in figures {
            let name = format!("autoscaling_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for ((namespace, pipeline), decision) in &decisions {
                let Some(figure) = figure(&decision.inputs) else { continue };
                let labels = [("namespace", namespace.as_str()), ("pipeline", pipeline)];
                ConstGauge::new(figure).encode(family.encode_family(&labels)?)?;
            }
        }
        encode_bridges(&self.0.bridge_decisions(), &mut encoder)
    }
}

fn encode_readiness(pipelines: &[Health], encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(
        "pipeline_ready",
        "1 where messages become rows, 0 where a person should look",
        None,
        MetricType::Gauge,
    )?;
    for Health { key: (namespace, name), is_ready, reason, .. } in pipelines {
        let labels = [("namespace", namespace), ("pipeline", name), ("reason", reason)];
        ConstGauge::new(i64::from(*is_ready)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_lag(pipelines: &[Health], encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let messages: fn(&LagStatus) -> i64 = |lag| lag.messages;
    for (name, help, figure) in [
        ("pipeline_lag_messages", "Messages in the topic that are not rows yet", messages),
        ("pipeline_lag_seconds", "Age of the oldest of them, estimated", |lag| lag.seconds),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for Health { key: (namespace, name), lag, .. } in pipelines {
            let Some(lag) = lag else { continue };
            let labels = [("namespace", namespace), ("pipeline", name)];
            ConstGauge::new(figure(lag)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_bridges(
    decisions: &[(PipelineKey, bridges::Decision)],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(
        "bridge_autoscaling_desired_replicas",
        "Bridges that there shall be, by reason",
        None,
        MetricType::Gauge,
    )?;
    for ((namespace, pipeline), decision) in decisions {
        let reason: &str = decision.reason.into();
        let labels = [("namespace", namespace.as_str()), ("pipeline", pipeline), ("reason", reason)];
        ConstGauge::new(i64::from(decision.desired)).encode(family.encode_family(&labels)?)?;
    }
    let mut family = encoder.encode_descriptor(
        "bridge_autoscaling_message_rate",
        "Messages a second that bridges receive",
        None,
        MetricType::Gauge,
    )?;
    for ((namespace, pipeline), decision) in decisions {
        let Some(rate) = decision.rate else { continue };
        let labels = [("namespace", namespace.as_str()), ("pipeline", pipeline)];
        ConstGauge::new(rate).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Health {
    /// That of a pipeline which can be read and was looked at; of another one nothing is known.
    fn of(pipeline: &Packed) -> Self {
        let status = pipeline.unpack().0.ok().and_then(|pipeline| pipeline.status).unwrap_or_default();
        let ready = find(&status.conditions, ConditionType::Ready);
        Self {
            key: key_of(pipeline),
            is_ready: ready.is_some_and(|ready| ready.status == "True"),
            reason: ready.map_or("Unknown", |ready| ready.reason.as_str()).to_owned(),
            lag: status.lag,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crds::{IoTPipelineStatus, status::Reason};
    use jiff::Timestamp;
    use kube::runtime::{reflector::store::Writer, watcher};

    use super::*;
    use crate::{
        reconcile::{health::Finding, status::condition},
        test_support::{QUICKSTART, object},
    };

    #[test]
    fn alerts_look_at_metrics_that_there_are() {
        let chart = include_str!("../../../charts/iotpipeline-operator/tests/everything.rendered.yaml");
        let documented = include_str!("../../../docs/metrics.md");
        let words = chart.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let used: BTreeSet<_> = words.filter(|word| word.starts_with("iotpipeline_")).collect();
        assert!(used.len() >= 8, "{used:?}");
        let is_documented = |metric: &&&str| documented.contains(&format!("\n| `{metric}"));
        let unknown: Vec<_> = used.iter().filter(|metric| !is_documented(metric)).collect();
        assert_eq!(unknown, [&""; 0]);
    }

    /// One pipeline that is not ready.
    fn store() -> PipelineStore {
        let mut pipeline = object(QUICKSTART);
        let finding = Finding::fails(Reason::KafkaUnreachable, "away");
        let ready = condition(ConditionType::Ready, Some(finding), None, None, Timestamp::now());
        pipeline.status = Some(IoTPipelineStatus {
            conditions: vec![ready],
            lag: Some(LagStatus { messages: 7, seconds: 90 }),
            ..IoTPipelineStatus::default()
        });
        let mut writer = Writer::default();
        let pipeline = serde_json::from_value(serde_json::to_value(pipeline).unwrap()).unwrap();
        writer.apply_watcher_event(&watcher::Event::Apply(pipeline));
        writer.as_reader()
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_one_exists() {
        let metrics = Metrics::default();
        // Without a value a metric with labels is not encoded.
        metrics.record_reconcile(
            Duration::from_millis(20),
            Err(&Error::CleanUp { message: "Kafka does not answer".to_owned() }),
        );
        metrics.record_write("patch", "Deployment");
        metrics.count_pipelines(vec![store()]);
        metrics.tell_decisions(Arc::new(crate::scale::tests::with_a_decision()));
        assert_eq!(encoded(&metrics.encode().unwrap()), documented());
    }

    /// The metrics in the operator's table of the document, each as `name{label,label} type`.
    fn documented() -> BTreeSet<String> {
        let document = include_str!("../../../docs/metrics.md");
        let section = document.split("\n## ").find(|text| text.starts_with("Operator\n")).unwrap();
        section
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| `")?.split(" | ");
                Some(format!("{} {}", cells.next()?.trim_end_matches('`'), cells.next()?))
            })
            .collect()
    }

    /// The metrics in an answer to `GET /metrics`, in the same form.
    fn encoded(answer: &str) -> BTreeSet<String> {
        let declared = answer.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        declared
            .map(|(name, kind)| {
                let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
                let begin = format!("{name}{{");
                let labels = answer.lines().find_map(|line| line.strip_prefix(&begin)?.split_once('}'));
                let labels = labels.map(|(labels, _)| {
                    let names: Vec<_> = labels
                        .split(',')
                        .filter_map(|label| label.split_once('='))
                        .map(|(name, _)| name)
                        .collect();
                    format!("{{{}}}", names.join(","))
                });
                format!("{name}{} {kind}", labels.unwrap_or_default())
            })
            .collect()
    }

    #[test]
    fn metrics_have_the_documented_names() {
        let metrics = Metrics::default();
        metrics.record_reconcile(Duration::from_millis(20), Ok(()));
        metrics.record_write("patch", "Deployment");
        metrics.record_leader(true);
        metrics.count_pipelines(vec![store()]);
        let text = metrics.encode().unwrap();
        for line in [
            "iotpipeline_leader 1\n",
            "iotpipeline_reconciles_total 1\n",
            "iotpipeline_reconcile_duration_seconds_count 1\n",
            "iotpipeline_api_writes_total{verb=\"patch\",kind=\"Deployment\"} 1\n",
            "iotpipeline_pipelines{ready=\"true\"} 0\n",
            "iotpipeline_pipelines{ready=\"false\"} 1\n",
            "iotpipeline_pipeline_ready{namespace=\"plant-7\",pipeline=\"line\",reason=\"KafkaUnreachable\"} 0\n",
            "iotpipeline_pipeline_lag_messages{namespace=\"plant-7\",pipeline=\"line\"} 7\n",
            "iotpipeline_pipeline_lag_seconds{namespace=\"plant-7\",pipeline=\"line\"} 90\n",
        ] {
            assert!(text.contains(&format!("\n{line}")), "{line} is not in\n{text}");
        }
    }
}
