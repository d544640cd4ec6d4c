//! The load step: a pipeline under little load gets much of it for a while, then little again, and the operator follows.
//! Messages go the whole way, from devices over MQTT and Kafka into the table, and all of them are accounted for.

use std::time::Duration;

use serde_json::{Value, json};
use snafu::{ResultExt, Whatever, whatever};

use super::{
    Figures, Followed,
    looks::{Change, Look, Looks, changes, drained_at, needed, reaction, turns},
};
use crate::{
    Result,
    faults::{
        Comparison,
        account::{Found, balance, explain},
    },
    fleet::{Fleet, Ledger, Shares},
    manifest::set,
    scenario::{Scenario, in_namespace},
    wait::eventually,
};

/// How long there is little load at first.
const BEFORE: Duration = Duration::from_secs(60);

/// How long the lag may take to be gone once the load is little again.
const DRAINED: Duration = Duration::from_secs(600);

/// How long it may take until there are as few processors as at first: twice as long as fewer must have sufficed, and some.
const DOWN: Duration = Duration::from_secs(900);

/// The goal of `targetDrain`.
const TARGET_DRAIN: Duration = Duration::from_secs(30);

/// How large the step is, and what it is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages a second before and after.
    pub low: f64,
    /// Messages a second during the step.
    pub high: f64,
    /// How long the step lasts, seconds, where the broker keeps up.
    pub seconds: u64,
    /// Devices that publish, in each of the two fleets.
    pub devices: usize,
    /// The limit of each processor's CPU, as Kubernetes writes it.
    pub cpu: String,
    /// The topic's partitions; there may be as many processors.
    pub partitions: i32,
}

/// Runs the step from an empty namespace to an empty namespace.
///
/// # Errors
/// Fails where the number of processors does not follow, or the lag does not go.
pub async fn run(options: &Options) -> Result<Figures> {
    in_namespace("scale", async |test: &Scenario| prove(options, test).await).await
}

async fn prove(options: &Options, test: &Scenario) -> Result<Figures> {
    let Options { low, high, seconds, devices, partitions, .. } = *options;
    test.start(&manifest(options, test)?).await?;
    let looks = Looks::watch(test.clone());
    let base = test.fleet_named("base", devices, low, None, Shares::NONE);
    say(&looks, &format!("{low:.0} messages a second, {partitions} partitions, {} CPU", options.cpu));
    tokio::time::sleep(BEFORE).await;
    let before = looks.seen();
    let Some(first) = before.last() else { whatever!("nothing was seen of the pipeline") };
    // What is on its way is no lag, nor what waited while the devices came.
    let steady = before.iter().filter(|look| look.at >= BEFORE / 2);
    let usual = steady.map(|look| look.lag).max().unwrap_or(0).max(low as i64) * 2;

    say(&looks, &format!("{high:.0} messages a second, for {seconds} s; a lag is what is more than {usual}"));
    let stepped = looks.elapsed();
    let more = ((high - low) * seconds as f64) as u64;
    let ledger = test.fleet_named("step", devices, high - low, Some(more), Shares::NONE).finish().await;
    let step = ledger.whatever_context("failed to publish")?;
    let lasted = looks.elapsed() - stepped;
    let published = more as f64 / lasted.as_secs_f64() + low;
    let during = looks.seen();
    let measured = during.last().and_then(|look| look.decision.as_ref());
    say(&looks, &format!("{published:.0} a second were published; {low:.0} again"));
    if !during.iter().any(|look| look.at >= stepped && look.lag > usual) {
        whatever!(
            "nothing ever waited, so nothing was to be done: take a higher rate, or a lower limit of CPU"
        );
    }

    let drained = until(&looks, DRAINED, "the lag is gone", |seen| drained_at(seen, stepped, usual)).await?;
    let Some(reaction) = reaction(&looks.seen(), stepped, usual) else {
        whatever!("one processor does all of it: take a higher rate, or a lower limit of CPU");
    };
    say(
        &looks,
        &format!("more processors were asked for {:.1} s after there was a lag", reaction.as_secs_f64()),
    );
    let down = until(&looks, DOWN, &format!("{} processors are enough again", first.replicas), |seen| {
        let last = seen.last().filter(|look| look.at > drained && look.replicas <= first.replicas)?;
        Some(last.at)
    })
    .await?;
    let seen = looks.seen();
    let changes = changes(&seen, stepped);
    for Change { at, from, to, reason } in &changes {
        let reason = reason.map_or("not told".to_owned(), |reason| reason.to_string());
        println!("{:>6.1}s  {from} processors became {to}: {reason}", at.as_secs_f64());
    }
    let most = seen.iter().map(|look| look.replicas).max().unwrap_or(0);
    let needed = measured.and_then(|measured| needed(published, partitions, measured));
    let overshoot = needed.map_or("?".to_owned(), |needed| (most - needed).max(0).to_string());
    let needed = needed.map_or("an unknown number".to_owned(), |needed| needed.to_string());
    let most_lag = seen.iter().map(|look| look.lag).max().unwrap_or(0);
    say(&looks, &format!("{most} processors at most, where {needed} were needed; {most_lag} waited at most"));
    drop(looks);
    let figures = account(test, base, Some(step), Redelivery::Impossible).await?;
    println!(
        "step: rate={published:.0} seconds={:.0} most_replicas={most} overshoot={overshoot} down_s={:.0} turns={}",
        lasted.as_secs_f64(),
        (down - drained).as_secs_f64(),
        turns(&changes),
    );
    Ok(Figures { followed: Some(Followed { reaction, drained: drained - stepped }), ..figures })
}

fn manifest(options: &Options, test: &Scenario) -> Result<Value> {
    let processor = json!({
        "mode": "BuiltIn",
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": options.partitions,
        "targetDrain": format!("{}s", TARGET_DRAIN.as_secs()),
    });
    manifest_with(processor, &options.cpu, options.partitions, test)
}

/// A pipeline with so many partitions and such processors, which get so much CPU each.
pub(super) fn manifest_with(processor: Value, cpu: &str, partitions: i32, test: &Scenario) -> Result<Value> {
    let resources = json!({
        "requests": {"cpu": "10m", "memory": "64Mi"},
        "limits": {"cpu": cpu, "memory": "256Mi"},
    });
    let manifest = set(test.manifest()?, "/spec/kafka/topic/partitions", json!(partitions))?;
    let manifest = set(manifest, "/spec/processor", processor)?;
    set(manifest, "/spec/processor/resources", resources)
}

/// Whether the broker has a reason to deliver messages to bridges again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Redelivery {
    Impossible,
    Possible,
}

/// Has the last devices stop, waits until all is stored, and compares it with their ledger and that of others.
pub(super) async fn account(
    test: &Scenario,
    base: Fleet,
    others: Option<Ledger>,
    redelivery: Redelivery,
) -> Result<Figures> {
    let mut ledger = test.halt(base).await?;
    if let Some(others) = others {
        ledger.entries.extend(others.entries);
        ledger.lost_connections += others.lost_connections;
    }
    test.drained(&ledger).await?;
    let found = Found::read(test).await?;
    // A device that lost its connection may have said something twice.
    let is_exact = redelivery == Redelivery::Impossible && ledger.lost_connections == 0;
    let comparison = if is_exact { Comparison::Exact } else { Comparison::MqttMayRepeat };
    let balance = balance(&ledger, &found, comparison);
    for difference in explain(&ledger, &found, comparison) {
        eprintln!("{difference}");
    }
    println!(
        "         {} messages, {} rows, {} dead letters; the devices lost {} connections",
        balance.sent, balance.rows, balance.dead, ledger.lost_connections
    );
    Ok(Figures { lost: balance.lost, duplicated: balance.duplicated, ..Figures::default() })
}

/// Waits until what was seen answers.
async fn until<T>(
    looks: &Looks,
    deadline: Duration,
    what: &str,
    ask: impl Fn(&[Look]) -> Option<T>,
) -> Result<T, Whatever> {
    let answer = eventually(deadline, what, async || {
        let seen = looks.seen();
        Ok(ask(&seen).ok_or_else(|| format!("seen last: {:?}", seen.last())))
    })
    .await?;
    say(looks, what);
    Ok(answer)
}

fn say(looks: &Looks, what: &str) {
    let last = looks.seen().pop();
    let so_far = last.map_or(String::new(), |look| {
        format!(" ({} wait, {} of {} processors ready)", look.lag, look.ready, look.replicas)
    });
    println!("{:>6.1}s  {what}{so_far}", looks.elapsed().as_secs_f64());
}
