//! A stream that gathers what is written until its owner has nothing more to write and reads again, and lets what
//! comes gather for a moment.
//!
//! rumqttc flushes after each acknowledgement, which would be a system call, and a TLS record, for each message.
//! Its event loop reads only when no acknowledgement waits, so that acknowledgements are written right before reading.
//! Brokers write each message by itself too, and whoever reads at once is woken for each: under load that costs
//! several times what the messages do. So once there is nothing more to read, the next look is a moment later.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// What is gathered at most before it is written in any case, bytes.
const CAPACITY: usize = 64 * 1024;

/// How long the thread rests once it has read a stream empty.
const REST: Duration = Duration::from_micros(500);

/// How long the end of a connection may wait for the peer.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is beneath.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS on TCP.
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// Does the same with the stream, whichever it is.
macro_rules! either {
    ($stream:expr, $pinned:ident => $result:expr) => {
        match $stream {
            Stream::Plain(stream) => {
                let $pinned = Pin::new(stream);
                $result
            }
            Stream::Encrypted(stream) => {
                let $pinned = Pin::new(stream.as_mut());
                $result
            }
        }
    };
}

/// The last bytes that came on a connection.
///
/// rumqttc takes an MQTT 5 DISCONNECT that holds nothing but its code (Mosquitto's do) for the beginning of a longer
/// one, and reports a closed connection. It is the last packet in any case, so its code can be read here.
#[derive(Clone, Debug, Default)]
pub struct LastWords(Arc<AtomicU32>);

impl LastWords {
    /// The code of a short DISCONNECT, where the connection ended with one.
    pub fn disconnect_code(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed).to_be_bytes() {
            [_, 0xe0, 1, code] => Some(code),
            _ => None,
        }
    }

    fn heard(&self, bytes: &[u8]) {
        let last = &bytes[bytes.len().saturating_sub(4)..];
        let before = self.0.load(Ordering::Relaxed);
        let now = last.iter().fold(before, |words, byte| words << 8 | u32::from(*byte));
        self.0.store(now, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Corked {
    /// There until the end.
    stream: Option<Stream>,
    gathered: Vec<u8>,
    /// Whether the stream may hold back some of what it was given.
    is_flushed: bool,
    /// Whether something came since the last rest.
    was_read: bool,
    last_words: LastWords,
}

impl Corked {
    /// Gathers what is written to `stream`, and keeps the last of what is read from it.
    pub fn new(stream: Stream, last_words: LastWords) -> Self {
        Self { stream: Some(stream), gathered: Vec::new(), is_flushed: true, was_read: false, last_words }
    }

    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            self.is_flushed = false;
            let gathered = std::mem::take(&mut self.gathered);
            let result = either!(self.stream()?, stream => stream.poll_write(context, &gathered));
            self.gathered = gathered;
            match ready!(result)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => drop(self.gathered.drain(..count)),
            }
        }
        if !self.is_flushed {
            ready!(either!(self.stream()?, stream => stream.poll_flush(context)))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_drain(context) {
            return Poll::Ready(Err(error));
        }
        // A peer that does not read must not keep this side from reading.
        let before = buffer.filled().len();
        let Poll::Ready(result) = either!(self.stream()?, stream => stream.poll_read(context, buffer)) else {
            if std::mem::take(&mut self.was_read) {
                // It is the thread that rests, not the task, which the kernel would go on waking for each message. The
                // bridge is alone on it, and what else it has to do can wait as long.
                thread::sleep(REST);
            }
            return Poll::Pending;
        };
        result?;
        self.was_read = true;
        self.last_words.heard(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Corked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.gathered.len() >= CAPACITY {
            ready!(self.poll_drain(context))?;
        }
        self.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        either!(self.stream()?, stream => stream.poll_shutdown(context))
    }
}

impl Drop for Corked {
    /// Has the last acknowledgements and DISCONNECT arrive, which no read follows.
    ///
    /// A socket that is closed with unread bytes in it resets the connection, and the peer forgets what it has not
    /// read yet. So this reads, and drops, until the peer closes. It blocks, but a bridge without a connection has
    /// nothing else to do. What fails here costs a redelivery at most.
    fn drop(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        if let Some(stream) = self.stream.take() {
            let _ = bid_farewell(stream, gathered);
        }
    }
}

fn bid_farewell(stream: Stream, gathered: Vec<u8>) -> io::Result<()> {
    let (stream, session) = match stream {
        Stream::Plain(stream) => (stream, None),
        Stream::Encrypted(stream) => {
            let (stream, session) = stream.into_inner();
            (stream, Some(session))
        }
    };
    let mut stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(FAREWELL))?;
    match session {
        None => stream.write_all(&gathered)?,
        Some(mut session) => {
            session.set_buffer_limit(None);
            session.writer().write_all(&gathered)?;
            session.send_close_notify();
            while session.wants_write() {
                session.write_tls(&mut stream)?;
            }
        }
    }
    stream.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + FAREWELL;
    let mut unread = [0; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A time-out of zero would be refused, which ends the waiting as well.
        stream.set_read_timeout(Some(left))?;
        if stream.read(&mut unread)? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (Corked, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Corked::new(Stream::Plain(near), LastWords::default()), far)
    }

    #[tokio::test]
    async fn what_is_written_leaves_with_the_next_read() {
        let (mut corked, mut far) = pair().await;
        for _ in 0..3 {
            corked.write_all(b"ack").await.unwrap();
            corked.flush().await.unwrap();
        }
        assert_eq!(corked.gathered.len(), 9);
        far.write_all(b"next").await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(corked.read(&mut buffer).await.unwrap(), 4);
        assert_eq!(far.read(&mut buffer).await.unwrap(), 9);
    }

    #[tokio::test]
    async fn a_short_disconnect_is_understood_in_whatever_pieces_it_comes() {
        let (mut corked, mut far) = pair().await;
        let last_words = corked.last_words.clone();
        let mut buffer = [0; 16];
        for (piece, code) in
            [(&b"message\xe0"[..], None), (b"\x01", None), (b"\x8e", Some(0x8e)), (b"x", None)]
        {
            far.write_all(piece).await.unwrap();
            corked.read_exact(&mut buffer[..piece.len()]).await.unwrap();
            assert_eq!(last_words.disconnect_code(), code, "{piece:?}");
        }
    }

    #[tokio::test]
    async fn what_is_left_leaves_when_it_is_dropped() {
        let (mut corked, mut far) = pair().await;
        corked.write_all(b"disconnect").await.unwrap();
        far.write_all(b"unread").await.unwrap();
        let dropping = thread::spawn(move || drop(corked));
        let mut left = Vec::new();
        far.read_to_end(&mut left).await.unwrap();
        assert_eq!(left, b"disconnect");
        drop(far);
        dropping.join().unwrap();
    }

    #[tokio::test]
    async fn more_than_the_capacity_does_not_wait_for_a_read() {
        let (mut corked, mut far) = pair().await;
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        for _ in 0..100 {
            corked.write_all(&[0; 10_000]).await.unwrap();
            assert!(corked.gathered.len() <= CAPACITY + 10_000);
        }
        corked.shutdown().await.unwrap();
        assert_eq!(reader.await.unwrap(), 1_000_000);
    }
}
