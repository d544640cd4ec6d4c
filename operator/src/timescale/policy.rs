//! What native policies have in common, whatever they do with the chunks that they find. Pure.

use std::time::Duration;

use super::{ObservedPolicy, sql::duration_text};

/// Whether a policy is what it shall be: how old rows must be, and how often it looks; `None` where there shall be none.
pub(super) fn is_as_wanted(wanted: Option<(Duration, Duration)>, found: Option<&ObservedPolicy>) -> bool {
    match (wanted, found) {
        (None, None) => true,
        (Some((after, check_interval)), Some(found)) => {
            found.scheduled && found.after == Some(after) && found.check_interval == check_interval
        }
        _ => false,
    }
}

/// The policy in a few words.
pub(super) fn describe(found: &ObservedPolicy) -> String {
    let time = found.after.map_or_else(|| "another rule".to_owned(), duration_text);
    let pause = if found.scheduled { "" } else { ", paused" };
    format!("{time} (looked for every {}{pause})", duration_text(found.check_interval))
}
