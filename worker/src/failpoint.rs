//! What the proof of delivery does to a worker from inside: it ends as by a crash, at once and with nothing flushed or
//! closed, at a named point; or its clock is wrong. Nothing happens without the feature `failpoints`, which nothing that
//! is shipped has.

use strum::{Display, EnumString};

/// Where a worker ends.
#[derive(Clone, Copy, Debug, Display, EnumString, Eq, PartialEq)]
#[strum(serialize_all = "kebab-case")]
pub enum Point {
    /// Kafka has a message, and the MQTT broker has not heard of it.
    BeforePuback,
    /// The database has rows of a batch, and not the end of the COPY.
    InCopy,
    /// The database has a batch, and nobody has heard of it: neither this process nor Kafka.
    AfterCommit,
}

/// The process is at a point; it ends there if that is armed.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_: Point) {}

/// The process handles a payload, of which [`POISON`] ends it.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn handle(_: &[u8]) {}

/// What the time is taken for.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn skew(now: jiff::Timestamp) -> jiff::Timestamp {
    now
}

#[cfg(feature = "failpoints")]
pub use self::armed::{arm, handle, reach, set_clock, skew};

/// The payload that ends whoever handles it.
#[cfg(feature = "failpoints")]
pub const POISON: &[u8] = b"failpoint: end";

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

    use jiff::{SignedDuration, Timestamp};

    use super::{POISON, Point};

    /// The number of the armed point, counted from one.
    static ARMED: AtomicU8 = AtomicU8::new(0);

    /// By how much the clock is ahead, seconds.
    static AHEAD: AtomicI64 = AtomicI64::new(0);

    /// Sets the clock ahead by so many seconds, or back.
    pub fn set_clock(ahead: i64) {
        tracing::warn!(ahead, "The clock is wrong, as was asked");
        AHEAD.store(ahead, Ordering::Relaxed);
    }

    /// What the time is taken for.
    pub fn skew(now: Timestamp) -> Timestamp {
        now.saturating_add(SignedDuration::from_secs(AHEAD.load(Ordering::Relaxed))).unwrap_or(now)
    }

    /// Has the process end when it is there the next time.
    pub fn arm(point: Point) {
        ARMED.store(point as u8 + 1, Ordering::Relaxed);
    }

    /// The process is at a point; it ends there if that is armed.
    pub fn reach(point: Point) {
        if ARMED.load(Ordering::Relaxed) == point as u8 + 1 {
            tracing::warn!(%point, "Ending here, as was asked");
            std::process::abort();
        }
    }

    /// The process handles a payload, of which [`POISON`] ends it.
    pub fn handle(payload: &[u8]) {
        if payload == POISON {
            tracing::warn!("Ending with this message, as was asked");
            std::process::abort();
        }
    }
}
