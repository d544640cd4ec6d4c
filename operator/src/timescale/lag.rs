//! How far the table is behind the topic. Pure.

use std::collections::BTreeMap;

use crds::{status::LagStatus, worker::StartFrom};
use jiff::Timestamp;

use super::Position;
use crate::kafka::Watermarks;

/// The records that are not yet rows, and the age of the oldest of them as far as the positions tell it.
///
/// A partition without a position begins where `start` says. A time to start from counts as the oldest record:
/// an upper bound until the first row is written.
pub fn lag(
    watermarks: &BTreeMap<i32, Watermarks>,
    positions: &BTreeMap<i32, Position>,
    start: &StartFrom,
    now: Timestamp,
) -> LagStatus {
    let mut lag = LagStatus::default();
    for (partition, watermarks) in watermarks {
        let position = positions.get(partition);
        let next_offset = match (position, start) {
            (Some(position), _) => position.next_offset.max(watermarks.low),
            (None, StartFrom::Latest) => watermarks.high,
            (None, StartFrom::Earliest | StartFrom::Timestamp(_)) => watermarks.low,
        };
        let messages = (watermarks.high - next_offset).max(0);
        if messages > 0 {
            lag.messages += messages;
            let last = position.and_then(|position| position.last_timestamp);
            let age = last.map_or(0, |last| now.as_second() - last.as_second());
            lag.seconds = lag.seconds.max(age);
        }
    }
    lag
}
