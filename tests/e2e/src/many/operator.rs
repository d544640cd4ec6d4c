//! The operator as a process, and what it uses.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use snafu::{OptionExt, ResultExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Settings, control_plane::ControlPlane, process::Process};
use crate::{
    Result,
    bench::process::{cpu_seconds, free_address, peak_rss_mib},
    wait::eventually,
};

/// What the operator's image (`images/build`) sets for its allocator.
const ENVIRONMENT: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// A running operator; killed when dropped.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    http: SocketAddr,
}

/// What the operator has used so far, and has now.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time of all its threads, in user and kernel mode.
    pub cpu_seconds: f64,
    /// Resident memory, MiB.
    pub rss_mib: f64,
    /// What of it are pages of files, most of them of the binary, MiB.
    pub file_rss_mib: f64,
    /// The most memory that was resident at any moment, MiB.
    pub peak_rss_mib: f64,
    /// Its threads.
    pub threads: usize,
    /// Its open files, connections included.
    pub files: usize,
}

impl Operator {
    /// Starts it for the namespace of the pipelines. There is no other one, so no election.
    ///
    /// # Errors
    /// Fails where it cannot be started.
    pub fn start(settings: &Settings, cluster: &ControlPlane) -> Result<Self> {
        let http = free_address().whatever_context("failed to find a free port")?;
        let mut command = Command::new(&settings.operator);
        command
            .args(["--cluster-name=many", "--worker-image=worker:simulated", "--worker-ingress-from=[]"])
            .arg("--watch-any-namespace")
            .arg(format!("--http-address={http}"))
            .arg(format!("--resync={}s", settings.resync.as_secs()))
            .env("KUBECONFIG", cluster.operator_kubeconfig())
            .env(ENVIRONMENT.0, ENVIRONMENT.1);
        Ok(Self { process: Process::start("operator", &settings.directory, &mut command)?, http })
    }

    /// Waits until it says that it acts.
    ///
    /// # Errors
    /// Fails where it does not within a minute.
    pub async fn wait_until_ready(&self) -> Result<()> {
        eventually(Duration::from_secs(60), "the operator is ready", async || {
            let answer = self.page("/readyz").await?;
            Ok(if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) })
        })
        .await
    }

    /// What it has counted under this name; 0 where it was never counted.
    ///
    /// # Errors
    /// Fails where it does not answer.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let page = self.page("/metrics").await?;
        let values =
            page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// What it has used so far, and has now.
    ///
    /// # Errors
    /// Fails where it has ended.
    pub fn usage(&self) -> Result<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.process.id()));
        let read = |name: &str| {
            let path = process.join(name);
            fs::read_to_string(&path).with_whatever_context(|_| format!("failed to read {}", path.display()))
        };
        let status = read("status")?;
        let files =
            fs::read_dir(process.join("fd")).whatever_context("failed to list the operator's files")?;
        Ok(Usage {
            cpu_seconds: cpu_seconds(&read("stat")?).whatever_context("failed to read processor times")?,
            rss_mib: number(&status, "VmRSS:").whatever_context("failed to read VmRSS")? / 1024.0,
            file_rss_mib: number(&status, "RssFile:").whatever_context("failed to read RssFile")? / 1024.0,
            peak_rss_mib: peak_rss_mib(&status).whatever_context("failed to read VmHWM")?,
            threads: number(&status, "Threads:").whatever_context("failed to read Threads")? as usize,
            files: files.count(),
        })
    }

    /// Has it end in good order.
    ///
    /// # Errors
    /// Fails where it does not.
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await
    }

    async fn page(&self, path: &str) -> Result<String> {
        let ask = async {
            let mut stream = TcpStream::connect(self.http).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        ask.await.with_whatever_context(|_| format!("failed to read {path} of the operator"))
    }
}

/// The first number of a line of /proc/PID/status.
fn number(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_status_begins_with_its_number() {
        let status = "Name:\toperator\nVmRSS:\t    2048 kB\nThreads:\t9\n";
        assert_eq!((number(status, "VmRSS:"), number(status, "Threads:")), (Some(2048.0), Some(9.0)));
        assert_eq!(number(status, "VmSwap:"), None);
    }
}
