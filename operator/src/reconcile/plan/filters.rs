//! Which filters the bridge has to unsubscribe from, because a configuration before this one subscribed to them.
//! Pure.
//!
//! The broker keeps a session's subscriptions until somebody ends them, so they are handed on from the configuration
//! that runs to the one that replaces it. That is a fixed point: the new configuration, once it runs, leads to
//! itself, and nothing is rolled twice.

use std::collections::HashSet;

use crds::worker::RoleConfig;
use serde_json::Value;

use crate::{pipeline::Pipeline, reconcile::fetch::Workers};

/// How many filters are handed on at most; beyond them the oldest are forgotten.
const MAX_UNSUBSCRIBED: usize = 256;

/// The pipeline with a bridge that knows what to unsubscribe from.
pub fn with_left_filters(mut pipeline: Pipeline, workers: &Workers) -> Pipeline {
    let name = pipeline.id.name.clone();
    if let Some(bridge) = &mut pipeline.bridge
        && let RoleConfig::Bridge(config) = &mut bridge.config.role
        && let Some(running) = workers.bridge_configuration(&name)
    {
        let wanted = config.subscriptions.iter().map(|subscription| subscription.filter.as_str()).collect();
        config.unsubscribe = left_filters(&running, &wanted);
    }
    pipeline
}

/// What the running configuration unsubscribes from or subscribes to and the next one does not want, the oldest
/// first.
fn left_filters(running: &Value, wanted: &HashSet<&str>) -> Vec<String> {
    // Field by field, so that the configuration of an older operator tells its filters too.
    let bridge = &running["role"]["bridge"];
    let list = |field: &str| bridge[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let left = list("unsubscribe").iter().filter_map(Value::as_str);
    let subscribed = list("subscriptions").iter().filter_map(|subscription| subscription["filter"].as_str());
    let mut seen = HashSet::new();
    let mut filters: Vec<String> = left
        .chain(subscribed)
        .filter(|filter| !wanted.contains(filter) && seen.insert(*filter))
        .map(str::to_owned)
        .collect();
    filters.drain(..filters.len().saturating_sub(MAX_UNSUBSCRIBED));
    filters
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn configuration(unsubscribe: &[&str], subscriptions: &[&str]) -> Value {
        let subscriptions: Vec<Value> =
            subscriptions.iter().map(|filter| json!({"filter": filter, "qos": 1})).collect();
        json!({"role": {"bridge": {"unsubscribe": unsubscribe, "subscriptions": subscriptions}}})
    }

    fn left(running: &Value, wanted: &[&str]) -> Vec<String> {
        left_filters(running, &wanted.iter().copied().collect())
    }

    #[test]
    fn a_filter_that_leaves_is_remembered_until_it_comes_back() {
        let before = configuration(&[], &["a", "b", "c"]);
        assert_eq!(left(&before, &["a", "b", "c"]), [""; 0]);
        assert_eq!(left(&before, &["b"]), ["a", "c"]);
        let after = configuration(&["a", "c"], &["b"]);
        assert_eq!(left(&after, &["b"]), ["a", "c"], "the same again once it runs");
        assert_eq!(left(&after, &["b", "c"]), ["a"]);
        assert_eq!(left(&after, &["d"]), ["a", "c", "b"]);
    }

    #[test]
    fn what_cannot_be_read_leaves_nothing() {
        assert_eq!(left(&json!(null), &["a"]), [""; 0]);
        assert_eq!(left(&json!({"role": {"processor": {}}}), &["a"]), [""; 0]);
        assert_eq!(left(&configuration(&["a", "a"], &["a"]), &[]), ["a"]);
    }

    #[test]
    fn the_oldest_are_forgotten_and_what_is_left_stays_so() {
        let filters: Vec<String> = (0..MAX_UNSUBSCRIBED + 10).map(|number| format!("f/{number}")).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let left_once = left(&configuration(&filters[..20], &filters[20..]), &["x"]);
        assert_eq!((left_once.len(), left_once[0].as_str()), (MAX_UNSUBSCRIBED, "f/10"));
        let left_once: Vec<&str> = left_once.iter().map(String::as_str).collect();
        assert_eq!(left(&configuration(&left_once, &["x"]), &["x"]), left_once);
    }
}
