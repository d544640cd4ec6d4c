//! A program that runs while it is held.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use snafu::{OptionExt, ResultExt, whatever};
use tokio::time::sleep;

use crate::{Result, bench::process::cpu_seconds};

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a program that logs into `directory`.
    ///
    /// # Errors
    /// Fails where it cannot be started.
    pub fn start(name: &str, directory: &Path, command: &mut Command) -> Result<Self> {
        let path = directory.join(format!("{name}.log"));
        let log =
            File::create(&path).with_whatever_context(|_| format!("failed to write {}", path.display()))?;
        let errors =
            log.try_clone().with_whatever_context(|_| format!("failed to write {}", path.display()))?;
        let child = command
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_whatever_context(|_| format!("failed to start {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its name and the processor time that all its threads have used, seconds.
    ///
    /// # Errors
    /// Fails where it has ended.
    pub fn cpu_seconds(&self) -> Result<(&str, f64)> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))
            .with_whatever_context(|_| format!("failed to look at {}", self.name))?;
        let seconds = cpu_seconds(&stat).whatever_context("failed to read processor times")?;
        Ok((&self.name, seconds))
    }

    /// Looks whether it still runs.
    ///
    /// # Errors
    /// Fails where it has ended.
    pub fn check(&mut self) -> Result<()> {
        let ended =
            self.child.try_wait().with_whatever_context(|_| format!("failed to look at {}", self.name))?;
        if let Some(status) = ended {
            whatever!("{} has ended ({status}); see its log", self.name);
        }
        Ok(())
    }

    /// SIGTERM; waits for the end.
    ///
    /// # Errors
    /// Fails where it does not end by itself.
    pub async fn stop(mut self) -> Result<()> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().whatever_context("failed to run kill")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self
            .child
            .try_wait()
            .with_whatever_context(|_| format!("failed to look at {}", self.name))?
            .is_none()
        {
            if Instant::now() > deadline {
                whatever!("{} does not stop", self.name);
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither works on a program that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
