//! The proof of delivery: a pipeline under load, one fault, and a comparison of everything that was published with
//! everything that is there afterwards. Each fault has a namespace, a topic and a table of its own.

pub(crate) mod account;
mod api_server;
mod away;
mod catalogue;
mod change;
mod clock;
mod crash;
mod delay;
mod disk;
mod memory;
mod network;
mod replay;
mod restore;
mod secrets;
mod spool;
mod table;

use std::{
    cell::Cell,
    fmt,
    time::{Duration, Instant},
};

use crds::worker::Component;
use futures::future::LocalBoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt;
use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt};
use tokio::time::sleep;

use self::{
    account::Found,
    memory::{Memory, Peaks},
};
pub use self::{
    account::{Balance, Comparison},
    catalogue::{FAULTS, SHORT},
};
use crate::{
    Result,
    cluster::Cluster,
    fleet::{Fleet, Shares},
    manifest::set,
    report::report,
    scenario::Scenario,
    volume::{self, Volume},
    wait::eventually,
};

/// How many devices publish, and how many messages a second all together.
const DEVICES: usize = 100;
const RATE: f64 = 1_000.0;

/// Some messages are late, some come twice, and some can be no row.
const SHARES: Shares = Shares { late: 0.02, repeated: 0.01, malformed: 0.01 };

/// The pipeline's partitions and processors.
const PARTITIONS: i32 = 8;
const PROCESSORS: i32 = 3;

/// How long messages flow before the fault, seconds.
const BEFORE: u64 = 6;

/// What has not come to Kafka while nothing came for so long will not come: longer than a bridge waits for its broker.
const QUIET: Duration = Duration::from_secs(30);

/// How long the pipeline may take to be as before.
const PATIENCE: Duration = Duration::from_secs(180);

/// One thing that can go wrong.
pub struct Fault {
    /// Its name, of lower-case words.
    pub name: &'static str,
    /// What may differ afterwards.
    pub comparison: Comparison,
    /// The volume of the bridge's spool, where it has one.
    spool: Option<Volume>,
    /// Makes it happen, and returns when it is over. Says what was seen of it; fails where it did not happen.
    inject: Injection,
}

type Injection = for<'a> fn(&'a Trial<'a>) -> LocalBoxFuture<'a, Result<String>>;

/// What a fault is made to happen to.
struct Trial<'a> {
    test: &'a Scenario,
    fleet: &'a Fleet,
    is_short: bool,
    name: &'static str,
    /// The longest that the pipeline took so far.
    recovered: Cell<Duration>,
}

/// What came of a fault.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What differed.
    pub balance: Balance,
    /// From the fault, or from its end where it lasts, until what was read then and before were rows; of several the
    /// longest.
    pub recovered: Duration,
    /// How much memory the workers took.
    pub memory: Peaks,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Balance { sent, rows, dead, lost, duplicated, redelivered: _ } = self.balance;
        write!(
            formatter,
            "{sent} | {rows} | {dead} | {lost} | {duplicated} | {:.1} s | {:.0} MiB | {:.0} MiB",
            self.recovered.as_secs_f64(),
            self.memory.bridge_mib,
            self.memory.processor_mib
        )
    }
}

/// Runs one fault from an empty namespace to an empty namespace. A short one holds things up for a shorter time.
///
/// # Errors
/// Fails where the fault did not happen, and where the pipeline did not recover from it.
pub async fn run(fault: &Fault, is_short: bool) -> Result<Outcome> {
    let cluster = Cluster::connect().await?;
    clean_up();
    backends_are_ready(&cluster).await?;
    let test = Scenario::set_up(fault.name).await?;
    let result = prove(fault, &test, is_short).await;
    if result.is_err() {
        eprintln!("{}", report(&test.cluster, &test.namespace).await);
    }
    clean_up();
    let cleaned = test.clean_up().await;
    let outcome = result?;
    cleaned?;
    Ok(outcome)
}

/// Ends what an interrupted fault has left of itself on this machine.
pub fn clean_up() {
    network::clean_up();
    api_server::clean_up();
}

async fn prove(fault: &Fault, test: &Scenario, is_short: bool) -> Result<Outcome> {
    let mut manifest = manifest(test, fault.comparison)?;
    if let Some(spool) = fault.spool {
        volume::make(test, spool).await?;
        manifest = volume::with_spool(test, spool, manifest)?;
    }
    test.start(&manifest).await?;
    let memory = Memory::watch(test.clone());
    let fleet = test.fleet(DEVICES, RATE, None, SHARES);
    let trial = Trial { test, fleet: &fleet, is_short, name: fault.name, recovered: Cell::default() };
    trial.flow().await?;
    sleep(trial.lasting(BEFORE)).await;

    trial.say("messages flow");
    let seen = (fault.inject)(&trial).await?;
    trial.say(&seen);
    trial.recovers().await?;
    test.ready().await?;
    let recovered = trial.recovered.get();
    trial.say(&format!("recovered after {:.1} s; counting", recovered.as_secs_f64()));

    fleet.stop();
    let ledger = fleet.finish().await.whatever_context("failed to publish")?;
    settled(test, ledger.entries.len() as i64).await?;
    table_is_free(test).await?;
    let found = Found::read(test).await?;
    let balance = account::balance(&ledger, &found, fault.comparison);
    let (redelivered, reconnected) = (balance.redelivered, ledger.lost_connections);
    println!(
        "       {}: {redelivered} records came twice; the devices lost {reconnected} connections",
        fault.name
    );
    for difference in account::explain(&ledger, &found, fault.comparison) {
        eprintln!("{}: {difference}", fault.name);
    }
    Ok(Outcome { balance, recovered, memory: memory.peaks()? })
}

fn manifest(test: &Scenario, comparison: Comparison) -> Result<Value> {
    let mut manifest = test.manifest()?;
    for (pointer, value) in [
        ("/spec/kafka/topic/partitions", json!(PARTITIONS)),
        ("/spec/processor/replicas", json!(PROCESSORS)),
        ("/spec/timescale/columns/2/nullable", json!(false)),
        // What keeps a message that MQTT delivered twice from being two rows; null where nothing does.
        ("/spec/timescale/uniqueBy", comparison.unique_by()),
    ] {
        manifest = set(manifest, pointer, value)?;
    }
    Ok(manifest)
}

impl Trial<'_> {
    /// Waits until each device has a row of something that it reads from now on, and so of everything that it read
    /// before.
    async fn flow(&self) -> Result<()> {
        let now = Timestamp::now();
        eventually(PATIENCE, &format!("each device has rows of its readings since {now}"), async || {
            let devices = self.test.table().devices_since(now).await?;
            Ok((devices == DEVICES as u64).then_some(()).ok_or(format!("{devices} of {DEVICES} devices")))
        })
        .await
    }

    /// Waits for the same, and remembers how long it took.
    async fn recovers(&self) -> Result<()> {
        let begun = Instant::now();
        self.flow().await?;
        self.recovered.set(self.recovered.get().max(begun.elapsed()));
        Ok(())
    }

    /// How long something lasts: a third of the time in a short run.
    fn lasting(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.is_short { seconds / 3 } else { seconds })
    }

    /// Waits for some moment between `from` and `to` milliseconds.
    async fn at_random(&self, from: u64, to: u64) {
        let chance = Timestamp::now().as_nanosecond().unsigned_abs() / 1_000 % u128::from(to - from);
        sleep(Duration::from_millis(from + chance as u64)).await;
    }

    /// Says how far it is.
    fn say(&self, what: &str) {
        let published = self.fleet.progress().published();
        println!("       {}: {what} ({published} published)", self.name);
    }

    /// Whatever there is of one of the workers, in the order of the names.
    async fn pods(&self, component: Component) -> Result<Vec<k8s_openapi::api::core::v1::Pod>> {
        let mut pods = self.test.workers(component).await?;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }
}

/// Waits until all that was published is in Kafka, or nothing comes any more; and until all that is in Kafka is rows or
/// dead letters.
async fn settled(test: &Scenario, published: i64) -> Result<()> {
    let (mut records, mut since) = (0, Instant::now());
    eventually(PATIENCE, &format!("{published} messages are rows or dead letters"), async || {
        let (ends, positions) = (test.kafka.ends(&test.topic()).await?, test.table().positions().await?);
        if ends.values().sum::<i64>() != records {
            (records, since) = (ends.values().sum(), Instant::now());
        }
        let have_come = records >= published || since.elapsed() > QUIET;
        let are_stored = ends.iter().all(|(partition, end)| positions.get(partition).unwrap_or(&0) == end);
        let is_settled = have_come && are_stored;
        Ok(is_settled.then_some(()).ok_or(format!("ends of the topic {ends:?}, positions {positions:?}")))
    })
    .await
}

/// Waits until the table can be altered: a worker that is gone must not hold a lock of it for long.
async fn table_is_free(test: &Scenario) -> Result<()> {
    let table = test.table().quoted();
    let lock = format!("SET LOCAL lock_timeout = '2s'; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    eventually(PATIENCE, "nobody holds the table", async || {
        test.database.hold(&lock, std::future::ready(Ok(()))).await.map(Ok)
    })
    .await
}

/// What an earlier fault broke is whole again.
async fn backends_are_ready(cluster: &Cluster) -> Result<()> {
    for (namespace, name) in away::BACKENDS {
        let sets = cluster.api::<StatefulSet>(namespace);
        eventually(PATIENCE, &format!("{name} is ready"), async || {
            let set = sets.get(name).await.whatever_context("failed to read a StatefulSet")?;
            let ready = set.status.whatever_context("it has no status")?.ready_replicas;
            Ok((ready == Some(1)).then_some(()).ok_or("it is not".to_owned()))
        })
        .await?;
    }
    Ok(())
}
