//! How rows go: by a native policy on the Community edition, by the operator's own hand on the Apache-2 edition.
//! Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Edition, InstalledExtension, ObservedRetention, TableStep,
    sql::{duration_text, identifier, interval, regclass},
};
use crate::{change::Change, pipeline::Table};

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

/// Makes the native policy what the spec says. Another time is another policy: TimescaleDB's own
/// `if_not_exists` would keep the old one and merely warn.
pub(super) fn plan_policy(
    wanted: &Table,
    drop_after: Option<Duration>,
    extension: &InstalledExtension,
    found: Option<&ObservedRetention>,
) -> Option<TableStep> {
    if extension.edition == Edition::Apache2 || is_as_wanted(drop_after, found) {
        return None;
    }
    let functions = identifier(&extension.schema);
    let table = regclass(wanted.schema.as_str(), wanted.name.as_str());
    let mut sql = String::new();
    if found.is_some() {
        sql.push_str(&format!("SELECT {functions}.remove_retention_policy({table});\n"));
    }
    if let Some(drop_after) = drop_after {
        sql.push_str(&format!(
            "SELECT {functions}.add_retention_policy({table}, drop_after => {}, schedule_interval => {});\n",
            interval(drop_after),
            interval(check_interval(drop_after)),
        ));
    }
    let change = Change {
        object: format!("table {wanted}"),
        field: "retention".to_owned(),
        from: found.map(describe).unwrap_or_default(),
        to: drop_after.map(duration_text).unwrap_or_default(),
    };
    Some(TableStep { changes: vec![change], sql })
}

fn is_as_wanted(wanted: Option<Duration>, found: Option<&ObservedRetention>) -> bool {
    match (wanted, found) {
        (None, None) => true,
        (Some(drop_after), Some(found)) => {
            found.scheduled
                && found.drop_after == Some(drop_after)
                && found.check_interval == check_interval(drop_after)
        }
        _ => false,
    }
}

fn describe(found: &ObservedRetention) -> String {
    let time = found.drop_after.map_or_else(|| "another rule".to_owned(), duration_text);
    let pause = if found.scheduled { "" } else { ", paused" };
    format!("{time} (looked for every {}{pause})", duration_text(found.check_interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn expired_chunks_are_looked_for_between_every_minute_and_every_hour() {
        let seconds = |drop_after| check_interval(Duration::from_secs(drop_after)).as_secs();
        assert_eq!([seconds(90 * 24 * HOUR), seconds(12 * HOUR), seconds(60)], [HOUR, HOUR / 2, 60]);
    }

    #[test]
    fn dropping_is_due_at_first_after_the_interval_and_when_the_clock_was_set_back() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let due = |last_run, now| drop_is_due(last_run, at(now), Duration::from_secs(24 * HOUR));
        assert!(due(None, 10_000));
        assert!(!due(Some(at(10_000)), 13_599));
        assert!(due(Some(at(10_000)), 13_600));
        assert!(due(Some(at(10_000)), 9_999));
    }
}
