//! The fleet's own book of what it has published, for comparison with what arrived. Pure.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::message::{Kind, Message};

/// Everything that the broker has acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// One entry for each publication.
    pub entries: Vec<Entry>,
    /// How often a connection was lost: what was not acknowledged then was published again, and may have arrived
    /// twice.
    pub lost_connections: u64,
}

/// One acknowledged publication.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    /// Who published.
    pub device: String,
    /// The number of its reading.
    pub seq: i64,
    /// [`super::Reading::fingerprint`] of the reading.
    pub fingerprint: String,
    /// What kind of message it was.
    pub kind: Kind,
    /// The SHA-256 of the bytes that were published, by which a dead letter is known.
    pub payload_sha256: [u8; 32],
}

/// How often each row is expected, by device, sequence number and fingerprint.
pub type Rows = BTreeMap<(String, i64, String), u64>;

/// How often each dead letter is expected, by the SHA-256 of its payload.
pub type DeadLetters = BTreeMap<Vec<u8>, u64>;

impl Entry {
    /// The entry of a message.
    pub fn new(message: &Message) -> Self {
        Self {
            device: message.reading.device.clone(),
            seq: message.reading.seq,
            fingerprint: message.reading.fingerprint(),
            kind: message.kind,
            payload_sha256: Sha256::digest(&message.payload).into(),
        }
    }
}

impl Ledger {
    /// The rows that must be there, each as often as it was published.
    pub fn rows(&self) -> Rows {
        let mut rows = Rows::new();
        for entry in self.entries.iter().filter(|entry| !entry.kind.is_malformed()) {
            *rows.entry((entry.device.clone(), entry.seq, entry.fingerprint.clone())).or_default() += 1;
        }
        rows
    }

    /// The dead letters that must be there, each as often as it was published.
    pub fn dead_letters(&self) -> DeadLetters {
        let mut letters = DeadLetters::new();
        for entry in self.entries.iter().filter(|entry| entry.kind.is_malformed()) {
            *letters.entry(entry.payload_sha256.to_vec()).or_default() += 1;
        }
        letters
    }

    /// How many publications there were of each kind.
    pub fn counts(&self) -> BTreeMap<Kind, u64> {
        let mut counts = BTreeMap::new();
        for entry in &self.entries {
            *counts.entry(entry.kind).or_default() += 1;
        }
        counts
    }

    /// How many publications can become no row.
    pub fn malformed(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.kind.is_malformed()).count() as u64
    }

    /// One line for each publication: kind, device, sequence number, fingerprint.
    pub fn csv(&self) -> String {
        let mut lines = vec!["kind,device,seq,fingerprint".to_owned()];
        lines.extend(self.entries.iter().map(|entry| {
            let Entry { device, seq, fingerprint, kind, payload_sha256: _ } = entry;
            format!("{kind:?},{device},{seq},{fingerprint}")
        }));
        lines.join("\n") + "\n"
    }
}

/// What differs between the rows that were expected and those that are there; empty where nothing does.
/// At most ten examples of each difference.
pub fn differences(expected: &Rows, found: &Rows, duplicates_allowed: bool) -> Vec<String> {
    const EXAMPLES: usize = 10;
    let mut missing = Vec::new();
    let mut surplus = Vec::new();
    for (row, times) in expected {
        let found_times = found.get(row).copied().unwrap_or(0);
        if found_times < *times {
            missing
                .push(format!("missing: {row:?} was published {times} times and found {found_times} times"));
        } else if found_times > *times && !duplicates_allowed {
            surplus
                .push(format!("surplus: {row:?} was published {times} times and found {found_times} times"));
        }
    }
    for row in found.keys().filter(|row| !expected.contains_key(*row)) {
        surplus.push(format!("surplus: {row:?} was never published"));
    }
    let mut report = Vec::new();
    for (what, list) in [("missing", missing), ("surplus", surplus)] {
        if !list.is_empty() {
            report.push(format!("{} rows are {what}", list.len()));
            report.extend(list.into_iter().take(EXAMPLES));
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(list: &[(&str, i64, u64)]) -> Rows {
        list.iter()
            .map(|(device, seq, times)| (((*device).to_owned(), *seq, String::new()), *times))
            .collect()
    }

    #[test]
    fn equal_multisets_do_not_differ() {
        let same = rows(&[("a", 1, 1), ("a", 2, 2)]);
        assert_eq!(differences(&same, &same, false), Vec::<String>::new());
    }

    #[test]
    fn loss_repetition_and_invention_are_each_found() {
        let expected = rows(&[("a", 1, 1), ("a", 2, 1), ("a", 3, 2)]);
        let found = rows(&[("a", 2, 2), ("a", 3, 1), ("b", 1, 1)]);
        assert_eq!(
            differences(&expected, &found, false),
            [
                "2 rows are missing",
                r#"missing: ("a", 1, "") was published 1 times and found 0 times"#,
                r#"missing: ("a", 3, "") was published 2 times and found 1 times"#,
                "2 rows are surplus",
                r#"surplus: ("a", 2, "") was published 1 times and found 2 times"#,
                r#"surplus: ("b", 1, "") was never published"#,
            ]
        );
    }

    #[test]
    fn with_duplicates_allowed_only_loss_and_invention_count() {
        let expected = rows(&[("a", 1, 1), ("a", 2, 1)]);
        assert_eq!(differences(&expected, &rows(&[("a", 1, 1), ("a", 2, 3)]), true), Vec::<String>::new());
        assert_eq!(differences(&expected, &rows(&[("a", 2, 3)]), true).len(), 2);
        assert_eq!(differences(&expected, &rows(&[("a", 1, 1), ("a", 2, 1), ("c", 1, 1)]), true).len(), 2);
    }
}
