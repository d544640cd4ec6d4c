//! The spool as a sink: what it is given is on the disk once its delivery is reported.
//!
//! A thread of its own writes, because a disk takes its time. What waits for it meanwhile goes into one append.

use std::{
    io, iter,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::kafka::{Deliveries, Delivery, OwnedRecord, Record};
use crate::{
    spool::{Spool, size},
    telemetry::chain,
};

/// How much one append takes at most, bytes.
const APPEND_BYTES: u64 = 1024 * 1024;

/// How often to look whether a full spool has room again.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(50);

/// Writes into the spool. Dropping it drops what is not in the spool yet.
pub struct SpoolWriter {
    /// `None` once it is dropped.
    entries: Option<Sender<(usize, OwnedRecord)>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    spool: Arc<Spool>,
    deliveries: Arc<Deliveries>,
    is_full: AtomicBool,
    is_over: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl SpoolWriter {
    /// Starts its thread.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(spool: Arc<Spool>) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared {
            spool,
            deliveries: Arc::default(),
            is_full: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let writing = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("spool".to_owned()).spawn(move || writing.write(&receiver))?;
        Ok(Self { entries: Some(sender), shared, thread: Some(thread) })
    }

    /// Queues a record; its delivery is reported under `sequence`. Nothing is reported after a failure.
    pub fn send(&self, sequence: usize, record: Record<'_>) {
        if let Some(entries) = &self.entries {
            // Its thread is gone after a failure only, and that is told.
            let _ = entries.send((sequence, record.into_owned()));
        }
    }

    /// Where deliveries are reported.
    pub fn deliveries(&self) -> &Arc<Deliveries> {
        &self.shared.deliveries
    }

    /// Whether records wait for room.
    pub fn is_full(&self) -> bool {
        self.shared.is_full.load(Ordering::Relaxed)
    }

    /// Why nothing is written any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SpoolWriter {
    /// Waits for an append that is on its way: the next writer must come after it.
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.entries = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn write(&self, waiting: &Receiver<(usize, OwnedRecord)>) {
        let mut next = None;
        while let Some(first) = next.take().or_else(|| waiting.recv().ok()) {
            let mut bytes = size(&first.1);
            let mut batch = vec![first];
            for one in iter::from_fn(|| waiting.try_recv().ok()) {
                if bytes + size(&one.1) > APPEND_BYTES {
                    next = Some(one);
                    break;
                }
                bytes += size(&one.1);
                batch.push(one);
            }
            while !self.spool.has_room(bytes) && !self.is_over() {
                self.is_full.store(true, Ordering::Relaxed);
                thread::sleep(LOOK_FOR_ROOM);
            }
            self.is_full.store(false, Ordering::Relaxed);
            if self.is_over() {
                return;
            }
            let (sequences, entries): (Vec<usize>, Vec<OwnedRecord>) = batch.into_iter().unzip();
            if let Err(error) = self.spool.append(&entries) {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain(&error));
                return;
            }
            for sequence in sequences {
                self.deliveries.report(Delivery { sequence, error: None, stub: None });
            }
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}
