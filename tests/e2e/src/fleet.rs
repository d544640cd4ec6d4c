//! A simulated fleet: many devices, each with an MQTT connection of its own, that publish believable readings
//! and, in stated shares, late, repeated and malformed messages. Does network I/O; what the devices say is
//! pure and stands in the modules.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use snafu::{ResultExt, Snafu};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

mod ledger;
mod message;
mod publisher;
mod random;
mod replay;
mod script;
mod signal;

pub use ledger::{DeadLetters, Entry, Ledger, Rows, differences};
pub use message::{Kind, Message, Reading};
pub use replay::{Error as SeriesError, Series};
pub use script::Shares;

/// Where to publish.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name and password.
    pub credentials: Option<(String, String)>,
}

/// What a fleet does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to publish.
    pub broker: Broker,
    /// How many devices.
    pub devices: usize,
    /// Messages a second, of all devices together.
    pub rate: f64,
    /// How many messages all devices together publish; without it they go on until they are stopped.
    pub count: Option<u64>,
    /// The same seed gives the same devices.
    pub seed: u64,
    /// How many messages are not as they should be.
    pub shares: Shares,
    /// The MQTT topic; `{line}` and `{device}` are replaced.
    pub topic: String,
    /// The beginning of the MQTT client ids, so that two fleets do not push each other off the broker.
    pub client_prefix: String,
    /// Whether to remember each message for [`Ledger`].
    pub keep_ledger: bool,
    /// A recorded series to play as one more device: the last days' hours at once, then the present.
    pub replay: Option<Replay>,
}

/// A recorded series and how to play it.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What was recorded.
    pub series: Series,
    /// How many days of history to send at once.
    pub days: i64,
    /// The time between two messages once the history is sent; without it the history is all.
    pub then_every: Option<Duration>,
}

/// What the fleet has done so far.
#[derive(Debug, Default)]
pub struct Progress {
    counts: [AtomicU64; Kind::ALL.len()],
    retried: AtomicU64,
    lost_connections: AtomicU64,
    last_error: Mutex<Option<String>>,
    keeps_ledger: bool,
}

/// Why a fleet ended early.
#[derive(Debug, Snafu)]
pub enum Error {
    /// A device failed.
    #[snafu(display("failed to run a device"))]
    Device {
        /// What went wrong.
        source: publisher::Error,
    },
    /// A device's task ended by itself.
    #[snafu(display("failed to wait for a device"))]
    Task {
        /// Why.
        source: tokio::task::JoinError,
    },
}

/// What the devices do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Speak,
    Pause,
    Stop,
}

/// A fleet that is publishing.
#[derive(Debug)]
pub struct Fleet {
    progress: Arc<Progress>,
    mode: watch::Sender<Mode>,
    devices: JoinSet<Result<Vec<Entry>, publisher::Error>>,
}

impl Fleet {
    /// Starts all devices.
    pub fn start(options: Options) -> Self {
        let progress = Arc::new(Progress { keeps_ledger: options.keep_ledger, ..Progress::default() });
        let (mode, modes) = watch::channel(Mode::Speak);
        let mut devices = JoinSet::new();
        for number in 0..options.devices {
            let script = script::Script::new(options.seed, number, options.shares);
            let topic = topic_of(&options.topic, script.line(), script.device());
            let client_id = format!("{}-{}", options.client_prefix, script.device());
            let pace = Pace::of_device(&options, number);
            let modes = modes.clone();
            let words = move |said| speak(script, pace, said, modes);
            devices.spawn(run_device(options.broker.clone(), client_id, topic, progress.clone(), words));
        }
        if let Some(replay) = options.replay {
            let topic = topic_of(&options.topic, replay::LINE, replay::DEVICE);
            let client_id = format!("{}-{}", options.client_prefix, replay::DEVICE);
            let modes = modes.clone();
            let words = move |said| play(replay, said, modes);
            devices.spawn(run_device(options.broker.clone(), client_id, topic, progress.clone(), words));
        }
        Self { progress, mode, devices }
    }

    /// What it has done so far.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Has the devices of scripts fall silent until [`Fleet::resume`]; what was published is still acknowledged.
    pub fn pause(&self) {
        self.mode.send_replace(Mode::Pause);
    }

    /// Has them speak again, and catch up.
    pub fn resume(&self) {
        self.mode.send_replace(Mode::Speak);
    }

    /// Lets all devices finish: what was published is still acknowledged.
    pub fn stop(&self) {
        self.mode.send_replace(Mode::Stop);
    }

    /// The same as [`Fleet::stop`], for whoever waits in [`Fleet::finish`] meanwhile.
    pub fn stopper(&self) -> impl FnOnce() + use<> {
        let mode = self.mode.clone();
        move || {
            mode.send_replace(Mode::Stop);
        }
    }

    /// Waits until all devices have finished, by their count or by [`Fleet::stop`].
    ///
    /// # Errors
    /// Fails where one device failed.
    pub async fn finish(mut self) -> Result<Ledger, Error> {
        let mut entries = Vec::new();
        while let Some(device) = self.devices.join_next().await {
            entries.extend(device.context(TaskSnafu)?.context(DeviceSnafu)?);
        }
        Ok(Ledger { entries, lost_connections: self.progress.lost_connections().0 })
    }
}

impl Progress {
    /// How many messages of each kind the broker has acknowledged.
    pub fn counts(&self) -> BTreeMap<Kind, u64> {
        Kind::ALL
            .into_iter()
            .zip(&self.counts)
            .map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
            .collect()
    }

    /// How many messages the broker has acknowledged.
    pub fn published(&self) -> u64 {
        self.counts().values().sum()
    }

    /// How many publications were made again.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// How often a connection was lost or could not be made, and why the last time.
    pub fn lost_connections(&self) -> (u64, Option<String>) {
        let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.lost_connections.load(Ordering::Relaxed), last_error)
    }

    fn count(&self, kind: Kind) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn retry(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    fn lost_connection(&self, error: &str) {
        self.lost_connections.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_owned());
    }
}

/// When one device speaks.
#[derive(Clone, Copy, Debug)]
struct Pace {
    first_after: Duration,
    every: Duration,
    count: Option<u64>,
}

impl Pace {
    /// Devices take turns, so that the fleet's messages are spread evenly over time.
    fn of_device(options: &Options, number: usize) -> Self {
        let devices = options.devices as f64;
        let every = Duration::from_secs_f64((devices / options.rate.max(0.001)).max(0.001));
        let count = options.count.map(|count| {
            let (each, rest) = (count / options.devices as u64, count % options.devices as u64);
            each + u64::from((number as u64) < rest)
        });
        Self { first_after: every.mul_f64(number as f64 / devices), every, count }
    }
}

fn topic_of(template: &str, line: &str, device: &str) -> String {
    template.replace("{line}", line).replace("{device}", device)
}

async fn run_device<Words: Future<Output = ()>>(
    broker: Broker,
    client_id: String,
    topic: String,
    progress: Arc<Progress>,
    words: impl FnOnce(mpsc::Sender<Message>) -> Words,
) -> Result<Vec<Entry>, publisher::Error> {
    let (said, heard) = mpsc::channel(1);
    let publishing = publisher::publish_all(&broker, client_id, topic.clone(), heard, &progress);
    let words = async {
        words(said).await;
        tokio::time::sleep(publisher::LAST_WORDS).await;
    };
    tokio::select! {
        entries = publishing => entries,
        () = words => publisher::UnacknowledgedSnafu { topic }.fail(),
    }
}

async fn stopped(modes: &mut watch::Receiver<Mode>) {
    // Whoever drops the fleet has its devices dropped too.
    let _ = modes.wait_for(|mode| *mode == Mode::Stop).await;
}

/// Says the messages of a script, one each tick. A device that was held up catches up.
async fn speak(
    mut script: script::Script,
    pace: Pace,
    said: mpsc::Sender<Message>,
    mut modes: watch::Receiver<Mode>,
) {
    let mut ticks = interval_at(Instant::now() + pace.first_after, pace.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut left = pace.count.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut modes) => return,
        }
        if modes.wait_for(|mode| *mode != Mode::Pause).await.is_ok_and(|mode| *mode == Mode::Stop) {
            return;
        }
        let message = script.next(Timestamp::now());
        tokio::select! {
            sent = said.send(message) => if sent.is_err() { return },
            () = stopped(&mut modes) => return,
        }
        left -= 1;
    }
}

/// Plays a series: its history at once, then the present at an interval.
async fn play(replay: Replay, said: mpsc::Sender<Message>, mut modes: watch::Receiver<Mode>) {
    let mut seq = 0;
    let mut message = |kind, time| {
        seq += 1;
        Message::new(kind, replay.series.read(seq, time))
    };
    for time in Series::hours_before(Timestamp::now(), replay.days) {
        tokio::select! {
            sent = said.send(message(Kind::Late, time)) => if sent.is_err() { return },
            () = stopped(&mut modes) => return,
        }
    }
    let Some(every) = replay.then_every else { return };
    let mut ticks = interval_at(Instant::now() + every, every);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut modes) => return,
        }
        let now = script::to_the_millisecond(Timestamp::now());
        if said.send(message(Kind::OnTime, now)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(devices: usize, rate: f64, count: Option<u64>) -> Options {
        Options {
            broker: Broker { host: "broker".to_owned(), port: 1883, credentials: None },
            devices,
            rate,
            count,
            seed: 1,
            shares: Shares::NONE,
            topic: "factory/{line}/telemetry".to_owned(),
            client_prefix: "fleet".to_owned(),
            keep_ledger: true,
            replay: None,
        }
    }

    #[test]
    fn all_devices_together_publish_the_count_at_the_rate() {
        let options = options(7, 70.0, Some(100));
        let paces: Vec<Pace> = (0..7).map(|number| Pace::of_device(&options, number)).collect();
        assert_eq!(paces.iter().filter_map(|pace| pace.count).sum::<u64>(), 100);
        assert!(paces.iter().all(|pace| pace.every == Duration::from_millis(100)));
        assert!(paces.windows(2).all(|pair| pair[0].first_after < pair[1].first_after));
    }

    #[tokio::test]
    async fn devices_pause_go_on_and_stop() {
        let (mode, modes) = watch::channel(Mode::Speak);
        let (said, mut heard) = mpsc::channel(1);
        let pace = Pace { first_after: Duration::ZERO, every: Duration::from_millis(1), count: None };
        let speaking = tokio::spawn(speak(script::Script::new(1, 0, Shares::NONE), pace, said, modes));
        let silence = Duration::from_millis(50);
        heard.recv().await.unwrap();
        mode.send_replace(Mode::Pause);
        // What was on the tip of its tongue, and then nothing.
        while tokio::time::timeout(silence, heard.recv()).await.is_ok() {}
        assert!(tokio::time::timeout(silence, heard.recv()).await.is_err());
        mode.send_replace(Mode::Speak);
        heard.recv().await.unwrap();
        mode.send_replace(Mode::Pause);
        mode.send_replace(Mode::Stop);
        speaking.await.unwrap();
    }

    #[test]
    fn a_topic_names_line_and_device() {
        assert_eq!(topic_of("a/{line}/b/{device}", "line-1", "press-000"), "a/line-1/b/press-000");
    }
}
