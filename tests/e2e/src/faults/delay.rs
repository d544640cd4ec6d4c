//! A TCP proxy that passes everything on, late. The kernel's own means (`tc netem`) is a module that many machines do
//! not have.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use snafu::ResultExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::Result;

/// How many pieces are under way at most, and how large each is: what a long line holds.
const PIECES: usize = 1_024;
const PIECE_BYTES: usize = 16 * 1024;

/// A proxy; its connections break when it is dropped.
pub struct Delay {
    port: u16,
    bytes: Arc<AtomicU64>,
    _connections: JoinSet<()>,
}

impl Delay {
    /// Listens at a free port for connections to `address`.
    pub async fn start(address: String, latency: Duration) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.whatever_context("failed to listen")?;
        let port = listener.local_addr().whatever_context("failed to listen")?.port();
        let bytes = Arc::new(AtomicU64::new(0));
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, address, latency, Arc::clone(&bytes)));
        Ok(Self { port, bytes, _connections: connections })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How much it has passed on.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, address: String, latency: Duration, bytes: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (address, bytes) = (address.clone(), Arc::clone(&bytes));
        connections.spawn(async move {
            // A server that is away is one whose connection ends at once.
            let Ok(server) = TcpStream::connect(&address).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            // Where one direction ends, the other does.
            tokio::select! {
                () = pass(from_client, to_server, latency, &bytes) => {}
                () = pass(from_server, to_client, latency, &bytes) => {}
            }
        });
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    latency: Duration,
    bytes: &AtomicU64,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let due = Instant::now() + latency;
            if sender.send((due, piece[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_arrives_in_order_and_late() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let latency = Duration::from_millis(100);
        let delay = Delay::start(server.local_addr().unwrap().to_string(), latency).await.unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, delay.port())).await.unwrap();
        let begun = Instant::now();
        client.write_all(b"first, ").await.unwrap();
        client.write_all(b"second").await.unwrap();
        let (mut end, _) = server.accept().await.unwrap();
        let mut heard = [0; 13];
        end.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"first, second");
        end.write_all(b"!").await.unwrap();
        client.read_u8().await.unwrap();
        assert!(begun.elapsed() >= 2 * latency);
        assert!(delay.bytes() >= 13);
        drop(end);
        assert_eq!(client.read(&mut heard).await.unwrap(), 0);
    }
}
