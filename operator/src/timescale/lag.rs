//! How far the table is behind the topic. Pure.

use std::collections::BTreeMap;

use crds::{status::LagStatus, worker::StartFrom};
use jiff::Timestamp;

use super::Position;
use crate::kafka::{Watermarks, start_of_unread};

/// The records that are not yet rows, and the age of the oldest of them.
///
/// The age is estimated by the last record taken of a partition that has more, so it is never too low; a
/// partition that was never read counts from the time that `start` names, and without one not at all.
pub fn lag(
    watermarks: &BTreeMap<i32, Watermarks>,
    positions: &BTreeMap<i32, Position>,
    start: &StartFrom,
    now: Timestamp,
) -> LagStatus {
    let mut lag = LagStatus::default();
    let start = start_of_unread(start, !positions.is_empty());
    for (partition, watermarks) in watermarks {
        let position = positions.get(partition);
        let next_offset = watermarks.next_offset(position.map(|position| position.next_offset), start);
        let messages = (watermarks.high - next_offset).max(0);
        if messages == 0 {
            continue;
        }
        lag.messages += messages;
        let oldest = match (position, start) {
            (Some(position), _) => position.last_timestamp.map(Timestamp::as_millisecond),
            (None, StartFrom::Timestamp(milliseconds)) => Some(*milliseconds),
            (None, StartFrom::Earliest | StartFrom::Latest) => None,
        };
        let age = oldest.map_or(0, |oldest| (now.as_millisecond() - oldest) / 1000);
        lag.seconds = lag.seconds.max(age);
    }
    lag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn position(next_offset: i64, second: i64) -> Position {
        Position { next_offset, last_timestamp: Some(at(second)) }
    }

    fn check(
        watermarks: &[(i64, i64)],
        positions: &[(i32, Position)],
        start: StartFrom,
        expected: (i64, i64),
    ) {
        let watermarks = (0..).zip(watermarks.iter().map(|&(low, high)| Watermarks { low, high })).collect();
        let lag = lag(&watermarks, &positions.iter().copied().collect(), &start, at(1000));
        assert_eq!((lag.messages, lag.seconds), expected);
    }

    #[test]
    fn lag_counts_what_is_left_and_takes_the_oldest() {
        check(&[], &[], StartFrom::Earliest, (0, 0));
        check(
            &[(0, 10), (0, 20)],
            &[(0, position(10, 1)), (1, position(20, 1))],
            StartFrom::Earliest,
            (0, 0),
        );
        check(
            &[(0, 10), (0, 20)],
            &[(0, position(7, 990)), (1, position(16, 970))],
            StartFrom::Earliest,
            (7, 30),
        );
    }

    #[test]
    fn records_that_kafka_dropped_are_not_waited_for() {
        check(&[(8, 10)], &[(0, position(5, 990))], StartFrom::Earliest, (2, 10));
    }

    #[test]
    fn a_position_beyond_the_end_is_no_negative_lag() {
        check(&[(0, 3), (0, 5)], &[(0, position(9, 1)), (1, position(4, 999))], StartFrom::Earliest, (1, 1));
    }

    #[test]
    fn a_partition_never_read_begins_where_the_spec_says() {
        check(&[(2, 10)], &[], StartFrom::Earliest, (8, 0));
        check(&[(2, 10)], &[], StartFrom::Latest, (0, 0));
        check(&[(2, 10)], &[], StartFrom::Timestamp(400_000), (8, 600));
        check(&[(0, 10), (2, 10)], &[(0, position(10, 1))], StartFrom::Latest, (8, 0));
    }
}
