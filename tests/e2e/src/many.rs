//! Many pipelines on one operator: what it takes, with a real API server, a real Kafka and a real TimescaleDB. Nodes and
//! pods are kwok's, and what workers say of themselves is said by [`workers`].

pub mod audit;
pub mod backends;
pub mod control_plane;
pub mod operator;
pub mod pipelines;
pub mod process;
pub mod workers;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use snafu::{OptionExt, ResultExt};
use tokio::time::sleep;

use self::{
    audit::Calls,
    backends::Backends,
    control_plane::ControlPlane,
    operator::{Operator, Usage},
    pipelines::Pipelines,
};
use crate::{Result, bench::process::machine_cpu_seconds, wait::eventually};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// What is measured, and with what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many pipelines.
    pub pipelines: usize,
    /// How long the operator is watched at rest, once it has looked at each pipeline again.
    pub rest: Duration,
    /// How often Kafka and the database are compared with the spec.
    pub resync: Duration,
    /// The operator's binary.
    pub operator: PathBuf,
    /// Where Kubernetes' binaries are.
    pub kubernetes: PathBuf,
    /// Where etcd's binary is.
    pub etcd: PathBuf,
    /// Where kwok's binary is.
    pub kwok: PathBuf,
    /// Where logs and files go.
    pub directory: PathBuf,
    /// Kafka, `host:port`.
    pub kafka: String,
    /// The server of TimescaleDB: a superuser's URI, whose database is only connected to.
    pub timescale: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// From the first `apply` until every spec was brought about.
    pub applied: Duration,
    /// From the first `apply` until every pipeline was Ready.
    pub ready: Duration,
    /// The most memory that the operator had resident until then, and at rest, MiB.
    pub peak_rss_mib: f64,
    /// The memory at the end of the rest.
    pub rss_mib: f64,
    /// Processors at rest: 0.1 is a tenth of one.
    pub cpu_at_rest: f64,
    /// Calls of the Kubernetes API at rest that read, each second.
    pub idle_reads: f64,
    /// Calls of the Kubernetes API at rest that write, all together.
    pub idle_writes: usize,
    /// Calls of the Kubernetes API for one edit.
    pub edit_calls: usize,
    /// From an edit until it was brought about.
    pub edit: Duration,
    /// From the deletion of a Deployment until there was another one.
    pub drift: Duration,
    /// From the start of an operator until it had looked at all pipelines.
    pub restart: Duration,
}

/// Measures it all.
///
/// # Errors
/// Fails where something does not start or takes for ever.
pub async fn measure(settings: &Settings) -> Result<Figures> {
    std::fs::create_dir_all(&settings.directory)
        .with_whatever_context(|_| format!("failed to make {}", settings.directory.display()))?;
    let backends = Backends::create(&settings.kafka, &settings.timescale).await?;
    let result = measure_with(settings, &backends).await;
    backends.remove().await?;
    result
}

async fn measure_with(settings: &Settings, backends: &Backends) -> Result<Figures> {
    let _workers = workers::serve().await?;
    let cluster = ControlPlane::start(settings).await?;
    let pipelines = Pipelines::new(&cluster, backends, settings.pipelines).await?;
    let operator = Operator::start(settings, &cluster)?;
    operator.wait_until_ready().await?;
    println!("the control plane and the operator run");

    let begun = Instant::now();
    let (busy, mark) = (Processors::used(&cluster, &operator)?, cluster.audit_log().mark()?);
    pipelines.create().await?;
    println!("{:>7.1} s  created {} pipelines", begun.elapsed().as_secs_f64(), settings.pipelines);
    let applied = pipelines.wait_until("applied", pipelines::is_applied, begun).await?;
    let ready = pipelines.wait_until("Ready", pipelines::is_ready, begun).await?;
    let peak_rss_mib = operator.usage()?.peak_rss_mib;
    println!("  {}", tell(&operator.usage()?));
    println!("  CPU-seconds until Ready: {}", Processors::used(&cluster, &operator)?.since(&busy));
    println!("  calls until Ready: {}", cluster.audit_log().calls_since(mark)?);

    let (cpu_at_rest, rest) = at_rest(settings, &cluster, &operator).await?;
    let rss_mib = operator.usage()?.rss_mib;
    let (edit, edit_calls) = edit(&cluster, &pipelines).await?;
    let drift = drift(&pipelines).await?;
    operator.stop().await?;
    let restart = restart(settings, &cluster).await?;
    Ok(Figures {
        applied,
        ready,
        peak_rss_mib,
        rss_mib,
        cpu_at_rest,
        idle_reads: rest.reads as f64 / settings.rest.as_secs_f64(),
        idle_writes: rest.writes,
        edit_calls,
        edit,
        drift,
        restart,
    })
}

/// Who has used how much of the processors, seconds; what is not named is that of everybody else on the machine.
struct Processors {
    named: Vec<(String, f64)>,
    machine: f64,
}

impl Processors {
    fn used(cluster: &ControlPlane, operator: &Operator) -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").whatever_context("failed to read /proc/stat")?;
        let machine = machine_cpu_seconds(&stat).whatever_context("failed to read processor times")?;
        let operator = ("operator", operator.usage()?.cpu_seconds);
        let named = cluster.cpu_seconds()?.into_iter().chain([operator]);
        Ok(Self { named: named.map(|(name, seconds)| (name.to_owned(), seconds)).collect(), machine })
    }

    fn since(&self, before: &Self) -> String {
        let used =
            self.named.iter().zip(&before.named).map(|((name, now), (_, then))| (name.as_str(), now - then));
        let used: Vec<_> = used.collect();
        let machine = self.machine - before.machine;
        let others = machine - used.iter().map(|(_, seconds)| seconds).sum::<f64>();
        let used = used.into_iter().chain([("Kafka, TimescaleDB and all else", others)]);
        let used: Vec<_> = used.map(|(name, seconds)| format!("{name} {seconds:.0}")).collect();
        format!("{machine:.0}: {}", used.join(", "))
    }
}

fn tell(usage: &Usage) -> String {
    let Usage { cpu_seconds, rss_mib, file_rss_mib, peak_rss_mib, threads, files } = usage;
    format!(
        "operator: {cpu_seconds:.1} CPU-seconds, {rss_mib:.1} MiB resident (at most {peak_rss_mib:.1}), of them \
         {file_rss_mib:.1} of files, {threads} threads, {files} files and connections"
    )
}

/// Processors used, and calls made, once the operator has looked at each pipeline again.
async fn at_rest(settings: &Settings, cluster: &ControlPlane, operator: &Operator) -> Result<(f64, Calls)> {
    sleep(settings.resync.mul_f64(1.5)).await;
    let (before, begun) = (operator.usage()?, Instant::now());
    let mark = cluster.audit_log().mark()?;
    sleep(settings.rest).await;
    let after = operator.usage()?;
    let processors = (after.cpu_seconds - before.cpu_seconds) / begun.elapsed().as_secs_f64();
    let calls = cluster.audit_log().calls_since(mark)?;
    println!("at rest for {} s: {processors:.3} processors, {calls}", settings.rest.as_secs());
    println!("  {}", tell(&after));
    Ok((processors, calls))
}

/// How long one edit takes and how many calls are made for it.
async fn edit(cluster: &ControlPlane, pipelines: &Pipelines) -> Result<(Duration, usize)> {
    let name = pipelines.first();
    let (mark, begun) = (cluster.audit_log().mark()?, Instant::now());
    pipelines.edit_first().await?;
    eventually(PATIENCE, "the edit is applied", async || pipelines.first_is_settled().await).await?;
    let took = begun.elapsed();
    let calls = cluster.audit_log().calls_about(&name, mark)?;
    println!("one edit: {:.1} s, {calls}", took.as_secs_f64());
    Ok((took, calls.reads + calls.writes))
}

/// How long it takes until a Deployment that somebody deleted is there again.
async fn drift(pipelines: &Pipelines) -> Result<Duration> {
    let deleted = pipelines.delete_first_deployment().await?;
    let begun = Instant::now();
    eventually(PATIENCE, "the Deployment is there again", async || {
        pipelines.first_has_another_deployment(&deleted).await
    })
    .await?;
    println!("one drift: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(begun.elapsed())
}

/// How long an operator that starts needs until it has looked at all pipelines.
async fn restart(settings: &Settings, cluster: &ControlPlane) -> Result<Duration> {
    let begun = Instant::now();
    let mark = cluster.audit_log().mark()?;
    let operator = Operator::start(settings, cluster)?;
    eventually(PATIENCE, "all pipelines are looked at", async || {
        let looked_at = operator.metric("iotpipeline_reconciles_total").await? as usize;
        let still = format!("{looked_at} of {} are", settings.pipelines);
        Ok(if looked_at >= settings.pipelines { Ok(()) } else { Err(still) })
    })
    .await?;
    let took = begun.elapsed();
    println!("restart: {:.1} s, {}", took.as_secs_f64(), cluster.audit_log().calls_since(mark)?);
    println!("  {}", tell(&operator.usage()?));
    operator.stop().await?;
    Ok(took)
}
