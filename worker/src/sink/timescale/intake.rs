//! The sink's side of the source's thread: makes rows of records, fills a batch, hands it to the writer.
//!
//! There are two batches: one is filled while the other is written.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    batch::{Batch, LINGER, Record},
    breaker::Breaker,
    encode::RowEncoder,
    limit::RowLimit,
    readiness::{Obstacle, Readiness},
};
use crate::{
    clock, headers,
    health::problem,
    rejection::{Reason, Rejection, Stage},
    source::kafka::RecordSink,
    suspicion::Suspicion,
    transform::{Transform, with_metadata},
};

/// One record in so many is timed from end to end.
const TIMED: i64 = 32;

/// A value at least so long may be a stub that decodes all the same; a shorter stub, the rest of a message that was cut
/// off, does not decode. So most records' headers need not be looked at.
const LOOKS_LIKE_STUB_BYTES: usize = 4096;

/// Where full batches go, and from where they come back empty.
pub struct Batches {
    /// To the writer.
    pub full: UnboundedSender<Batch>,
    /// From it.
    pub empty: Receiver<Batch>,
    /// How large they may be.
    pub limit: Arc<RowLimit>,
}

/// Makes rows of records and fills batches.
pub struct Intake {
    transform: Transform,
    encoder: RowEncoder,
    breaker: Breaker,
    suspicion: Suspicion,
    readiness: Arc<Readiness>,
    /// The batch that is filled; `None` while the writer has both.
    batch: Option<Batch>,
    /// An empty batch that waits for its turn.
    spare: Option<Batch>,
    batches: Batches,
    /// Whether the writer needs the messages beside their rows.
    keeps_messages: bool,
    /// The clock, read once a burst; microseconds since 1970.
    now: i64,
}

impl Intake {
    /// Fills batches. `keeps_messages` says whether the writer needs the messages beside their rows.
    pub fn new(
        transform: Transform,
        encoder: RowEncoder,
        breaker: Breaker,
        suspicion: Suspicion,
        readiness: Arc<Readiness>,
        keeps_messages: bool,
        batches: Batches,
    ) -> Self {
        Self {
            transform,
            encoder,
            breaker,
            suspicion,
            readiness,
            batch: Some(Batch::new()),
            spare: Some(Batch::new()),
            batches,
            keeps_messages,
            now: clock::now_micros(),
        }
    }

    /// Ends the writer, once it has what was handed over. Gives back what is to outlive it.
    pub fn end(self) -> Suspicion {
        self.suspicion
    }

    fn hand_over(&mut self) {
        if let Some(batch) = self.batch.take() {
            // The writer is gone only when the worker stops; then nobody needs the batch.
            let _ = self.batches.full.send(batch);
        }
        self.batch = self.spare.take();
    }

    fn take_back(&mut self) {
        if self.spare.is_none() {
            match self.batches.empty.try_recv() {
                Ok(batch) => self.give(batch),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
    }

    fn give(&mut self, batch: Batch) {
        match self.batch {
            None => self.batch = Some(batch),
            Some(_) => self.spare = Some(batch),
        }
    }
}

impl RecordSink for Intake {
    fn take(&mut self, message: &BorrowedMessage<'_>, epoch: u64, refused: Option<&Rejection>) {
        let Some(batch) = &mut self.batch else { return };
        let record = Record {
            partition: message.partition(),
            epoch,
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            payload: message.payload().unwrap_or_default(),
        };
        let is_timed = record.offset % TIMED == 0;
        let may_be_stub = record.payload.len() >= LOOKS_LIKE_STUB_BYTES;
        let mut origin = if is_timed || may_be_stub || self.transform.reads_metadata() {
            message.headers().and_then(headers::decode)
        } else {
            None
        };
        let stub = origin.as_ref().and_then(|origin| origin.stub.as_ref());
        let is_safe = self.suspicion.begin(record.partition, record.offset);
        let result = match refused {
            _ if !is_safe => Err(poison()),
            Some(rejection) => Err(rejection.clone()),
            None if stub.is_some() => Err(cut_off()),
            None => with_metadata((record.partition, record.offset), origin.as_ref(), |metadata| {
                self.transform.apply(record.payload, metadata)
            })
            .and_then(|rows| batch.add_rows(&record, &rows, &self.encoder, self.now)),
        };
        self.suspicion.done();
        let opens = self.breaker.note(result.as_ref().err().map(|rejection| rejection.reason));
        if self.keeps_messages && result.is_ok() {
            batch.keep_message(&record, message.headers());
        }
        if let Err(rejection) = result {
            origin = origin.or_else(|| message.headers().and_then(headers::decode));
            let stub = origin.as_ref().and_then(|origin| origin.stub.as_ref());
            let rejection = if stub.is_some() { cut_off() } else { rejection };
            batch.add_dead_letter(&record, rejection, message.key(), headers_as_json(message), stub);
        }
        if let (true, Some(origin)) = (is_timed, origin) {
            batch.note_ingestion(origin.ingested_at.as_microsecond());
        }
        if batch.is_full(self.batches.limit.rows()) || opens {
            self.take_back();
            self.hand_over();
        }
        if opens {
            self.readiness.block(Obstacle::Rejections, problem("TooManyRejected", self.breaker.message()));
        }
    }

    fn turn(&mut self) {
        self.now = clock::now_micros();
        self.take_back();
        let has_waited = self.batch.as_ref().is_some_and(|batch| !batch.is_empty() && batch.age() >= LINGER);
        // While the writer is busy the batch goes on filling: larger batches are cheaper.
        if has_waited && self.spare.is_some() {
            self.hand_over();
        }
    }

    fn has_room(&mut self, limit: Duration) -> bool {
        if self.breaker.is_open() {
            thread::sleep(limit);
            return false;
        }
        if self.batch.is_none() {
            self.batch = if limit.is_zero() {
                self.batches.empty.try_recv().ok()
            } else {
                self.batches.empty.recv_timeout(limit).ok()
            };
        }
        self.batch.is_some()
    }

    fn cut(&mut self) {
        if self.batch.as_ref().is_some_and(|batch| !batch.is_empty()) {
            self.take_back();
            self.hand_over();
        }
    }
}

fn poison() -> Rejection {
    let message = "the processor was killed twice while it handled this record, so it is not handled again";
    Rejection::new(Reason::Poison, Stage::Program, message)
}

fn cut_off() -> Rejection {
    let message = "the message is larger than a record of the topic may be; the payload is its beginning";
    Rejection::new(Reason::RecordTooLarge, Stage::Bridge, message)
}

/// The headers of a record as a JSON object; of two with one name the last counts. Made for dead letters only.
fn headers_as_json(message: &BorrowedMessage<'_>) -> Option<String> {
    let headers = message.headers()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    let object: BTreeMap<String, Option<String>> =
        headers.iter().map(|header| (text(header.key.as_bytes()), header.value.map(text))).collect();
    serde_json::to_string(&object).ok()
}
