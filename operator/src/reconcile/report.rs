//! Asks a worker's pod for its status. Part of `fetch`.
//!
//! Whoever may create pods in a namespace can make one that answers in a worker's place. So nothing that it says is
//! believed to be short, harmless or well-formed.

use std::{net::IpAddr, time::Duration};

use crds::{
    names::WORKER_HTTP_PORT,
    status::Reason,
    worker::{UnmappedField, WorkerProblem, WorkerStatus},
};
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use reqwest::{Client, redirect::Policy};

/// How long a worker may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// The longest answer that is read.
const MAX_REPORT_BYTES: usize = 64 * 1024;

/// The longest reason; the API server refuses what is no CamelCase word.
const MAX_REASON_BYTES: usize = 63;

/// How much of a message is passed on.
const MAX_MESSAGE_BYTES: usize = 2 * 1024;

/// How much of a field's path is passed on: where `from` of a column can lead, and a name in quotes.
const MAX_PATH_BYTES: usize = 640;

/// What workers say of themselves.
pub trait Reports: Send + Sync {
    /// What the worker in this pod says. One that does not answer has no report; what Kubernetes says of its pod must do
    /// then.
    fn ask<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Option<WorkerStatus>>;
}

/// The workers' HTTP endpoints.
#[derive(Debug)]
pub struct HttpReports(Client);

impl HttpReports {
    /// A client that goes where it is sent and nowhere else.
    ///
    /// # Errors
    /// Fails where TLS cannot be set up, although no worker speaks it.
    pub fn new() -> reqwest::Result<Self> {
        let client = Client::builder().no_proxy().redirect(Policy::none()).timeout(DEADLINE);
        // A connection takes 25 KiB, and most of thousands of workers are asked once a minute.
        client.pool_max_idle_per_host(0).build().map(Self)
    }
}

impl Reports for HttpReports {
    fn ask<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Option<WorkerStatus>> {
        async { ask(&self.0, &url_of(pod)?).await }.boxed()
    }
}

fn url_of(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") {
        return None;
    }
    let address: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    Some(match address {
        IpAddr::V4(address) => format!("http://{address}:{WORKER_HTTP_PORT}/status"),
        IpAddr::V6(address) => format!("http://[{address}]:{WORKER_HTTP_PORT}/status"),
    })
}

async fn ask(client: &Client, url: &str) -> Option<WorkerStatus> {
    let mut response = client.get(url).send().await.ok()?.error_for_status().ok()?;
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.ok()? {
        if body.len() + part.len() > MAX_REPORT_BYTES {
            return None;
        }
        body.extend_from_slice(&part);
    }
    let mut report: WorkerStatus = serde_json::from_slice(&body).ok()?;
    report.problem = report.problem.map(harmless);
    for UnmappedField { path, .. } in &mut report.unmapped.fields {
        *path = harmless_text(path, MAX_PATH_BYTES);
    }
    Some(report)
}

/// A problem that can stand in a condition and in an Event.
fn harmless(problem: WorkerProblem) -> WorkerProblem {
    let WorkerProblem { reason, message } = problem;
    let reason = if is_reason(&reason) { reason } else { Reason::WorkersNotReady.to_string() };
    WorkerProblem { reason, message: harmless_text(&message, MAX_MESSAGE_BYTES) }
}

fn harmless_text(text: &str, max_bytes: usize) -> String {
    let mut text = text.replace(char::is_control, " ");
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}

fn is_reason(text: &str) -> bool {
    text.len() <= MAX_REASON_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use axum::{Router, response::Redirect, routing::get};
    use serde_json::{Value, json};

    use super::*;

    fn report(reason: &str, message: &str) -> Value {
        json!({
            "component": "bridge", "version": "1", "ready": false,
            "problem": {"reason": reason, "message": message},
        })
    }

    /// The problem that is heard from a server that answers with this report at `/status` and points there from `/moved`.
    async fn heard(path: &str, report: Value) -> Option<WorkerProblem> {
        heard_report(path, report).await?.problem
    }

    async fn heard_report(path: &str, report: Value) -> Option<WorkerStatus> {
        let routes = Router::new()
            .route("/status", get(async move || report.to_string()))
            .route("/moved", get(async || Redirect::temporary("/status")));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, routes).await });
        ask(&HttpReports::new().unwrap().0, &url).await
    }

    #[tokio::test]
    async fn a_report_is_passed_on() {
        let problem = heard("/status", report("BrokerUnreachable", "refused.")).await.unwrap();
        assert_eq!((problem.reason.as_str(), problem.message.as_str()), ("BrokerUnreachable", "refused."));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        assert_eq!(heard("/moved", report("BrokerUnreachable", "refused.")).await, None);
    }

    #[tokio::test]
    async fn a_flood_is_not_read_to_its_end() {
        assert_eq!(heard("/status", report("A", &"x".repeat(MAX_REPORT_BYTES))).await, None);
    }

    #[tokio::test]
    async fn what_would_spoil_a_condition_is_left_out() {
        let message = format!("line\nand \u{1b}[31mred{}", "ä".repeat(MAX_MESSAGE_BYTES));
        let problem = heard("/status", report("no reason", &message)).await.unwrap();
        assert_eq!(problem.reason, "WorkersNotReady");
        assert!(problem.message.starts_with("line and  [31mred"), "{}", problem.message);
        assert!(problem.message.len() <= MAX_MESSAGE_BYTES);
    }

    #[tokio::test]
    async fn what_would_spoil_a_status_is_left_out() {
        let path = format!(".a\u{1b}[31m{}", "ä".repeat(MAX_PATH_BYTES));
        let mut report = report("A", "b");
        report["unmapped"] = json!({"fields": [{"path": path, "count": 1, "sinceSeconds": 0}], "others": 0});
        let heard = heard_report("/status", report).await.unwrap().unmapped;
        assert!(heard.fields[0].path.starts_with(".a [31mä"), "{heard:?}");
        assert!(heard.fields[0].path.len() <= MAX_PATH_BYTES);
    }

    #[test]
    fn reasons_are_camel_case_words() {
        for legal in ["A", "BrokerUnreachable", &"x".repeat(63)] {
            assert!(is_reason(legal), "{legal}");
        }
        for illegal in ["", "7up", "a b", "a-b", "Ä", "a\n", &"x".repeat(64)] {
            assert!(!is_reason(illegal), "{illegal}");
        }
    }
}
