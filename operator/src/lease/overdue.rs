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

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn it_barks_after_the_last_deadline_and_not_before() {
        let (sent, received) = mpsc::channel();
        let began = Instant::now();
        let first = began + Duration::from_secs(2);
        let watchdog = Watchdog::start(first, move || sent.send(Instant::now()).unwrap());
        let second = began + Duration::from_secs(3);
        watchdog.postpone(second);
        assert!(received.recv().unwrap() >= second);
    }

    #[test]
    fn a_dropped_one_is_silent() {
        let (sent, received) = mpsc::channel();
        let deadline = Instant::now() + Duration::from_millis(200);
        drop(Watchdog::start(deadline, move || sent.send(()).unwrap()));
        // The thread ends without a call, and drops its end.
        assert!(received.recv().is_err());
    }
}
