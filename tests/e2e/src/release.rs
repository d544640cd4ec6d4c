//! The operator's release, as tests/e2e/install makes it.

use std::process::Command;

use snafu::{ResultExt, whatever};
use tokio::task::spawn_blocking;

use crate::{Result, cluster::OPERATOR_NAMESPACE};

const NAME: &str = "iotpipeline";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/iotpipeline-operator");

/// Upgrades it to the same chart with some other values, and waits for the operators.
///
/// # Errors
/// Fails where helm does.
pub async fn upgrade(values: &'static [&'static str]) -> Result<()> {
    helm(&["upgrade", NAME, CHART, "--reuse-values"], values).await
}

/// Goes back to what there was before, and waits for the operators.
///
/// # Errors
/// Fails where helm does.
pub async fn roll_back() -> Result<()> {
    helm(&["rollback", NAME], &[]).await
}

async fn helm(command: &'static [&'static str], values: &'static [&'static str]) -> Result<()> {
    let run = move || {
        let how = ["--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "180s"];
        let values = values.iter().map(|value| format!("--set={value}"));
        Command::new("helm").args(command).args(values).args(how).output()
    };
    let done = spawn_blocking(run).await.whatever_context("failed to wait for helm")?;
    let done = done.whatever_context("failed to run helm")?;
    if done.status.success() {
        return Ok(());
    }
    whatever!("helm {} failed: {}", command.join(" "), String::from_utf8_lossy(&done.stderr))
}
