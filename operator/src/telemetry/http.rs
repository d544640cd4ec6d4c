//! The operator's HTTP endpoint: `/livez`, `/readyz` and `/metrics`. I/O.

use std::{future::Future, io};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use futures::FutureExt;
use tokio::{net::TcpListener, sync::watch};

use super::metrics::{Metrics, PipelineStore};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How far the operator has come.
pub enum Phase {
    /// It has not seen the Lease yet.
    Starting,
    /// Another operator acts.
    StandingBy,
    /// It acts on the pipelines in these stores.
    Acting(Vec<PipelineStore>),
}

/// Answers until `stop` resolves.
///
/// # Errors
/// Fails where the socket does.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    phase: watch::Receiver<Phase>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        // Whoever answers lives: a watch that fails is retried, and a restart would not mend the API server.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(phase))
        .route("/metrics", get(encode_metrics).with_state(metrics));
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

/// Ready once every watch has listed its pipelines; and while another operator acts, which this one would replace.
async fn readyz(State(phase): State<watch::Receiver<Phase>>) -> (StatusCode, &'static str) {
    let listed = |store: &PipelineStore| store.wait_until_ready().now_or_never().is_some_and(|r| r.is_ok());
    match &*phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "the Lease is not read yet\n"),
        Phase::StandingBy => (StatusCode::OK, "ok, standing by\n"),
        Phase::Acting(stores) if stores.iter().all(listed) => (StatusCode::OK, "ok\n"),
        Phase::Acting(_) => (StatusCode::SERVICE_UNAVAILABLE, "the IoTPipelines are not listed yet\n"),
    }
}

async fn encode_metrics(State(metrics): State<Metrics>) -> impl IntoResponse {
    match metrics.encode() {
        Ok(body) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], body),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            format!("failed to encode the metrics: {error}\n"),
        ),
    }
}
