//! The workers' HTTP endpoints: kwok's pods have addresses and nobody behind them. Every address of their network is this
//! machine's (`scripts/many` sees to it), and one server answers for all of them: ready, and nothing to say.

use std::net::Ipv4Addr;

use crds::names::WORKER_HTTP_PORT;
use serde_json::json;
use snafu::ResultExt;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use crate::Result;

/// The network of the pods.
pub const NETWORK: &str = "10.201.0.0/16";

/// The server; it ends when dropped.
pub struct Workers(AbortHandle);

/// Answers from now on.
///
/// # Errors
/// Fails where something else has the port.
pub async fn serve() -> Result<Workers> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, WORKER_HTTP_PORT))
        .await
        .with_whatever_context(|_| format!("failed to listen at port {WORKER_HTTP_PORT}"))?;
    let report =
        json!({"component": "processor", "version": "simulated", "ready": true, "problem": null}).to_string();
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{report}",
        report.len()
    );
    let server = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    connections.spawn(answer(stream, response.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(Workers(server.abort_handle()))
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers every request of a connection in the same way.
async fn answer(stream: TcpStream, response: String) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        // The empty line that ends a request.
        if line.trim().is_empty() && stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}
