//! A worker as a plain process, and what it has used: processor time and memory, as the kernel counts them.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use crds::worker::{WorkerConfig, WorkerStatus};
use snafu::{OptionExt, ResultExt, whatever};
use tokio::time::sleep;

use crate::Result;

/// How often a worker is asked how far it is. Also how exact the measured times are.
pub const LOOK: Duration = Duration::from_millis(10);

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The unit of processor time in /proc: Linux shows hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the worker's image (`images/build`) sets for its allocator.
const ENVIRONMENT: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "10");

/// A running worker; killed when dropped.
pub struct Worker {
    child: Child,
    http: SocketAddr,
}

/// What a process has used since it began.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time of all its threads, in user and kernel mode.
    pub cpu_seconds: f64,
    /// The most memory that was resident at any moment, MiB.
    pub peak_rss_mib: f64,
}

impl Worker {
    /// Starts a worker that finds its Secrets in `directory` and logs there.
    ///
    /// # Errors
    /// Fails where it cannot be started.
    pub fn start(binary: &Path, directory: &Path, config: &WorkerConfig) -> Result<Self> {
        let component = config.component();
        let file = directory.join(format!("{component}.json"));
        let json = serde_json::to_vec(config).whatever_context("failed to write JSON")?;
        fs::write(&file, json).with_whatever_context(|_| format!("failed to write {}", file.display()))?;
        let log = directory.join(format!("{component}.log"));
        let log =
            File::create(&log).with_whatever_context(|_| format!("failed to write {}", log.display()))?;
        let http = free_address().whatever_context("failed to find a free port")?;
        let command = match component {
            crds::worker::Component::Bridge => "bridge",
            crds::worker::Component::Processor => "process",
        };
        let child = Command::new(binary)
            .args([command, "--http-address", &http.to_string()])
            .args(["--config".as_ref(), file.as_os_str()])
            .args(["--secrets".as_ref(), directory.as_os_str()])
            .env(ENVIRONMENT.0, ENVIRONMENT.1)
            .stdout(log)
            .spawn()
            .with_whatever_context(|_| format!("failed to start {}", binary.display()))?;
        Ok(Self { child, http })
    }

    /// What it says of itself; `None` while it does not answer.
    pub fn status(&self) -> Option<WorkerStatus> {
        serde_json::from_str(&self.page("/status")?).ok()
    }

    /// The sum of a metric without labels; 0 where it was never counted.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.page("/metrics")?;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(Some(0.0), |value| value.parse().ok())
    }

    fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    /// Looks again and again until it is as `holds` says; answers when that was seen.
    ///
    /// # Errors
    /// Fails where it ends before, or after [`PATIENCE`].
    pub async fn wait_until(
        &mut self,
        what: &str,
        mut holds: impl AsyncFnMut(&Self) -> Result<bool>,
    ) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if holds(self).await? {
                return Ok(Instant::now());
            }
            if let Some(status) = self.child.try_wait().whatever_context("failed to look at a worker")? {
                whatever!("the worker ended ({status}) before {what}");
            }
            if Instant::now() > deadline {
                whatever!("gave up after {} s waiting until {what}", PATIENCE.as_secs());
            }
            sleep(LOOK).await;
        }
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// Fails where it has ended.
    pub fn usage(&self) -> Result<Usage> {
        let read = |name: &str| {
            let path = format!("/proc/{}/{name}", self.child.id());
            fs::read_to_string(&path).with_whatever_context(|_| format!("failed to read {path}"))
        };
        Ok(Usage {
            cpu_seconds: cpu_seconds(&read("stat")?).whatever_context("failed to read processor times")?,
            peak_rss_mib: peak_rss_mib(&read("status")?).whatever_context("failed to read VmHWM")?,
        })
    }

    /// SIGTERM; waits for the end.
    ///
    /// # Errors
    /// Fails where it does not end by itself.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().whatever_context("failed to run kill")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.child.try_wait().whatever_context("failed to look at a worker")?.is_none() {
            if Instant::now() > deadline {
                whatever!("a worker does not stop");
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Neither works on a worker that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and kernel time: the 14th and 15th field of /proc/PID/stat, of which the second, the name in
/// parentheses, may hold anything.
pub(crate) fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// Processor time of everything on this machine since it started, in user and kernel mode, by /proc/stat.
pub(crate) fn machine_cpu_seconds(stat: &str) -> Option<f64> {
    // user, nice, system, idle, iowait, irq, softirq
    let times: Vec<f64> = stat
        .strip_prefix("cpu ")?
        .lines()
        .next()?
        .split_whitespace()
        .map_while(|time| time.parse().ok())
        .collect();
    let [user, nice, system, _, _, irq, softirq, ..] = times.as_slice() else { return None };
    Some((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

/// The most memory that was resident at any moment, MiB, as /proc/PID/status has it.
pub fn peak_rss_mib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes / 1024.0)
}

/// An address at which nobody listens now.
pub(crate) fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_user_and_kernel_time() {
        let stat = "71 (a) b) R 1 71 71 0 -1 4194304 92 0 0 0 150 25 7 7 20 0 3 0 8900 2703360 300 18446744";
        assert_eq!(cpu_seconds(stat), Some(1.75));
    }

    #[test]
    fn memory_is_what_was_resident_at_most() {
        assert_eq!(peak_rss_mib("VmPeak:\t  90000 kB\nVmHWM:\t   51200 kB\nVmRSS:\t  100 kB\n"), Some(50.0));
    }

    #[test]
    fn a_machine_has_used_what_it_did_not_idle() {
        let stat = "cpu  100 20 30 900 50 1 2 0 0 0\ncpu0 1 2 3 4 5 6 7 0 0 0\n";
        assert_eq!(machine_cpu_seconds(stat), Some(1.53));
        assert_eq!(machine_cpu_seconds("intr 1"), None);
    }
}
