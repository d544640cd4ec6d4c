//! What one transaction writes: rows, dead letters, and up to where that gets each partition. Pure.

mod messages;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crds::names::MAX_DEAD_LETTER_PAYLOAD_BYTES;
use program::Value;
use rdkafka::message::Headers;
use sha2::{Digest, Sha256};

pub use self::messages::KeptMessage;
use self::messages::Messages;
use super::{encode::RowEncoder, unmapped::Tally};
use crate::{headers::Stub, rejection::Rejection};

#[cfg(test)]
mod tests;

/// A batch with so many rows is full.
pub const MAX_ROWS: usize = 20_000;

/// A batch with so many bytes is full.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// How many bytes it has room for without growing, which would copy them.
const ROOM_BYTES: usize = MAX_BYTES + MAX_BYTES / 4;

/// How long a batch that is not full waits for more records.
pub const LINGER: Duration = Duration::from_millis(50);

/// A record as the source hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// The assignment under which it was read.
    pub epoch: u64,
    /// Its offset.
    pub offset: i64,
    /// Its Kafka timestamp, milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// Its value; empty where it has none.
    pub payload: &'a [u8],
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<u8>,
    row_count: usize,
    extents: Vec<Extent>,
    messages: Messages,
    dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    parts: Vec<Part>,
    begun: Option<Instant>,
    ingested_at: Vec<i64>,
    /// Of each partition that has any, the fields that no column takes.
    unmapped: Vec<(i32, Tally)>,
}

/// Where the rows of one record end in the buffer.
#[derive(Clone, Debug)]
struct Extent {
    partition: i32,
    offset: i64,
    rows_end: usize,
    row_count: u16,
    /// Where its message is kept; empty where it is not.
    message: Range<usize>,
}

/// The share of one partition.
#[derive(Debug)]
pub struct Part {
    /// The partition.
    pub partition: i32,
    /// The assignment under which its records were read.
    pub epoch: u64,
    /// The offset of its last record.
    pub last_offset: i64,
    /// The Kafka timestamp of its last record, milliseconds since 1970.
    pub last_timestamp: Option<i64>,
    /// The value of its last record.
    last_payload: Vec<u8>,
    /// How many records it has.
    pub records: u64,
    /// How many of them the program dropped.
    pub dropped: u64,
    /// The sum of their values, bytes.
    pub bytes: u64,
}

/// A record that does not become rows.
#[derive(Debug)]
pub struct DeadLetter {
    /// Why.
    pub rejection: Rejection,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers as a JSON object.
    pub headers: Option<String>,
    /// The beginning of its value.
    pub payload: Vec<u8>,
    /// The length of the whole value, bytes.
    pub payload_bytes: i64,
    /// The SHA-256 of the whole value.
    pub payload_sha256: Vec<u8>,
}

impl Part {
    /// The position behind its last record.
    pub fn next_offset(&self) -> i64 {
        self.last_offset + 1
    }

    /// The first 16 bytes of the SHA-256 of its last record's value.
    pub fn last_hash(&self) -> Vec<u8> {
        record_hash(&self.last_payload)
    }
}

/// The first 16 bytes of the SHA-256 of a record's value: enough to tell records apart.
pub fn record_hash(payload: &[u8]) -> Vec<u8> {
    Sha256::digest(payload)[..16].to_vec()
}

impl Batch {
    /// An empty one. Its room takes no memory before it is used.
    pub fn new() -> Self {
        Self { rows: Vec::with_capacity(ROOM_BYTES), ..Self::default() }
    }

    /// Adds the rows of a record, all or none; none are fine too. `now` is in microseconds since 1970.
    ///
    /// # Errors
    /// Says which value does not fit its column; then nothing was added. The fields that no column takes are counted all
    /// the same: they tell why, where a field was renamed.
    pub fn add_rows(
        &mut self,
        record: &Record<'_>,
        rows: &[Value],
        encoder: &RowEncoder,
        now: i64,
    ) -> Result<(), Rejection> {
        let Self { rows: buffer, unmapped, .. } = self;
        encoder.encode(rows, now, buffer, &mut |place, name| {
            tally_of(record.partition, unmapped).note(place, name);
        })?;
        let part = self.part(record);
        if rows.is_empty() {
            part.dropped += 1;
            return Ok(());
        }
        self.row_count += rows.len();
        self.extents.push(Extent {
            partition: record.partition,
            offset: record.offset,
            rows_end: self.rows.len(),
            row_count: u16::try_from(rows.len()).unwrap_or(u16::MAX),
            message: 0..0,
        });
        Ok(())
    }

    /// Keeps the message of the record that was added last, if it has rows.
    pub fn keep_message<H: Headers>(&mut self, record: &Record<'_>, headers: Option<&H>) {
        let is_its =
            |extent: &&mut Extent| (extent.partition, extent.offset) == (record.partition, record.offset);
        if let Some(extent) = self.extents.last_mut().filter(is_its) {
            extent.message = self.messages.keep(record.payload, headers);
        }
    }

    /// Adds a record that does not become rows; a stub says how long the whole message is.
    pub fn add_dead_letter(
        &mut self,
        record: &Record<'_>,
        rejection: Rejection,
        key: Option<&[u8]>,
        headers: Option<String>,
        stub: Option<&Stub<'_>>,
    ) {
        self.part(record);
        let kept = record.payload.len().min(MAX_DEAD_LETTER_PAYLOAD_BYTES);
        let rest = key.map_or(0, <[u8]>::len) + headers.as_ref().map_or(0, String::len);
        self.dead_letter_bytes += kept + rejection.message.len() + rest;
        let (payload_bytes, payload_sha256) = match stub {
            Some(stub) => (i64::try_from(stub.payload_bytes), stub.payload_sha256.to_vec()),
            None => (i64::try_from(record.payload.len()), Sha256::digest(record.payload).to_vec()),
        };
        self.dead_letters.push(DeadLetter {
            rejection,
            partition: record.partition,
            offset: record.offset,
            key: key.map(<[u8]>::to_vec),
            headers,
            payload: record.payload[..kept].to_vec(),
            payload_bytes: payload_bytes.unwrap_or(i64::MAX),
            payload_sha256,
        });
    }

    /// Passes over records that Kafka no longer has: the position goes on at `oldest`, and a dead letter at `next_offset`
    /// says why.
    pub fn add_gap(
        &mut self,
        partition: i32,
        epoch: u64,
        (next_offset, oldest): (i64, i64),
        rejection: Rejection,
    ) {
        let record = Record { partition, epoch, offset: next_offset, timestamp: None, payload: &[] };
        self.add_dead_letter(&record, rejection, None, None, None);
        let part = self.part(&Record { offset: oldest - 1, ..record });
        part.records = 0;
    }

    /// Notes when the bridge received one of the records, microseconds since 1970.
    pub fn note_ingestion(&mut self, ingested_at: i64) {
        self.ingested_at.push(ingested_at);
    }

    /// The part of the record's partition, with the record in it.
    fn part(&mut self, record: &Record<'_>) -> &mut Part {
        self.begun.get_or_insert_with(Instant::now);
        let index = match self.parts.iter().position(|part| part.partition == record.partition) {
            Some(index) => index,
            None => {
                self.parts.push(Part::begin(record));
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[index];
        part.last_offset = record.offset;
        part.last_timestamp = record.timestamp;
        part.last_payload.clear();
        part.last_payload.extend_from_slice(record.payload);
        part.records += 1;
        part.bytes += record.payload.len() as u64;
        part
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether it should be written rather than filled further; with so many rows it is.
    pub fn is_full(&self, max_rows: usize) -> bool {
        self.row_count + self.dead_letters.len() >= max_rows
            || self.rows.len() + self.dead_letter_bytes >= MAX_BYTES
            || self.messages.size() >= MAX_BYTES
            || self.parts.iter().map(|part| part.records).sum::<u64>() >= 4 * MAX_ROWS as u64
    }

    /// How long it has waited for more records.
    pub fn age(&self) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    /// The rows in binary COPY form, without header and trailer.
    pub fn rows(&self) -> &[u8] {
        &self.rows
    }

    /// How many rows there are.
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// The records that do not become rows.
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead_letters
    }

    /// The partitions in it, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// When the bridge received some of the records, microseconds since 1970.
    pub fn ingested_at(&self) -> &[i64] {
        &self.ingested_at
    }

    /// The fields that no column takes, by partition.
    pub fn unmapped(&self) -> impl Iterator<Item = &Tally> {
        self.unmapped.iter().map(|(_, tally)| tally)
    }

    /// How many records have rows: what [`Self::rows_of`] counts.
    pub fn records_with_rows(&self) -> usize {
        self.extents.len()
    }

    /// Of each record that has rows, which of all rows is its first one.
    pub fn first_rows(&self) -> Vec<usize> {
        let mut before = 0;
        let first = |extent: &Extent| {
            let first = before;
            before += usize::from(extent.row_count);
            first
        };
        self.extents.iter().map(first).collect()
    }

    /// The message of one of the records that have rows, where it is kept.
    pub fn message(&self, index: usize) -> Option<KeptMessage<'_>> {
        self.messages.get(self.extents.get(index)?.message.clone())
    }

    /// The rows of a range of the records that have any.
    pub fn rows_of(&self, records: Range<usize>) -> &[u8] {
        let end_of = |index: usize| self.extents[index].rows_end;
        let start = records.start.checked_sub(1).map_or(0, end_of);
        let end = records.end.checked_sub(1).map_or(0, end_of);
        &self.rows[start.min(end)..end]
    }

    /// Partition and offset of one of the records that have rows.
    pub fn record(&self, index: usize) -> (i32, i64) {
        (self.extents[index].partition, self.extents[index].offset)
    }

    /// Removes the partitions that `keep` refuses, and sorts the others.
    pub fn retain(&mut self, keep: impl Fn(&Part) -> bool) {
        let count = self.parts.len();
        self.parts.retain(keep);
        self.parts.sort_unstable_by_key(|part| part.partition);
        if self.parts.len() == count {
            return;
        }
        let kept: Vec<i32> = self.parts.iter().map(|part| part.partition).collect();
        let is_kept = |partition: i32| kept.binary_search(&partition).is_ok();
        self.dead_letters.retain(|letter| is_kept(letter.partition));
        self.unmapped.retain(|(partition, _)| is_kept(*partition));
        self.retain_rows(is_kept);
    }

    fn retain_rows(&mut self, is_kept: impl Fn(i32) -> bool) {
        let (mut read, mut written, mut row_count) = (0, 0, 0);
        let rows = &mut self.rows;
        self.extents.retain_mut(|extent| {
            let range = std::mem::replace(&mut read, extent.rows_end)..extent.rows_end;
            if !is_kept(extent.partition) {
                return false;
            }
            let length = range.len();
            rows.copy_within(range, written);
            written += length;
            row_count += usize::from(extent.row_count);
            extent.rows_end = written;
            true
        });
        self.rows.truncate(written);
        self.row_count = row_count;
    }

    /// Empties it and keeps its memory, unless a huge record made it grow out of proportion.
    pub fn clear(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        let mut extents = std::mem::take(&mut self.extents);
        let mut messages = std::mem::take(&mut self.messages);
        rows.clear();
        rows.shrink_to(ROOM_BYTES);
        extents.clear();
        messages.clear(ROOM_BYTES);
        *self = Self { rows, extents, messages, ..Self::default() };
    }
}

fn tally_of(partition: i32, tallies: &mut Vec<(i32, Tally)>) -> &mut Tally {
    let index = tallies.iter().position(|(other, _)| *other == partition).unwrap_or_else(|| {
        tallies.push((partition, Tally::default()));
        tallies.len() - 1
    });
    &mut tallies[index].1
}

impl Part {
    fn begin(record: &Record<'_>) -> Self {
        Self {
            partition: record.partition,
            epoch: record.epoch,
            last_offset: record.offset,
            last_timestamp: None,
            last_payload: Vec::new(),
            records: 0,
            dropped: 0,
            bytes: 0,
        }
    }
}
