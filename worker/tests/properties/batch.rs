//! A batch is what was put into it, less the partitions that were taken away.

use std::collections::BTreeMap;

use crds::{
    pipeline::ColumnType,
    worker::{AcceptTimeConfig, ColumnConfig, TableConfig},
};
use program::Value;
use proptest::prelude::*;
use worker::{
    rejection::{Reason, Rejection, Stage},
    sink::timescale::{
        batch::{Batch, Record},
        encode::RowEncoder,
    },
};

fn encoder() -> RowEncoder {
    let column = ColumnConfig {
        name: "v".into(),
        column_type: ColumnType::Bigint,
        from: vec!["v".into()],
        nullable: false,
    };
    let table = TableConfig {
        schema: "s".into(),
        name: "t".into(),
        columns: vec![column],
        time_column: "time".into(),
        extra_column: None,
        unique_by: Vec::new(),
    };
    RowEncoder::new(&table, AcceptTimeConfig::default())
}

fn row(value: i64) -> Vec<u8> {
    [&1_i16.to_be_bytes()[..], &8_i32.to_be_bytes(), &value.to_be_bytes()].concat()
}

/// The rows of a record, each with a value of its own.
fn values(partition: i32, offset: i64, count: u8) -> Vec<i64> {
    (0..i64::from(count)).map(|index| i64::from(partition) * 1_000_000 + offset * 100 + index).collect()
}

proptest! {
    #[test]
    fn it_holds_what_was_put_into_it(
        fates in prop::collection::vec((0..4_i32, prop::option::weighted(0.9, 0..4_u8)), 0..80),
        kept in prop::collection::vec(any::<bool>(), 4),
    ) {
        let encoder = encoder();
        let mut batch = Batch::default();
        let mut next = BTreeMap::<i32, i64>::new();
        let mut rows = Vec::new();
        let mut letters = Vec::new();
        for (partition, fate) in fates {
            let offset = next.entry(partition).or_default();
            let record =
                Record { partition, epoch: 1, offset: *offset, timestamp: Some(*offset), payload: b"{}" };
            match fate {
                Some(count) => {
                    let values = values(partition, *offset, count);
                    let objects: Vec<Value> = values.iter().map(|value| object(*value)).collect();
                    batch.add_rows(&record, &objects, &encoder, 0).unwrap();
                    rows.push((partition, *offset, values));
                }
                None => {
                    let rejection = Rejection::new(Reason::Empty, Stage::Decode, "");
                    batch.add_dead_letter(&record, rejection, None, None, None);
                    letters.push((partition, *offset));
                }
            }
            *offset += 1;
        }
        let is_kept = |partition: i32| kept[usize::try_from(partition).unwrap()];
        batch.retain(|part| is_kept(part.partition));
        rows.retain(|(partition, ..)| is_kept(*partition));
        letters.retain(|(partition, _)| is_kept(*partition));
        next.retain(|partition, _| is_kept(*partition));

        let bytes = |values: &[i64]| values.iter().flat_map(|value| row(*value)).collect::<Vec<_>>();
        let all: Vec<i64> = rows.iter().flat_map(|(.., values)| values.clone()).collect();
        prop_assert_eq!(batch.rows(), bytes(&all));
        prop_assert_eq!(batch.row_count(), all.len());
        let with_rows: Vec<_> = rows.iter().filter(|(.., values)| !values.is_empty()).collect();
        prop_assert_eq!(batch.records_with_rows(), with_rows.len());
        for (index, (partition, offset, values)) in with_rows.iter().enumerate() {
            prop_assert_eq!(batch.record(index), (*partition, *offset));
            prop_assert_eq!(batch.rows_of(index..index + 1), bytes(values));
        }
        let found: Vec<_> =
            batch.dead_letters().iter().map(|letter| (letter.partition, letter.offset)).collect();
        prop_assert_eq!(found, letters);
        let parts: BTreeMap<i32, i64> =
            batch.parts().iter().map(|part| (part.partition, part.next_offset())).collect();
        prop_assert_eq!(parts, next);
        let dropped: u64 = batch.parts().iter().map(|part| part.dropped).sum();
        prop_assert_eq!(dropped as usize, rows.len() - with_rows.len());
    }
}

fn object(value: i64) -> Value {
    worker::codec::json::decode(format!("{{\"v\":{value}}}").as_bytes()).unwrap()
}
