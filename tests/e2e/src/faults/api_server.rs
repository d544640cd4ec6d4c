//! A Kubernetes whose API server does not answer: its process stands still.

use snafu::whatever;
use tokio::time::sleep;

use super::Trial;
use crate::{
    Result,
    pods::{processes, send},
};

const PROGRAM: &str = "kube-apiserver";

/// How long, seconds.
const AWAY: u64 = 300;

/// Stops the API server. Messages become rows all the while.
pub async fn away(trial: &Trial<'_>) -> Result<String> {
    trial.at_random(500, 3_000).await;
    signal("STOP")?;
    let goes_on = goes_on(trial).await;
    signal("CONT")?;
    goes_on?;
    Ok(format!("the API server did not answer for {:?}", trial.lasting(AWAY)))
}

async fn goes_on(trial: &Trial<'_>) -> Result<()> {
    trial.recovers().await?;
    trial.say("messages become rows without the API server");
    sleep(trial.lasting(AWAY)).await;
    trial.recovers().await
}

/// Lets it go on where an interrupted fault has stopped it.
pub fn clean_up() {
    // Fails where there is none.
    let _ = signal("CONT");
}

fn signal(signal: &str) -> Result<()> {
    let servers = processes(|process| process.runs(PROGRAM) && process.shares_our_network());
    if servers.is_empty() {
        whatever!("found no {PROGRAM} of the local cluster: run this by tests/e2e/cluster/run");
    }
    send(signal, &servers)
}
