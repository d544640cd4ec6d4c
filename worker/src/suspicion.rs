//! Which record killed this worker: one that does so twice is not handled a third time.
//!
//! A worker that is killed cannot say by what. So it leaves a mark while it runs, in a directory that outlives its container
//! (and not its pod). One that finds the mark of a run which did not end in order handles the next records with care: it
//! writes down which one it begins, and that it is done with it. So a record that kills is known from the second time on. It costs
//! nothing but after a crash.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// The name of the mark.
const FILE: &str = "record";

/// The length of the mark, whatever it says: so one write replaces it whole.
const MARK_BYTES: usize = 64;

/// So many records are handled with care after a crash: more than there are between the last commit and what was in hand.
const CAREFUL_RECORDS: u64 = 200_000;

/// How often a record may be the one in hand when the worker is killed.
const MAX_KILLS: u32 = 2;

/// Watches over the records of one worker.
#[derive(Debug)]
pub struct Suspicion {
    path: PathBuf,
    /// `None` where the directory cannot be used: then nothing is known and nobody suspected.
    file: Option<File>,
    suspect: Option<Mark>,
    /// How many more records are handled with care.
    careful: u64,
}

/// A record in hand, and how often the worker was killed with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Mark {
    partition: i32,
    offset: i64,
    kills: u32,
}

impl Suspicion {
    /// Reads what the run before has left in `directory`, and leaves a mark of its own.
    pub fn open(directory: &Path) -> Self {
        let path = directory.join(FILE);
        match Self::read_and_mark(&path) {
            Ok((file, crashed, suspect)) => {
                if let Some(Mark { partition, offset, kills }) = suspect {
                    tracing::warn!(
                        partition,
                        offset,
                        kills,
                        "The worker was killed while it handled this record"
                    );
                } else if crashed {
                    tracing::warn!("The worker was killed; it handles the next records with care");
                }
                Self { path, file: Some(file), suspect, careful: if crashed { CAREFUL_RECORDS } else { 0 } }
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "Cannot keep track of records that kill the worker");
                Self { path, file: None, suspect: None, careful: 0 }
            }
        }
    }

    fn read_and_mark(path: &Path) -> io::Result<(File, bool, Option<Mark>)> {
        let before = match fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let suspect = before.as_deref().and_then(Mark::parse);
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        // What is known stays known if this run ends before it begins with a record.
        file.write_all_at(&Mark::text(suspect.as_ref()), 0)?;
        Ok((file, before.is_some(), suspect))
    }

    /// The worker begins with a record. `false` where it has been killed with this one in hand before, and again.
    #[inline]
    pub fn begin(&mut self, partition: i32, offset: i64) -> bool {
        self.careful == 0 || self.begin_with_care(partition, offset)
    }

    fn begin_with_care(&mut self, partition: i32, offset: i64) -> bool {
        let suspect = self.suspect.filter(|mark| (mark.partition, mark.offset) == (partition, offset));
        let kills = suspect.map_or(0, |mark| mark.kills);
        if kills >= MAX_KILLS {
            return false;
        }
        self.write(Some(Mark { partition, offset, kills: kills + 1 }));
        true
    }

    /// The worker is done with a record.
    #[inline]
    pub fn done(&mut self) {
        if self.careful > 0 {
            self.careful -= 1;
            // The one that was condemned is so until it is behind.
            self.write(self.suspect.filter(|mark| mark.kills >= MAX_KILLS && self.careful > 0));
        }
    }

    /// The worker ends in order.
    pub fn end(self) {
        let _ = fs::remove_file(&self.path);
    }

    fn write(&self, mark: Option<Mark>) {
        if let Some(file) = &self.file {
            // Without the mark a crash tells less; nothing else depends on it.
            let _ = file.write_all_at(&Mark::text(mark.as_ref()), 0);
        }
    }
}

impl Mark {
    fn text(mark: Option<&Self>) -> [u8; MARK_BYTES] {
        let text = mark.map(|Self { partition, offset, kills }| format!("{partition} {offset} {kills}"));
        let mut bytes = [b' '; MARK_BYTES];
        for (byte, letter) in bytes.iter_mut().zip(text.unwrap_or_default().bytes()) {
            *byte = letter;
        }
        bytes
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let partition = words.next()?.parse().ok()?;
        let offset = words.next()?.parse().ok()?;
        let kills = words.next()?.parse().ok()?;
        Some(Self { partition, offset, kills })
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process};

    use super::*;

    /// Runs of one container, one after the other.
    struct Container(PathBuf);

    impl Container {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("suspicion-{name}-{}", process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// A run that handles these offsets, and is killed by the `deadly` one; answers which ones it handled.
        fn run(&self, offsets: std::ops::Range<i64>, deadly: i64) -> Vec<i64> {
            let mut suspicion = Suspicion::open(&self.0);
            let mut handled = Vec::new();
            for offset in offsets {
                if suspicion.begin(3, offset) {
                    if offset == deadly {
                        return handled;
                    }
                    handled.push(offset);
                }
                suspicion.done();
            }
            suspicion.end();
            handled
        }
    }

    impl Drop for Container {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_record_that_kills_twice_with_nothing_else_in_hand_is_not_handled_again() {
        let container = Container::new("kills");
        // The first time nobody knows which one it was; then it is seen twice.
        for _ in 0..3 {
            assert_eq!(container.run(0..10, 5), [0, 1, 2, 3, 4]);
        }
        assert_eq!(container.run(0..10, 5), [0, 1, 2, 3, 4, 6, 7, 8, 9]);
        assert_eq!(container.run(0..10, 5), [0, 1, 2, 3, 4], "a new life, without suspicion");
    }

    #[test]
    fn a_worker_that_is_killed_by_others_suspects_nobody_for_long() {
        let container = Container::new("others");
        for deadly in [3, 5, 4, 5, 7, 2] {
            assert_eq!(container.run(0..10, deadly).len() as i64, deadly);
        }
        assert_eq!(container.run(0..10, -1).len(), 10);
    }

    #[test]
    fn a_kill_between_records_is_no_ones_fault() {
        let container = Container::new("between");
        for _ in 0..4 {
            let mut suspicion = Suspicion::open(&container.0);
            assert!(suspicion.begin(3, 0));
            suspicion.done();
        }
        assert_eq!(container.run(0..10, -1).len(), 10);
    }

    #[test]
    fn without_a_directory_nobody_is_suspected() {
        let mut suspicion = Suspicion::open(Path::new("/does/not/exist"));
        assert!(suspicion.begin(3, 0));
        suspicion.done();
        suspicion.end();
    }
}
