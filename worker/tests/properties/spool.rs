//! The spool is a queue, also across restarts, and fits on its volume.

use std::{collections::VecDeque, env, fs, path::PathBuf, process};

use crds::worker::SpoolConfig;
use proptest::prelude::*;
use rdkafka::message::OwnedHeaders;
use worker::{
    sink::kafka::{OwnedRecord, Record},
    spool::{Spool, size_of_all},
};

const VOLUME: SpoolConfig = SpoolConfig { volume_bytes: 4 << 20, closing: false };

#[derive(Clone, Debug)]
enum Step {
    /// So many messages of a size come at once.
    Append(u64, usize),
    /// At most so many leave.
    Remove(usize),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![3 => 0..300_usize, 1 => 0..120_000_usize];
    let step = prop_oneof![
        4 => (1..20_u64, size).prop_map(|(count, size)| Step::Append(count, size)),
        3 => (0..60_usize).prop_map(Step::Remove),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..150)
}

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("spool-model-{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn entry(number: u64, payload_bytes: usize) -> OwnedRecord {
    let (headers, payload) = (OwnedHeaders::new(), vec![number as u8; payload_bytes]);
    Record { key: &number.to_be_bytes(), payload: &payload, headers, timestamp_millis: 7 }.into_owned()
}

fn numbers(entries: &[(u64, OwnedRecord)]) -> Vec<u64> {
    let number = |entry: &OwnedRecord| u64::from_be_bytes(entry.record().key.try_into().unwrap());
    entries.iter().map(|(_, entry)| number(entry)).collect()
}

proptest! {
    // Each case writes to a disk.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_is_a_bounded_queue(steps in steps()) {
        let directory = Directory::new();
        let mut spool = Spool::open(&directory.0, VOLUME).unwrap();
        let mut model = VecDeque::new();
        let mut next = 0_u64;
        for step in steps {
            match step {
                Step::Append(count, size) => {
                    let entries: Vec<_> = (next..next + count).map(|number| entry(number, size)).collect();
                    if spool.has_room(size_of_all(&entries)) {
                        spool.append(&entries).unwrap();
                        model.extend(next..next + count);
                        next += count;
                    }
                }
                Step::Remove(count) => {
                    let head = spool.head(count, u64::MAX).unwrap();
                    prop_assert_eq!(head.len(), count.min(model.len()));
                    spool.remove(&head).unwrap();
                    prop_assert_eq!(numbers(&head), model.drain(..head.len()).collect::<Vec<_>>());
                }
                Step::Restart => {
                    drop(spool);
                    spool = Spool::open(&directory.0, VOLUME).unwrap();
                }
            }
            prop_assert_eq!(spool.level().messages, model.len() as u64);
            prop_assert!(spool.level().bytes <= spool.capacity_bytes());
        }
        prop_assert_eq!(numbers(&spool.head(usize::MAX, u64::MAX).unwrap()), Vec::from(model));
        let file = fs::metadata(directory.0.join("spool.redb")).unwrap().len();
        prop_assert!(file <= VOLUME.volume_bytes, "{} bytes", file);
    }
}
