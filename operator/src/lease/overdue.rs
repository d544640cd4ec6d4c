//! Ends acting where the Lease is not renewed in time: on a thread of its own, because whatever keeps the renewal from
//! happening may be that the other threads are stuck.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

/// Calls a function when a deadline passes that was not postponed. Dropped, it never does.
#[derive(Debug)]
pub struct Watchdog(Arc<Mutex<Option<Instant>>>);

impl Watchdog {
    /// Watches from now on.
    pub fn start(deadline: Instant, overdue: impl FnOnce() + Send + 'static) -> Self {
        let deadline = Arc::new(Mutex::new(Some(deadline)));
        let watched = Arc::clone(&deadline);
        thread::spawn(move || {
            while let Some(deadline) = read(&watched) {
                match deadline.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => thread::sleep(left),
                    _ => return overdue(),
                }
            }
        });
        Self(deadline)
    }

    /// Gives more time.
    pub fn postpone(&self, deadline: Instant) {
        self.set(Some(deadline));
    }

    fn set(&self, deadline: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

/// Not in the head of a loop, which would hold the lock for as long as its body runs.
fn read(deadline: &Mutex<Option<Instant>>) -> Option<Instant> {
    *deadline.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.set(None);
    }
}
