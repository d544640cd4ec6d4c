//! What a batch holds, and what it gives back.

use crds::{
    pipeline::ColumnType,
    worker::{AcceptTimeConfig, ColumnConfig, TableConfig},
};

use super::*;
use crate::{
    codec::json::decode,
    rejection::{Reason, Stage},
};

fn encoder() -> RowEncoder {
    let table = TableConfig {
        schema: "s".into(),
        name: "t".into(),
        columns: vec![ColumnConfig {
            name: "v".into(),
            column_type: ColumnType::Smallint,
            from: vec!["v".into()],
            nullable: false,
        }],
        time_column: "time".into(),
        extra_column: None,
        unique_by: Vec::new(),
    };
    RowEncoder::new(&table, AcceptTimeConfig::default())
}

fn record(partition: i32, offset: i64, payload: &str) -> Record<'_> {
    Record { partition, epoch: 1, offset, timestamp: Some(offset * 10), payload: payload.as_bytes() }
}

fn add(batch: &mut Batch, partition: i32, offset: i64, values: &[i64]) {
    let rows: Vec<Value> =
        values.iter().map(|value| decode(format!("{{\"v\":{value}}}").as_bytes()).unwrap()).collect();
    batch.add_rows(&record(partition, offset, "{}"), &rows, &encoder(), 0).unwrap();
}

fn row(value: u8) -> Vec<u8> {
    vec![0, 1, 0, 0, 0, 2, 0, value]
}

#[test]
fn rows_of_records_are_found_again() {
    let mut batch = Batch::default();
    add(&mut batch, 0, 5, &[1]);
    add(&mut batch, 1, 9, &[2, 3]);
    add(&mut batch, 0, 6, &[]);
    add(&mut batch, 0, 8, &[4]);
    assert_eq!((batch.row_count(), batch.records_with_rows()), (4, 3));
    assert_eq!(batch.rows_of(0..3), batch.rows());
    assert_eq!(batch.rows_of(1..2), [row(2), row(3)].concat());
    assert_eq!(batch.rows_of(2..2), b"");
    assert_eq!(batch.record(2), (0, 8));
    let part = &batch.parts()[0];
    assert_eq!((part.next_offset(), part.last_timestamp, part.records, part.dropped), (9, Some(80), 3, 1));
    assert_eq!(part.last_hash(), record_hash(b"{}"));
}

#[test]
fn a_revoked_partition_leaves_without_a_trace() {
    let mut batch = Batch::default();
    for (partition, offset, values) in [(1, 1, &[1, 2][..]), (0, 1, &[3]), (1, 2, &[4]), (2, 1, &[5])] {
        add(&mut batch, partition, offset, values);
    }
    for (partition, offset) in [(1, 3), (2, 2)] {
        let rows = [decode(b"{\"v\":6,\"w\":6,\"x\":6}").unwrap()];
        batch.add_rows(&record(partition, offset, "{}"), &rows, &encoder(), 0).unwrap();
    }
    let rejection = Rejection::new(Reason::Empty, Stage::Decode, "");
    batch.add_dead_letter(&record(1, 4, ""), rejection, None, None, None);
    batch.retain(|part| part.partition != 1);
    assert_eq!(batch.rows(), [row(3), row(5), row(6)].concat());
    assert_eq!((batch.row_count(), batch.dead_letters().len()), (3, 0));
    assert_eq!(batch.rows_of(1..2), row(5));
    assert_eq!(batch.unmapped().map(Tally::count).collect::<Vec<_>>(), [2]);
    assert_eq!(batch.parts().iter().map(|part| part.partition).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn a_rejected_record_leaves_no_rows() {
    let mut batch = Batch::default();
    add(&mut batch, 0, 1, &[1]);
    let bad = [decode(b"{\"v\":2}").unwrap(), decode(b"{\"v\":99999,\"w\":2}").unwrap()];
    let rejection = batch.add_rows(&record(0, 2, "{}"), &bad, &encoder(), 0).unwrap_err();
    assert_eq!((rejection.reason, batch.rows()), (Reason::OutOfRange, &row(1)[..]));
    assert_eq!(batch.parts()[0].last_offset, 1);
    assert_eq!(batch.unmapped().map(Tally::count).collect::<Vec<_>>(), [1]);
    batch.add_dead_letter(&record(0, 2, "{}"), rejection, Some(b"k"), None, None);
    assert_eq!(batch.parts()[0].last_offset, 2);
}

#[test]
fn a_dead_letter_keeps_the_beginning_and_the_hash_of_the_whole() {
    let payload = "x".repeat(MAX_DEAD_LETTER_PAYLOAD_BYTES + 1);
    let mut batch = Batch::default();
    let rejection = Rejection::new(Reason::InvalidJson, Stage::Decode, "");
    batch.add_dead_letter(&record(0, 1, &payload), rejection, None, None, None);
    let letter = &batch.dead_letters()[0];
    assert_eq!(letter.payload.len(), MAX_DEAD_LETTER_PAYLOAD_BYTES);
    assert_eq!(letter.payload_bytes, i64::try_from(payload.len()).unwrap());
    assert_eq!(letter.payload_sha256, Sha256::digest(&payload).to_vec());
}

#[test]
fn a_batch_is_full_by_rows_and_by_bytes() {
    let mut batch = Batch::default();
    let values = vec![1; 1000];
    for offset in 0..20 {
        assert!(!batch.is_full(MAX_ROWS));
        add(&mut batch, 0, offset, &values);
    }
    assert!(batch.is_full(MAX_ROWS));
    batch.clear();
    assert!(batch.is_empty() && !batch.is_full(MAX_ROWS) && batch.rows().is_empty());
}
