//! Faults between a worker and a server, by rules of the kernel's packet filter: pods reach each other through the
//! node's network, in which this runs.

use std::process::{Command, Output};

use crds::worker::Component;
use snafu::{OptionExt, ResultExt, whatever};
use tokio::time::{Instant, sleep};

use super::{Trial, away::Backend, delay::Delay};
use crate::Result;

/// How long a connection is cut, seconds. Longer than the session of a processor in its consumer group.
const CUT: u64 = 45;

/// How long connections are reset again and again, seconds, how often, and for how long each time.
const RESETTING: u64 = 30;
const RESET_EVERY: std::time::Duration = std::time::Duration::from_secs(2);
const RESET: std::time::Duration = std::time::Duration::from_millis(300);

/// How long everything is late, seconds, and by how much on each way.
const DELAYING: u64 = 30;
const LATENCY: std::time::Duration = std::time::Duration::from_millis(250);

/// The chains that hold the rules, and from where they are called. Nothing else has chains of this name.
const CHAIN: &str = "IOTPIPELINE-FAULTS";
const CALLED_FROM: [(&str, &str); 2] = [("filter", "FORWARD"), ("nat", "PREROUTING")];

/// A worker and a server that it speaks to.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The worker.
    pub component: Component,
    /// The server.
    pub backend: Backend,
    /// Whether it happens to one of the workers only.
    pub only_one: bool,
}

/// The bridge and its source.
pub const BRIDGE_MOSQUITTO: Pair = pair(Component::Bridge, Backend::Mosquitto);
/// The bridge and its sink.
pub const BRIDGE_KAFKA: Pair = pair(Component::Bridge, Backend::Kafka);
/// The processors and their source.
pub const PROCESSOR_KAFKA: Pair = pair(Component::Processor, Backend::Kafka);
/// One processor and its source: the others take its partitions over, while it still reaches the database.
pub const ONE_PROCESSOR_KAFKA: Pair = Pair { only_one: true, ..PROCESSOR_KAFKA };
/// The processors and their sink.
pub const PROCESSOR_DATABASE: Pair = pair(Component::Processor, Backend::Timescale);

const fn pair(component: Component, backend: Backend) -> Pair {
    Pair { component, backend, only_one: false }
}

/// Drops every packet between the two, so that neither side hears that the other one is gone.
pub async fn cut(trial: &Trial<'_>, pair: Pair) -> Result<String> {
    let rules = Rules::new()?;
    rules.between(&pair.addresses(trial).await?, pair.backend.port(), &["DROP"])?;
    trial.say(&format!("{pair} is cut"));
    sleep(trial.lasting(CUT)).await;
    let dropped = rules.packets()?;
    if dropped == 0 {
        whatever!("no packet was dropped");
    }
    Ok(format!("{dropped} packets were dropped between {pair}"))
}

/// Resets all connections between the two, every two seconds.
pub async fn resets(trial: &Trial<'_>, pair: Pair) -> Result<String> {
    let rules = Rules::new()?;
    let (mut times, mut packets) = (0, 0);
    let end = Instant::now() + trial.lasting(RESETTING);
    while Instant::now() < end {
        reset(trial, &rules, pair).await?;
        times += u32::from(rules.packets()? > 0);
        packets += rules.packets()?;
        rules.flush()?;
        sleep(RESET_EVERY - RESET).await;
    }
    if times < 3 {
        whatever!("connections were reset {times} times only");
    }
    Ok(format!("connections between {pair} were reset {times} times, by {packets} packets"))
}

/// Lets everything that the two say to each other arrive late.
pub async fn latency(trial: &Trial<'_>, pair: Pair) -> Result<String> {
    let rules = Rules::new()?;
    let delay = Delay::start(pair.backend.address(), LATENCY).await?;
    for address in pair.addresses(trial).await? {
        rules.redirect(&address, pair.backend.port(), delay.port())?;
    }
    // Only new connections are led astray.
    reset(trial, &rules, pair).await?;
    rules.flush()?;
    trial.say(&format!("{pair} is late"));
    sleep(trial.lasting(DELAYING)).await;
    let bytes = delay.bytes();
    if bytes == 0 {
        whatever!("nothing was late");
    }
    Ok(format!("{bytes} bytes between {pair} were {LATENCY:?} late"))
}

/// Resets all connections between the two, once.
pub async fn reset_once(trial: &Trial<'_>, pair: Pair) -> Result<()> {
    reset(trial, &Rules::new()?, pair).await
}

async fn reset(trial: &Trial<'_>, rules: &Rules, pair: Pair) -> Result<()> {
    let with = ["REJECT", "--reject-with", "tcp-reset"];
    rules.between(&pair.addresses(trial).await?, pair.backend.port(), &with)?;
    sleep(RESET).await;
    Ok(())
}

impl std::fmt::Display for Pair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { component, backend, only_one } = self;
        write!(formatter, "{}{component} and {backend:?}", if *only_one { "one " } else { "" })
    }
}

impl Pair {
    /// The workers' addresses.
    async fn addresses(&self, trial: &Trial<'_>) -> Result<Vec<String>> {
        let pods = trial.pods(self.component).await?;
        let addresses = pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
        let addresses: Vec<String> = addresses.take(if self.only_one { 1 } else { usize::MAX }).collect();
        (!addresses.is_empty()).then_some(addresses).whatever_context("there is no worker with an address")
    }
}

/// Rules that go with this value.
struct Rules;

impl Rules {
    fn new() -> Result<Self> {
        clean_up();
        let rules = Self;
        for (table, from) in CALLED_FROM {
            iptables(&["-t", table, "-N", CHAIN])?;
            iptables(&["-t", table, "-I", from, "-j", CHAIN])?;
        }
        Ok(rules)
    }

    /// What becomes of packets between these addresses and the port of a server.
    fn between(&self, addresses: &[String], port: u16, target: &[&str]) -> Result<()> {
        let port = port.to_string();
        for address in addresses {
            for (direction, side) in [("-s", "--dport"), ("-d", "--sport")] {
                let rule = ["-A", CHAIN, direction, address, "-p", "tcp", side, &port, "-j"];
                iptables(&[&rule, target].concat())?;
            }
        }
        Ok(())
    }

    /// Leads new connections from an address to a server's port to a port of this process.
    fn redirect(&self, address: &str, port: u16, here: u16) -> Result<()> {
        let (port, here) = (port.to_string(), here.to_string());
        let rule = ["-t", "nat", "-A", CHAIN, "-s", address, "-p", "tcp", "--dport", &port];
        iptables(&[&rule[..], &["-j", "REDIRECT", "--to-ports", &here]].concat())?;
        Ok(())
    }

    /// How many packets met a rule.
    fn packets(&self) -> Result<u64> {
        let listed = iptables(&["-nvxL", CHAIN])?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        // Two lines of headings.
        let counts =
            listed.lines().skip(2).filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }

    fn flush(&self) -> Result<()> {
        iptables(&["-F", CHAIN])?;
        Ok(())
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        clean_up();
    }
}

/// Removes all rules, also those of a run that was interrupted.
pub fn clean_up() {
    for (table, from) in CALLED_FROM {
        // Each fails where there is nothing to remove.
        for rule in [&["-D", from, "-j", CHAIN][..], &["-F", CHAIN], &["-X", CHAIN]] {
            let _ = iptables(&[&["-t", table], rule].concat());
        }
    }
}

fn iptables(arguments: &[&str]) -> Result<Output> {
    let done = Command::new("iptables").arg("--wait").args(arguments).output();
    let done = done.whatever_context("failed to run iptables")?;
    if done.status.success() {
        return Ok(done);
    }
    whatever!("iptables {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr))
}
