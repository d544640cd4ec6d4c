//! Disks that are too small: file systems in memory, mounted where a process of the node sees them.

use std::{path::PathBuf, process::Command};

use snafu::{ResultExt, whatever};

use crate::Result;

/// More than anything needs that is run here, bytes.
const ENOUGH: i64 = 1 << 30;

/// One of them.
pub struct Disk {
    process: PathBuf,
    directory: PathBuf,
}

impl Disk {
    /// Mounts one where a process (its directory in `/proc`) sees it. `options` are those of a tmpfs.
    ///
    /// # Errors
    /// Fails where the kernel does not do it.
    pub fn mount(process: PathBuf, directory: PathBuf, bytes: i64, options: &str) -> Result<Self> {
        let disk = Self::at(process, directory);
        let path =
            disk.process.join("root").join(disk.directory.strip_prefix("/").unwrap_or(&disk.directory));
        std::fs::create_dir_all(&path)
            .with_whatever_context(|_| format!("failed to make {}", path.display()))?;
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes},{options}"), "disk"])?;
        Ok(disk)
    }

    /// The disk at a directory where one is mounted.
    pub fn at(process: PathBuf, directory: PathBuf) -> Self {
        Self { process, directory }
    }

    /// Makes it larger than anything needs that is run here.
    ///
    /// # Errors
    /// Fails where the kernel does not do it.
    pub fn enlarge(&self) -> Result<()> {
        self.resize(ENOUGH)
    }

    /// What is on it stays.
    ///
    /// # Errors
    /// Fails where the kernel does not do it.
    pub fn resize(&self, bytes: i64) -> Result<()> {
        self.run("mount", &["-o", &format!("remount,size={bytes}")])
    }

    /// What is on it is gone.
    ///
    /// # Errors
    /// Fails where the kernel does not do it.
    pub fn unmount(&self) -> Result<()> {
        self.run("umount", &[])
    }

    /// Mounts as the process sees it.
    fn run(&self, command: &str, arguments: &[&str]) -> Result<()> {
        let done = Command::new(command)
            .arg("--namespace")
            .arg(self.process.join("ns/mnt"))
            .args(arguments)
            .arg(&self.directory)
            .output();
        let done = done.with_whatever_context(|_| format!("failed to run {command}"))?;
        if done.status.success() {
            return Ok(());
        }
        whatever!("{command} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr))
    }
}
