//! The backends' own administration: users, passwords and rights, as whoever runs them would set them.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use snafu::{OptionExt, ResultExt, whatever};
use tokio::task::spawn_blocking;

use crate::Result;

/// Runs lines of `tests/e2e/cluster/kafka-admin`.
///
/// # Errors
/// Fails where one of them does.
pub async fn kafka_admin(lines: String) -> Result<()> {
    run("kafka-admin", Vec::new(), lines).await
}

/// Makes a user of Mosquitto, or changes the user's password.
///
/// # Errors
/// Fails where Mosquitto does not take it.
pub async fn mqtt_password(user: &str, password: &str) -> Result<()> {
    run("mqtt-password", vec![user.to_owned()], password.to_owned()).await
}

/// Runs a script of the local cluster; what nobody should read goes to its standard input.
pub(crate) async fn run(script: &'static str, arguments: Vec<String>, input: String) -> Result<()> {
    let path = format!("{}/cluster/{script}", env!("CARGO_MANIFEST_DIR"));
    let finished = spawn_blocking(move || -> Result<()> {
        let mut child = Command::new(&path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_whatever_context(|_| format!("failed to run {path}"))?;
        let mut stdin = child.stdin.take().whatever_context("the script has no input")?;
        stdin.write_all(input.as_bytes()).whatever_context("failed to write to the script")?;
        drop(stdin);
        let output = child.wait_with_output().whatever_context("failed to wait for the script")?;
        if !output.status.success() {
            whatever!("{script} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    });
    finished.await.with_whatever_context(|_| format!("failed to wait for {script}"))?
}
