//! The bridge's durable queue for times without Kafka: first in, first out, bounded, on a volume of its own.
//!
//! redb keeps it: an append is one transaction, which is on the disk (fsync) before it returns, and every page has a
//! checksum, verified when the file is opened. A crash leaves whole appends or none.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crds::worker::{SpoolConfig, SpoolStatus};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use snafu::{ResultExt, Snafu};

use crate::sink::kafka::{OwnedRecord, Record};

/// The name of the file in the volume.
const FILE: &str = "spool.redb";

/// What redb may keep in memory, bytes; its own default is a gigabyte.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// One part in so many of the volume is for messages: redb rounds large ones up to powers of two, writes a changed page anew
/// before it frees the old one, and doubles its file when it grows.
const USABLE_SHARE: u64 = 4;

/// Time, key, headers and payload by the number under which an entry came.
const ENTRIES: TableDefinition<'_, u64, Stored<'static>> = TableDefinition::new("entries");

type Stored<'a> = (i64, &'a [u8], Vec<(&'a str, &'a [u8])>, &'a [u8]);

/// Why the spool does not work.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The directory cannot be used.
    #[snafu(display("failed to use the spool's directory {}", path.display()))]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be opened, or is damaged.
    #[snafu(display("failed to open the spool {}", path.display()))]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<redb::DatabaseError>,
    },
    /// The file could not be read or written.
    #[snafu(display("failed to {what} the spool"))]
    Use {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<redb::Error>,
    },
}

/// About how much of the volume a record takes, bytes.
pub fn size(record: &OwnedRecord) -> u64 {
    let headers = record.headers.iter().map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len));
    (record.key.len() + record.payload.len() + headers.sum::<usize>()) as u64
}

/// About how much of the volume records take together, bytes.
pub fn size_of_all<'a>(records: impl IntoIterator<Item = &'a OwnedRecord>) -> u64 {
    records.into_iter().map(size).sum()
}

fn stored(record: &OwnedRecord) -> Stored<'_> {
    let headers = record.headers.iter().map(|header| (header.key, header.value.unwrap_or_default()));
    (record.timestamp_millis, &record.key, headers.collect(), &record.payload)
}

fn read((timestamp_millis, key, headers, payload): Stored<'_>) -> OwnedRecord {
    let headers = headers.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    });
    Record { key, payload, headers, timestamp_millis }.into_owned()
}

/// The queue. Calls block for as long as the disk takes.
#[derive(Debug)]
pub struct Spool {
    database: Database,
    capacity_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    level: SpoolStatus,
    next: u64,
}

impl Spool {
    /// Opens the spool in `directory`, or makes it; of its volume it uses a part.
    ///
    /// # Errors
    /// Where the directory cannot be written, or the file is damaged.
    pub fn open(directory: &Path, config: SpoolConfig) -> Result<Self, Error> {
        let SpoolConfig { volume_bytes, closing } = config;
        fs::create_dir_all(directory).context(DirectorySnafu { path: directory })?;
        let path = directory.join(FILE);
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(&path)
            .map_err(Box::new)
            .context(OpenSnafu { path })?;
        let mut state = State { level: SpoolStatus { closing, ..SpoolStatus::default() }, next: 0 };
        attempt("read", || {
            let transaction = database.begin_write()?;
            for entry in transaction.open_table(ENTRIES)?.iter()? {
                let (number, entry) = entry?;
                state.level.messages += 1;
                state.level.bytes += size(&read(entry.value()));
                state.next = number.value() + 1;
            }
            transaction.commit()?;
            Ok(())
        })?;
        Ok(Self { database, capacity_bytes: volume_bytes / USABLE_SHARE, state: Mutex::new(state) })
    }

    /// How full it is.
    pub fn level(&self) -> SpoolStatus {
        self.state().level
    }

    /// How many bytes of entries it takes.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Whether so many bytes more have room.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.level().bytes + bytes <= self.capacity_bytes
    }

    /// Puts entries at the tail, all or none. Once it returns they are on the disk.
    ///
    /// # Errors
    /// Where the disk does not take them.
    pub fn append(&self, entries: &[OwnedRecord]) -> Result<(), Error> {
        let mut state = self.state();
        attempt("write to", || {
            let transaction = self.database.begin_write()?;
            let mut table = transaction.open_table(ENTRIES)?;
            for (number, entry) in (state.next..).zip(entries) {
                table.insert(number, stored(entry))?;
            }
            drop(table);
            transaction.commit()?;
            Ok(())
        })?;
        state.next += entries.len() as u64;
        state.level.messages += entries.len() as u64;
        state.level.bytes += size_of_all(entries);
        Ok(())
    }

    /// The entries at the head, with their numbers, in order: at most `max_messages` and as many as `max_bytes` hold, and
    /// one at least, if there is one. They stay.
    ///
    /// # Errors
    /// Where the disk does not give them.
    pub fn head(&self, max_messages: usize, max_bytes: u64) -> Result<Vec<(u64, OwnedRecord)>, Error> {
        attempt("read", || {
            let table = self.database.begin_read()?.open_table(ENTRIES)?;
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for entry in table.iter()?.take(max_messages) {
                let (number, entry) = entry?;
                let entry = read(entry.value());
                bytes += size(&entry);
                if !entries.is_empty() && bytes > max_bytes {
                    break;
                }
                entries.push((number.value(), entry));
            }
            Ok(entries)
        })
    }

    /// Takes entries away that [`Self::head`] gave.
    ///
    /// # Errors
    /// Where the disk does not take that; then they are still there.
    pub fn remove(&self, entries: &[(u64, OwnedRecord)]) -> Result<(), Error> {
        let mut state = self.state();
        attempt("take messages out of", || {
            let transaction = self.database.begin_write()?;
            let mut table = transaction.open_table(ENTRIES)?;
            for (number, _) in entries {
                table.remove(number)?;
            }
            drop(table);
            transaction.commit()?;
            Ok(())
        })?;
        state.level.messages -= entries.len() as u64;
        state.level.bytes -= size_of_all(entries.iter().map(|(_, entry)| entry));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs steps that fail with redb's many errors as one.
fn attempt<T>(what: &'static str, steps: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Error> {
    steps().map_err(Box::new).context(UseSnafu { what })
}

#[cfg(test)]
mod tests {
    use std::{env, process};

    use super::*;

    const VOLUME: SpoolConfig = SpoolConfig { volume_bytes: 2_000_000, closing: false };

    /// A directory of its own, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("spool-{name}-{}", process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn open(&self) -> Spool {
            Spool::open(&self.0, VOLUME).unwrap()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entry(number: u64, payload_bytes: usize) -> OwnedRecord {
        let headers = OwnedHeaders::new().insert(Header { key: "mqtt.topic", value: Some("plants/7") });
        let payload = vec![number as u8; payload_bytes];
        Record { key: &number.to_be_bytes(), payload: &payload, headers, timestamp_millis: 7 }.into_owned()
    }

    fn keys(entries: &[(u64, OwnedRecord)]) -> Vec<u64> {
        let key = |entry: &OwnedRecord| u64::from_be_bytes(entry.key.as_slice().try_into().unwrap());
        entries.iter().map(|(_, entry)| key(entry)).collect()
    }

    #[test]
    fn entries_come_back_as_they_were_in_their_order() {
        let directory = Directory::new("order");
        let spool = directory.open();
        spool.append(&[entry(1, 10), entry(2, 0)]).unwrap();
        spool.append(&[entry(3, 10)]).unwrap();
        let head = spool.head(usize::MAX, u64::MAX).unwrap();
        assert_eq!(keys(&head), [1, 2, 3]);
        let record = head[0].1.record();
        assert_eq!((record.payload, record.timestamp_millis), ([1; 10].as_slice(), 7));
        let headers: Vec<_> = record.headers.iter().map(|header| (header.key, header.value)).collect();
        assert_eq!(headers, [("mqtt.topic", Some(b"plants/7".as_slice()))]);
        assert_eq!(
            keys(&spool.head(usize::MAX, 30).unwrap()),
            [1],
            "no more than asked for, but one at least"
        );
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_what_was_removed_is_not() {
        let directory = Directory::new("restart");
        let spool = directory.open();
        spool.append(&(0..10).map(|number| entry(number, 100)).collect::<Vec<_>>()).unwrap();
        let head = spool.head(3, u64::MAX).unwrap();
        spool.remove(&head).unwrap();
        let level = spool.level();
        drop(spool);
        let spool = directory.open();
        assert_eq!(spool.level(), level);
        spool.append(&[entry(10, 100)]).unwrap();
        assert_eq!(keys(&spool.head(usize::MAX, u64::MAX).unwrap()), (3..=10).collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_file_is_not_trusted() {
        let directory = Directory::new("damage");
        let spool = directory.open();
        spool.append(&(0..100).map(|number| entry(number, 2_000)).collect::<Vec<_>>()).unwrap();
        drop(spool);
        let path = directory.0.join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        // Payloads, wherever they are: 200 bytes of one and the same.
        let found = bytes.windows(200).position(|window| window.iter().all(|byte| *byte == 7)).unwrap();
        bytes[found + 100] = 8;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(Spool::open(&directory.0, VOLUME), Err(Error::Open { .. })));
    }
}
