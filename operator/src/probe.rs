//! `iotpipeline-operator probe URL`: asks a URL until it answers with success. `helm test` runs it, because the
//! image holds neither a shell nor another HTTP client.

use std::{
    ffi::OsString,
    time::{Duration, Instant},
};

use clap::Parser;
use reqwest::Url;
use snafu::{ResultExt, Snafu};

const BETWEEN_TRIES: Duration = Duration::from_secs(1);
const PATIENCE_PER_TRY: Duration = Duration::from_secs(5);

/// Asks a URL until it answers with success.
#[derive(Clone, Debug, Parser)]
#[command(name = "iotpipeline-operator probe")]
pub struct Probe {
    /// What to ask, such as http://iotpipeline-operator:8080/readyz.
    url: Url,

    /// How long to go on asking, in seconds.
    #[arg(long, default_value_t = 60)]
    timeout_seconds: u64,
}

/// Why a probe failed.
#[derive(Debug, Snafu)]
pub enum Error {
    /// Nothing answered.
    #[snafu(display("failed to ask {url}"))]
    Ask {
        /// What was asked.
        url: Url,
        /// Why not.
        source: reqwest::Error,
    },
    /// The answer was no success.
    #[snafu(display("failed to find {url} well: it answered {status}: {body}"))]
    Answer {
        /// What was asked.
        url: Url,
        /// The HTTP status.
        status: reqwest::StatusCode,
        /// What it said.
        body: String,
    },
}

impl Probe {
    /// The probe that the command line asks for; `None` where it asks for something else.
    pub fn asked_for(command_line: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = command_line.into_iter().skip(1).peekable();
        arguments.peek().is_some_and(|first| first == "probe").then(|| Self::parse_from(arguments))
    }

    /// Asks until it succeeds, and says what the last try met where none did.
    ///
    /// # Errors
    /// The time is over: what was wrong the last time.
    pub async fn run(self) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout_seconds);
        loop {
            let Err(error) = ask(&self.url).await else {
                println!("{} is well", self.url);
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }
}

async fn ask(url: &Url) -> Result<(), Error> {
    let request = || async {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE_PER_TRY).build()?;
        let response = client.get(url.clone()).send().await?;
        Ok((response.status(), response.text().await?))
    };
    let (status, body) = request().await.context(AskSnafu { url: url.clone() })?;
    if !status.is_success() {
        return AnswerSnafu { url: url.clone(), status, body }.fail();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, routing::get};

    use super::*;

    fn asked_for(words: &[&str]) -> Option<Probe> {
        Probe::asked_for(words.iter().map(OsString::from))
    }

    async fn probe_of(path: &str) -> Result<(), String> {
        let routes = Router::new()
            .route("/well", get(async || "ok"))
            .route("/ill", get(async || (StatusCode::SERVICE_UNAVAILABLE, "no watch yet")));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, routes).await });
        let probe = asked_for(&["operator", "probe", &url, "--timeout-seconds=0"]).unwrap();
        probe.run().await.map_err(|error| error.to_string())
    }

    #[test]
    fn other_command_lines_ask_for_no_probe() {
        assert!(asked_for(&["operator", "--cluster-name=probe"]).is_none());
        assert!(asked_for(&["operator"]).is_none());
    }

    #[tokio::test]
    async fn a_probe_tells_well_from_ill() {
        assert_eq!(probe_of("/well").await, Ok(()));
        let ill = probe_of("/ill").await.unwrap_err();
        assert!(ill.ends_with("it answered 503 Service Unavailable: no watch yet"), "{ill}");
    }
}
