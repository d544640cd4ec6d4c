//! The documents say everything that the worker can say.

use strum::IntoEnumIterator;
use worker::rejection::Reason;

#[test]
fn every_reason_of_a_dead_letter_is_documented() {
    let document = include_str!("../../docs/dead-letters.md");
    for reason in Reason::iter() {
        assert!(
            document.contains(&format!("| `{reason}` |")),
            "docs/dead-letters.md has no row for {reason}"
        );
    }
}
