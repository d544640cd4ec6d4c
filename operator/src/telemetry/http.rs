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
use tokio::net::TcpListener;

use super::metrics::{Metrics, PipelineStore};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers until `stop` resolves.
///
/// # Errors
/// Fails where the socket does.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    stores: Vec<PipelineStore>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        // Whoever answers lives: a watch that fails is retried, and a restart would not mend the API server.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(stores))
        .route("/metrics", get(encode_metrics).with_state(metrics));
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

/// Ready once every watch has listed its pipelines.
async fn readyz(State(stores): State<Vec<PipelineStore>>) -> (StatusCode, &'static str) {
    let listed = |store: &PipelineStore| store.wait_until_ready().now_or_never().is_some_and(|r| r.is_ok());
    if stores.iter().all(listed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the IoTPipelines are not listed yet\n")
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
