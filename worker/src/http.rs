//! The worker's read-only HTTP endpoint, on a thread and runtime of its own.

use std::{io, net::SocketAddr, thread};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use crds::worker::WorkerStatus;
use tokio::{net::TcpListener, runtime};

use crate::{health::Health, shutdown::ShutdownTrigger, telemetry::Metrics};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers HTTP at `address` and waits for signals, on a new thread, until the process ends. The address is
/// bound when this returns.
pub fn spawn(
    address: SocketAddr,
    health: Health,
    metrics: Metrics,
    trigger: ShutdownTrigger,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(address))?;
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        runtime.block_on(async {
            let served = axum::serve(listener, router(health, metrics)).into_future();
            let (served, signalled) = tokio::join!(served, trigger.request_on_signal());
            if let Err(error) = served.and(signalled) {
                tracing::error!(%error, "The HTTP endpoint or the signal handler failed");
            }
        });
    })?;
    Ok(())
}

fn router(health: Health, metrics: Metrics) -> Router {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(health)
        .route("/metrics", get(encode_metrics).with_state(metrics));
    #[cfg(feature = "failpoints")]
    let router = router
        .route("/failpoints/{point}", axum::routing::post(arm_failpoint))
        .route("/clock/{ahead}", axum::routing::post(set_clock));
    router
}

#[cfg(feature = "failpoints")]
async fn arm_failpoint(axum::extract::Path(point): axum::extract::Path<String>) -> StatusCode {
    let Ok(point) = point.parse() else { return StatusCode::NOT_FOUND };
    crate::failpoint::arm(point);
    StatusCode::OK
}

#[cfg(feature = "failpoints")]
async fn set_clock(axum::extract::Path(ahead): axum::extract::Path<i64>) {
    crate::failpoint::set_clock(ahead);
}

async fn livez(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the data path does not turn\n")
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let WorkerStatus { ready, problem, .. } = health.status();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, problem.map_or("ok\n".to_owned(), |problem| format!("{}: {}\n", problem.reason, problem.message)))
}

async fn status(State(health): State<Health>) -> Json<WorkerStatus> {
    Json(health.status())
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
