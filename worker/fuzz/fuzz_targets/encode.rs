//! What decodes becomes whole rows of binary COPY, or nothing at all.
#![no_main]

use std::sync::LazyLock;

use crds::{
    pipeline::{CodecType, ColumnType},
    worker::{AcceptTimeConfig, ColumnConfig, TableConfig},
};
use libfuzzer_sys::fuzz_target;
use program::Outcome;
use worker::{
    codec::decode,
    sink::timescale::{encode::RowEncoder, unmapped::Tally},
};

/// A column of each type, named by its first letters; the event time must be there.
const COLUMNS: [(&str, ColumnType); 10] = [
    ("t", ColumnType::Timestamptz),
    ("b", ColumnType::Boolean),
    ("s", ColumnType::Smallint),
    ("i", ColumnType::Integer),
    ("l", ColumnType::Bigint),
    ("r", ColumnType::Real),
    ("d", ColumnType::DoublePrecision),
    ("x", ColumnType::Text),
    ("j", ColumnType::Jsonb),
    ("u", ColumnType::Uuid),
];

static ENCODER: LazyLock<RowEncoder> = LazyLock::new(|| {
    let column = |(name, column_type): &(&str, ColumnType)| ColumnConfig {
        name: (*name).into(),
        column_type: *column_type,
        from: vec![(*name).into()],
        nullable: *name != "t",
    };
    let table = TableConfig {
        schema: "s".into(),
        name: "t".into(),
        columns: COLUMNS.iter().map(column).collect(),
        time_column: "t".into(),
        extra_column: Some("extra".into()),
        unique_by: Vec::new(),
    };
    RowEncoder::new(&table, AcceptTimeConfig::default())
});

fuzz_target!(|payload: &[u8]| {
    let Ok(event) = decode(CodecType::Json, payload) else { return };
    let Outcome::Rows(rows) = program::rows(event) else { return };
    let before = b"rows of others".to_vec();
    let mut buffer = before.clone();
    let mut unmapped = Tally::default();
    match ENCODER.encode(&rows, 0, &mut buffer, &mut |place, name| unmapped.note(place, name)) {
        Err(_) => assert_eq!(buffer, before),
        Ok(()) => {
            let mut rest = &buffer[before.len()..];
            for _ in &rows {
                rest = after_row(rest);
            }
            assert!(rest.is_empty());
        }
    }
});

/// What follows a row: the number of its columns, and of each the length, -1 for NULL, and so many bytes.
fn after_row(bytes: &[u8]) -> &[u8] {
    let (count, mut rest) = bytes.split_first_chunk().expect("a row");
    assert_eq!(usize::try_from(i16::from_be_bytes(*count)), Ok(COLUMNS.len() + 1));
    for _ in 0..=COLUMNS.len() {
        let (length, value) = rest.split_first_chunk().expect("a length");
        rest = match i32::from_be_bytes(*length) {
            -1 => value,
            length => &value[usize::try_from(length).expect("a length or -1")..],
        };
    }
    rest
}
