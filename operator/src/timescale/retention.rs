//! When the operator looks for expired chunks. Pure.

use std::time::Duration;

use jiff::Timestamp;

/// How often expired chunks are looked for: a 24th of the time that rows stay, at least once an hour and at
/// most once a minute. Both editions keep to it, so rows go at the same time on both.
pub fn check_interval(drop_after: Duration) -> Duration {
    (drop_after / 24).clamp(Duration::from_secs(60), Duration::from_secs(3600))
}

/// Whether it is time to drop expired chunks, `last_run` being the last time this operator did.
pub fn drop_is_due(last_run: Option<Timestamp>, now: Timestamp, drop_after: Duration) -> bool {
    last_run.is_none_or(|last_run| {
        let elapsed = now.as_second().saturating_sub(last_run.as_second());
        // A clock that was set back must not stop retention.
        elapsed < 0 || elapsed.unsigned_abs() >= check_interval(drop_after).as_secs()
    })
}
