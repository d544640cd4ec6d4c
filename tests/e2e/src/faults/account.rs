//! Compares what was published with what is there, as multisets. Pure, but for [`Found::read`].
//!
//! There are two books: the fleet's ledger, and the topic, each of whose records must have become its row or one dead
//! letter exactly once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    Result,
    fleet::{DeadLetters, Ledger, Rows, differences},
    scenario::Scenario,
};

/// What may differ between what was published and what is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Comparison {
    /// Nothing: MQTT has no reason to deliver anything twice.
    Exact,
    /// MQTT may deliver again what was not acknowledged: a Kafka record of its own, and so a row of its own.
    MqttMayRepeat,
    /// MQTT may deliver again, and `timescale.uniqueBy` makes it one row all the same. Also of what a device says
    /// twice. Dead letters may repeat.
    UniqueBy,
}

/// A Kafka record: partition and offset.
type Origin = (i32, i64);

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The rows.
    pub rows: Rows,
    /// The dead letters.
    pub letters: DeadLetters,
    /// The records of which rows and dead letters are, with how often.
    pub origins: BTreeMap<Origin, u64>,
    /// The records of the topic.
    pub log: BTreeSet<Origin>,
}

/// What a fault came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Balance {
    /// Messages that the broker acknowledged to a device.
    pub sent: u64,
    /// Rows.
    pub rows: u64,
    /// Dead letters.
    pub dead: u64,
    /// What should be there and is not.
    pub lost: u64,
    /// What is there and should not be, or not so often.
    pub duplicated: u64,
    /// Records of the topic beyond the messages that were sent: what MQTT delivered twice.
    pub redelivered: u64,
}

/// How much is missing, and how much there is too much.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Difference {
    missing: u64,
    surplus: u64,
}

impl Comparison {
    /// The natural key of the pipeline's rows, or null.
    pub fn unique_by(self) -> Value {
        match self {
            Self::Exact | Self::MqttMayRepeat => Value::Null,
            Self::UniqueBy => json!(["device", "seq", "time"]),
        }
    }

    /// The rows that a ledger makes.
    fn rows(self, ledger: &Ledger) -> Rows {
        let mut rows = ledger.rows();
        if self == Self::UniqueBy {
            rows.values_mut().for_each(|times| *times = 1);
        }
        rows
    }

    fn letters_may_repeat(self) -> bool {
        self != Self::Exact
    }
}

impl Found {
    /// Reads everything from the database and the topic.
    pub async fn read(test: &Scenario) -> Result<Self> {
        let table = test.table();
        let records = test.kafka.records(&test.topic()).await?;
        Ok(Self {
            rows: table.rows().await?,
            letters: table.letters().await?,
            origins: table.origins().await?,
            log: records.iter().map(|record| (record.partition, record.offset)).collect(),
        })
    }
}

/// Adds everything up.
pub fn balance(ledger: &Ledger, found: &Found, comparison: Comparison) -> Balance {
    let rows_may_repeat = comparison == Comparison::MqttMayRepeat;
    let rows = difference(&comparison.rows(ledger), &found.rows, rows_may_repeat);
    let letters = difference(&ledger.dead_letters(), &found.letters, comparison.letters_may_repeat());
    let records = difference(&once(&found.log), &found.origins, false);
    // What MQTT delivered twice has a record and no row of its own.
    let lost_records = if comparison == Comparison::UniqueBy { 0 } else { records.missing };
    let sent = ledger.entries.len() as u64;
    Balance {
        sent,
        rows: found.rows.values().sum(),
        dead: found.letters.values().sum(),
        // One message that is missing is missing in both books.
        lost: (rows.missing + letters.missing).max(lost_records),
        duplicated: (rows.surplus + letters.surplus).max(records.surplus),
        redelivered: (found.log.len() as u64).saturating_sub(sent),
    }
}

/// Some of what differs, for a person.
pub fn explain(ledger: &Ledger, found: &Found, comparison: Comparison) -> Vec<String> {
    let rows_may_repeat = comparison == Comparison::MqttMayRepeat;
    let mut lines = differences(&comparison.rows(ledger), &found.rows, rows_may_repeat);
    let records = once(&found.log);
    let missing = records.keys().filter(|record| !found.origins.contains_key(record));
    if comparison != Comparison::UniqueBy {
        lines.extend(missing.take(10).map(|record| format!("record {record:?} became nothing")));
    }
    let repeated =
        found.origins.iter().filter(|(record, times)| **times > 1 || !records.contains_key(record));
    lines
        .extend(repeated.take(10).map(|(record, times)| format!("record {record:?} is there {times} times")));
    lines
}

fn once(log: &BTreeSet<Origin>) -> BTreeMap<Origin, u64> {
    log.iter().map(|record| (*record, 1)).collect()
}

/// Compares two multisets. Where repetition is allowed, only what was not expected at all is too much.
fn difference<K: Ord>(expected: &BTreeMap<K, u64>, found: &BTreeMap<K, u64>, may_repeat: bool) -> Difference {
    let times = |multiset: &BTreeMap<K, u64>, key| multiset.get(key).copied().unwrap_or(0);
    let missing = expected.iter().map(|(key, wanted)| wanted.saturating_sub(times(found, key)));
    let surplus = found.iter().map(|(key, there)| match times(expected, key) {
        1.. if may_repeat => 0,
        wanted => there.saturating_sub(wanted),
    });
    Difference { missing: missing.sum(), surplus: surplus.sum() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Entry, Kind};

    /// Two rows, of which the second was said twice, and a dead letter.
    fn ledger() -> Ledger {
        let entry = |seq: i64, kind| Entry {
            device: "d".to_owned(),
            seq,
            fingerprint: seq.to_string(),
            kind,
            payload_sha256: [seq as u8; 32],
        };
        let entries = vec![
            entry(1, Kind::OnTime),
            entry(2, Kind::OnTime),
            entry(2, Kind::Repeated),
            entry(3, Kind::BrokenJson),
        ];
        Ledger { entries, lost_connections: 0 }
    }

    /// What is there where nothing went wrong.
    fn found() -> Found {
        let row = |seq: i64| ("d".to_owned(), seq, seq.to_string());
        Found {
            rows: [(row(1), 1), (row(2), 2)].into(),
            letters: [(vec![3; 32], 1)].into(),
            origins: (0..4).map(|offset| ((0, offset), 1)).collect(),
            log: (0..4).map(|offset| (0, offset)).collect(),
        }
    }

    fn row(seq: i64) -> (String, i64, String) {
        ("d".to_owned(), seq, seq.to_string())
    }

    fn lost_and_duplicated(found: &Found, comparison: Comparison) -> (u64, u64) {
        let balance = balance(&ledger(), found, comparison);
        let is_explained = !explain(&ledger(), found, comparison).is_empty();
        assert!(
            balance.lost + balance.duplicated == 0 || is_explained || found.letters != self::found().letters
        );
        (balance.lost, balance.duplicated)
    }

    #[test]
    fn nothing_differs_where_nothing_went_wrong() {
        let whole = Balance { sent: 4, rows: 3, dead: 1, lost: 0, duplicated: 0, redelivered: 0 };
        for comparison in [Comparison::Exact, Comparison::MqttMayRepeat] {
            assert_eq!(balance(&ledger(), &found(), comparison), whole, "{comparison:?}");
        }
    }

    #[test]
    fn a_row_a_dead_letter_and_a_record_can_be_lost() {
        for comparison in [Comparison::Exact, Comparison::MqttMayRepeat] {
            let mut less = found();
            less.rows.insert(row(2), 1);
            less.origins.remove(&(0, 2));
            assert_eq!(lost_and_duplicated(&less, comparison), (1, 0), "{comparison:?}");
            let mut less = found();
            less.letters.clear();
            assert_eq!(lost_and_duplicated(&less, comparison), (1, 0), "{comparison:?}");
            let mut less = found();
            less.origins.remove(&(0, 3));
            assert_eq!(lost_and_duplicated(&less, comparison), (1, 0), "{comparison:?}");
        }
    }

    #[test]
    fn a_record_that_became_two_rows_is_a_duplicate_whatever_mqtt_may_do() {
        let mut twice = found();
        twice.rows.insert(row(1), 2);
        twice.origins.insert((0, 0), 2);
        for comparison in [Comparison::Exact, Comparison::MqttMayRepeat, Comparison::UniqueBy] {
            assert_eq!(lost_and_duplicated(&twice, comparison).1.min(1), 1, "{comparison:?}");
        }
    }

    #[test]
    fn what_mqtt_delivered_twice_is_a_duplicate_only_where_it_may_not() {
        let mut again = found();
        again.rows.insert(row(1), 2);
        again.origins.insert((0, 4), 1);
        again.log.insert((0, 4));
        assert_eq!(lost_and_duplicated(&again, Comparison::Exact), (0, 1));
        assert_eq!(lost_and_duplicated(&again, Comparison::MqttMayRepeat), (0, 0));
        assert_eq!(balance(&ledger(), &again, Comparison::MqttMayRepeat).redelivered, 1);
    }

    #[test]
    fn with_a_natural_key_each_row_is_there_once() {
        let mut unique = found();
        unique.rows.insert(row(2), 1);
        unique.origins.remove(&(0, 2));
        unique.letters.insert(vec![3; 32], 2);
        assert_eq!(lost_and_duplicated(&unique, Comparison::UniqueBy), (0, 0));
        assert_eq!(lost_and_duplicated(&found(), Comparison::UniqueBy), (0, 1));
        unique.rows.remove(&row(1));
        assert_eq!(lost_and_duplicated(&unique, Comparison::UniqueBy), (1, 0));
    }

    #[test]
    fn rows_that_nobody_sent_are_too_many() {
        let mut more = found();
        more.rows.insert(row(9), 1);
        assert_eq!(lost_and_duplicated(&more, Comparison::MqttMayRepeat), (0, 1));
    }
}
