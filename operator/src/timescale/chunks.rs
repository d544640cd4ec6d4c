//! Whether chunks have a size that suits the server: advice, and never a change. Pure.
//!
//! TimescaleDB's rule of thumb is that the chunks which are being written fit into a quarter of the memory. A client does
//! not see the memory. It sees `shared_buffers`, for which PostgreSQL's documentation says a quarter of it, and
//! `effective_cache_size`, for which three quarters are usual: a quarter is taken for whichever of the two says more.

use std::time::Duration;

use crds::status::Reason;

use super::sql::duration_text;
use crate::{
    change::{Note, coarse_number},
    pipeline::Table,
};

#[cfg(test)]
mod tests;

/// How many of the last chunks are measured; the middle one counts, so one that a replay has filled does not.
pub(super) const MEASURED: usize = 3;

const MIB: u64 = 1 << 20;

/// Intervals that a person would write, in minutes.
const INTERVALS: [u64; 15] =
    [10, 30, 60, 120, 180, 240, 360, 480, 720, 1_440, 2_880, 4_320, 10_080, 20_160, 43_200];

/// What chunks take of a server.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ChunkSizes {
    /// How many chunks the table has.
    pub number: i64,
    /// What its last full chunks take, those in the rowstore that have the interval of the spec, with indexes; bytes.
    pub last_full: Vec<u64>,
    /// `shared_buffers`, bytes.
    pub shared_buffers: u64,
    /// `effective_cache_size`, bytes.
    pub effective_cache_size: u64,
}

/// Limits beyond which chunks are far from what suits the server.
struct Limits {
    /// Larger than so many quarters of a quarter of the memory is too large.
    large_quarters: u64,
    /// More chunks than this are too many, ...
    many: i64,
    /// ... if they take less than this, bytes.
    small: u64,
}

/// Advice begins beyond these ...
const FIRST: Limits = Limits { large_quarters: 8, many: 1_000, small: 4 * MIB };

/// ... and ends within these, so that it does not come and go with every chunk.
const AGAIN: Limits = Limits { large_quarters: 5, many: 800, small: 8 * MIB };

/// What a person should know of the chunk interval; `is_advised` says whether there was something to know before.
pub fn advise_chunk_interval(table: &Table, sizes: &ChunkSizes, is_advised: bool) -> Option<Note> {
    let wanted = table.wanted.as_ref()?;
    let mut bytes: [u64; MEASURED] = sizes.last_full.as_slice().try_into().ok()?;
    bytes.sort_unstable();
    let bytes = bytes[MEASURED / 2].max(1);
    let quarter = sizes.shared_buffers.max(sizes.effective_cache_size / 3);
    let limits = if is_advised { AGAIN } else { FIRST };
    let interval = wanted.chunk_interval;
    // As many bytes as a chunk should have, and why it should.
    let (fitting, why) = if bytes.saturating_mul(4) > quarter.saturating_mul(limits.large_quarters) {
        let why = format!(
            "which is more than a quarter of the server's memory ({}, as far as shared_buffers and effective_cache_size \
             tell), so chunks that are written do not fit into it",
            size_text(quarter)
        );
        (quarter, why)
    } else if sizes.number >= limits.many && bytes < limits.small {
        let number = coarse_number(sizes.number, 1);
        let why =
            format!("and there are about {number} of them, each of which costs every query some planning");
        ((64 * MIB).min(quarter), why)
    } else {
        return None;
    };
    let minutes = u128::from(interval.as_secs()) * u128::from(fitting) / u128::from(bytes) / 60;
    // A chunk goes as a whole, so one that is long in proportion keeps rows much longer.
    let longest = wanted.drop_after.map_or(u64::MAX, |drop_after| drop_after.as_secs() / 60 / 4);
    let better = INTERVALS.into_iter().rfind(|one| u128::from(*one) <= minutes && *one <= longest);
    let better = Duration::from_secs(better.unwrap_or(INTERVALS[0]) * 60);
    let is_another = better * 2 <= interval || better >= interval * 2;
    let is_better = (better < interval) == (fitting < bytes);
    (is_another && is_better).then(|| Note {
        reason: Reason::ChunkIntervalAdvised,
        message: format!(
            "as the spec says; chunks of table {table} take about {} with their indexes at timescale.chunkInterval {}, {why}. \
             About {} would suit it; it holds for new chunks",
            size_text(bytes),
            duration_text(interval),
            duration_text(better),
        ),
    })
}

/// One digit and a unit: what is told again only when it is another size.
fn size_text(bytes: u64) -> String {
    let (unit_bytes, unit) = [(1 << 30, "GiB"), (MIB, "MiB")]
        .into_iter()
        .find(|(unit_bytes, _)| bytes >= *unit_bytes)
        .unwrap_or((1 << 10, "KiB"));
    let number = i64::try_from(bytes / unit_bytes).unwrap_or(i64::MAX);
    format!("{} {unit}", coarse_number(number, 1))
}
