//! The documents say everything that the operator can say.

use crds::status::{ConditionType, Reason};
use strum::IntoEnumIterator;

#[test]
fn every_condition_and_reason_is_documented() {
    let document = include_str!("../../docs/conditions.md");
    let words = ConditionType::iter()
        .map(|condition| condition.to_string())
        .chain(Reason::iter().map(|reason| reason.to_string()));
    for word in words {
        assert!(document.contains(&format!("| `{word}` |")), "docs/conditions.md has no row for {word}");
    }
}
