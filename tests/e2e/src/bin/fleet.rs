//! The simulated fleet as a program, for the demo and for trying a pipeline out by hand.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use e2e::fleet::{Broker, Fleet, Kind, Options, Progress, Replay, Series, Shares};
use jiff::Timestamp;
use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt, Whatever};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

/// Publishes the readings of a simulated fleet of devices to an MQTT broker, with QoS 1.
///
/// Prints a line of JSON every few seconds and one at the end. Stops on SIGTERM and SIGINT.
#[derive(Debug, Parser)]
struct Args {
    /// Where to publish, as mqtt://host:port.
    #[arg(long, default_value = "mqtt://localhost:1883")]
    url: String,
    /// The MQTT user.
    #[arg(long, env = "MQTT_USERNAME", requires = "password")]
    username: Option<String>,
    /// The MQTT user's password.
    #[arg(long, env = "MQTT_PASSWORD", hide_env_values = true, requires = "username")]
    password: Option<String>,
    /// A directory with the files `username` and `password`, such as a mounted Secret.
    #[arg(long, conflicts_with = "username")]
    credentials: Option<PathBuf>,
    /// How many devices.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    devices: u32,
    /// Messages a second, of all devices together.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Stop after so many messages of all devices together.
    #[arg(long)]
    count: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long)]
    duration: Option<u64>,
    /// The same seed gives the same devices with the same habits.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which part of the messages is minutes to hours old.
    #[arg(long, default_value_t = 0.02)]
    late: f64,
    /// Which part of the messages repeats the one before.
    #[arg(long, default_value_t = 0.01)]
    repeated: f64,
    /// Which part of the messages is malformed, in one of four ways.
    #[arg(long, default_value_t = 0.005)]
    malformed: f64,
    /// The MQTT topic of a device.
    #[arg(long, default_value = "factory/{line}/telemetry")]
    topic: String,
    /// The beginning of the MQTT client ids.
    #[arg(long, default_value = "fleet")]
    client_prefix: String,
    /// A CSV file with date,pressure,temperature,wind of each hour of a year, to play as one more device.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// How many days of the recorded series to send at once, before the present.
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(i64).range(0..=365))]
    replay_days: i64,
    /// Write one line for each acknowledged message to this file at the end: kind,device,seq,fingerprint.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Seconds between two lines of output.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    report_every: u64,
}

#[tokio::main]
#[snafu::report]
async fn main() -> Result<(), Whatever> {
    let args = Args::parse();
    let ledger_file = args.ledger.clone();
    let began = Instant::now();
    let fleet = Fleet::start(options(&args)?);
    let progress = fleet.progress();

    let end = args.duration.map(|seconds| began + Duration::from_secs(seconds));
    let reports = report(&progress, Duration::from_secs(args.report_every));
    let mut terminated = signal(SignalKind::terminate()).whatever_context("failed to listen for SIGTERM")?;
    let stopped = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
            () = sleep_until(end) => {}
        }
    };
    let ledger = tokio::select! {
        ledger = finish(fleet, stopped) => ledger?,
        () = reports => return Ok(()),
    };

    if let Some(path) = ledger_file {
        std::fs::write(&path, ledger.csv())
            .with_whatever_context(|_| format!("failed to write the ledger {}", path.display()))?;
    }
    let summary = json!({"event": "finished", "seconds": began.elapsed().as_secs_f64()});
    println!("{}", merged(summary, counts(&progress)));
    Ok(())
}

async fn finish(fleet: Fleet, stopped: impl Future<Output = ()>) -> Result<e2e::fleet::Ledger, Whatever> {
    let stop = fleet.stopper();
    let finished = fleet.finish();
    futures::pin_mut!(finished);
    tokio::select! {
        ledger = &mut finished => return ledger.whatever_context("failed to run the fleet"),
        () = stopped => stop(),
    }
    finished.await.whatever_context("failed to stop the fleet")
}

async fn sleep_until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Prints what was published, for ever.
async fn report(progress: &Progress, every: Duration) {
    let mut published_before = 0;
    loop {
        tokio::time::sleep(every).await;
        let published = progress.published();
        let rate = (published - published_before) as f64 / every.as_secs_f64();
        published_before = published;
        let (lost_connections, last_error) = progress.lost_connections();
        let line = json!({
            "event": "publishing", "time": Timestamp::now().to_string(), "rate": rate,
            "lost_connections": lost_connections, "last_error": last_error,
        });
        println!("{}", merged(line, counts(progress)));
    }
}

fn counts(progress: &Progress) -> Value {
    let counts = progress.counts();
    let malformed: u64 = counts.iter().filter(|(kind, _)| kind.is_malformed()).map(|(_, count)| count).sum();
    json!({
        "published": progress.published(),
        "late": counts.get(&Kind::Late),
        "repeated": counts.get(&Kind::Repeated),
        "malformed": malformed,
        "retried": progress.retried(),
    })
}

fn merged(mut first: Value, second: Value) -> Value {
    if let (Some(first), Value::Object(second)) = (first.as_object_mut(), second) {
        first.extend(second);
    }
    first
}

fn options(args: &Args) -> Result<Options, Whatever> {
    let replay = args
        .replay
        .as_deref()
        .map(|path| {
            let then_every = args.count.is_none().then_some(Duration::from_secs(10));
            Ok(Replay { series: series(path)?, days: args.replay_days, then_every })
        })
        .transpose()?;
    Ok(Options {
        broker: broker(args)?,
        devices: args.devices as usize,
        rate: args.rate,
        count: args.count,
        seed: args.seed,
        shares: Shares { late: args.late, repeated: args.repeated, malformed: args.malformed },
        topic: args.topic.clone(),
        client_prefix: args.client_prefix.clone(),
        keep_ledger: args.ledger.is_some(),
        replay,
    })
}

fn broker(args: &Args) -> Result<Broker, Whatever> {
    let url =
        url::Url::parse(&args.url).with_whatever_context(|_| format!("failed to read --url {}", args.url))?;
    let host =
        url.host_str().with_whatever_context(|| format!("--url {} names no host", args.url))?.to_owned();
    let credentials = match (&args.credentials, &args.username, &args.password) {
        (Some(directory), ..) => {
            Some((file(&directory.join("username"))?, file(&directory.join("password"))?))
        }
        (None, Some(username), Some(password)) => Some((username.clone(), password.clone())),
        _ => None,
    };
    Ok(Broker { host, port: url.port().unwrap_or(1883), credentials })
}

fn series(path: &Path) -> Result<Series, Whatever> {
    Series::parse(&file(path)?)
        .with_whatever_context(|_| format!("failed to read the series {}", path.display()))
}

fn file(path: &Path) -> Result<String, Whatever> {
    let text = std::fs::read_to_string(path)
        .with_whatever_context(|_| format!("failed to read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}
