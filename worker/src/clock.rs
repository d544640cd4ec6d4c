//! The time of day: what becomes columns, headers and times of records. It may be wrong, and may jump; how long something
//! takes is counted with [`std::time::Instant`].

use jiff::Timestamp;

use crate::failpoint;

/// What this machine takes for the time.
pub fn now() -> Timestamp {
    failpoint::skew(Timestamp::now())
}

/// The same in microseconds since 1970.
pub fn now_micros() -> i64 {
    now().as_microsecond()
}
