//! Tells repeats of a message from another message with the same key. Pure.
//!
//! A repeat need not make the same row to the byte: a program may note when it ran, or the record's offset. So a
//! message is handled again as if it had been delivered at other times and in other ways: what then differs belongs to
//! the delivery, and the rest is the content.

use std::collections::BTreeMap;

use crds::worker::{AcceptTimeConfig, TableConfig};

use super::{arrays::fields, batch::Batch, encode::RowEncoder};
use crate::{
    headers,
    transform::{Transform, with_metadata},
};

/// A row that is not what the table has under its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// Which row of the batch.
    pub row: usize,
    /// The first row of the batch with the same key.
    pub first: usize,
    /// Of each column, whether it differs.
    pub columns: Vec<bool>,
}

/// A record one of whose rows has the key of another row, and other content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// Which of the batch's records that have rows.
    pub record: usize,
    /// The columns that differ, by number.
    pub columns: Vec<usize>,
}

/// Handles messages again.
#[derive(Clone, Debug)]
pub struct Repeats {
    transform: Transform,
    encoder: RowEncoder,
}

impl Repeats {
    /// For rows of this table.
    pub fn new(transform: Transform, table: &TableConfig) -> Self {
        // A row that was accepted once is not judged by its age again.
        Self { transform, encoder: RowEncoder::new(table, AcceptTimeConfig::default()) }
    }

    /// Whether messages have to be kept beside their rows: without a program all of a row is content.
    pub fn need_messages(&self) -> bool {
        self.transform.program.is_some()
    }

    /// Of each field of a record's rows, whether it belongs to the delivery.
    fn of_delivery(&self, batch: &Batch, record: usize) -> Vec<bool> {
        let rows = batch.rows_of(record..record + 1);
        let mut of_delivery = vec![false; fields(rows).count()];
        let Some(message) = batch.message(record) else { return of_delivery };
        let origin = headers::decode(&message);
        with_metadata(batch.record(record), origin.as_ref(), |metadata| {
            for other in metadata.other_deliveries() {
                let mut others = Vec::new();
                let made = self.transform.apply(message.payload, &other);
                let encoded =
                    made.and_then(|made| self.encoder.encode(&made, 0, &mut others, &mut |_, _| {}));
                // A delivery of which the program makes something else altogether tells nothing of single fields.
                if encoded.is_err() || fields(&others).count() != of_delivery.len() {
                    continue;
                }
                for (of_delivery, (here, there)) in
                    of_delivery.iter_mut().zip(fields(rows).zip(fields(&others)))
                {
                    *of_delivery |= here != there;
                }
            }
        });
        of_delivery
    }
}

/// Looks through differences, which come in the order of the rows.
pub struct Search<'a> {
    repeats: &'a Repeats,
    batch: &'a Batch,
    first_rows: Vec<usize>,
    /// Of the record that was looked at last.
    of_delivery: Option<(usize, Vec<bool>)>,
    conflicts: BTreeMap<usize, Vec<usize>>,
}

impl<'a> Search<'a> {
    /// For conflicts of a batch.
    pub fn new(repeats: &'a Repeats, batch: &'a Batch) -> Self {
        Self { repeats, batch, first_rows: batch.first_rows(), of_delivery: None, conflicts: BTreeMap::new() }
    }

    /// Looks at one difference.
    pub fn look_at(&mut self, difference: &Difference) {
        let (record, earlier) = (self.record_of(difference.row), self.record_of(difference.first));
        // What it differs from may be a row of a record that is refused itself: that is known the next time.
        if self.conflicts.contains_key(&record) || self.conflicts.contains_key(&earlier) {
            return;
        }
        if self.of_delivery.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.of_delivery = Some((record, self.repeats.of_delivery(self.batch, record)));
        }
        let Some((_, of_delivery)) = &self.of_delivery else { return };
        let start = (difference.row - self.first_rows[record]) * difference.columns.len();
        let is_content = |column: &usize| !of_delivery.get(start + column).copied().unwrap_or(false);
        let columns: Vec<usize> = (0..difference.columns.len())
            .filter(|column| difference.columns[*column])
            .filter(is_content)
            .collect();
        if !columns.is_empty() {
            self.conflicts.insert(record, columns);
        }
    }

    /// The records that are to be refused, in order.
    pub fn conflicts(self) -> Vec<Conflict> {
        self.conflicts.into_iter().map(|(record, columns)| Conflict { record, columns }).collect()
    }

    fn record_of(&self, row: usize) -> usize {
        self.first_rows.partition_point(|first| *first <= row).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use crds::{
        pipeline::{CodecType, ColumnType},
        worker::ColumnConfig,
    };
    use jiff::Timestamp;
    use program::{Metadata, TopicWriter};

    use super::*;
    use crate::{headers::Origin, sink::timescale::batch::Record};

    const COLUMNS: [(&str, ColumnType); 4] = [
        ("time", ColumnType::Timestamptz),
        ("device", ColumnType::Text),
        ("value", ColumnType::DoublePrecision),
        ("noted", ColumnType::Text),
    ];

    fn table() -> TableConfig {
        let column = |(name, column_type): (&str, ColumnType)| ColumnConfig {
            name: name.into(),
            column_type,
            from: vec![name.into()],
            nullable: !["time", "device"].contains(&name),
        };
        TableConfig {
            schema: "s".into(),
            name: "t".into(),
            columns: COLUMNS.map(column).to_vec(),
            time_column: "time".into(),
            extra_column: None,
            unique_by: vec!["device".into(), "time".into()],
        }
    }

    fn repeats(program: &str) -> Repeats {
        let program = Some(program::compile(program, TopicWriter::Bridge).unwrap());
        Repeats::new(Transform { codec: CodecType::Json, program }, &table())
    }

    fn origin() -> Origin<'static> {
        Origin {
            topic: "plants/7".into(),
            qos: 1,
            retained: false,
            duplicate: false,
            ingested_at: Timestamp::from_second(1_795_428_000).unwrap(),
            content_type: None,
            properties: vec![("unit".into(), "K".into())],
            stub: None,
        }
    }

    /// A batch with these records, as the intake makes it.
    fn batch(repeats: &Repeats, payloads: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for (offset, payload) in (10..).zip(payloads) {
            let record =
                Record { partition: 3, epoch: 1, offset, timestamp: None, payload: payload.as_bytes() };
            let rows = with_metadata((3, offset), Some(&origin()), |metadata: &Metadata<'_>| {
                repeats.transform.apply(record.payload, metadata)
            });
            batch.add_rows(&record, &rows.unwrap(), &repeats.encoder, 0).unwrap();
            batch.keep_message(&record, Some(&headers::encode(&origin(), 1024)));
        }
        batch
    }

    const EVENT: &str = r#"{"time":1795428000,"device":"d","value":1}"#;

    /// The columns of a row that belong to the delivery.
    fn of_delivery(program: &str) -> Vec<&'static str> {
        let repeats = repeats(program);
        let found = repeats.of_delivery(&batch(&repeats, &[EVENT]), 0);
        COLUMNS.iter().zip(found).filter(|(_, found)| *found).map(|((name, _), _)| *name).collect()
    }

    #[test]
    fn what_a_program_takes_from_the_delivery_is_no_content() {
        for noted in [
            "now()",
            "format_timestamp!(now(), \"%F\")",
            "%ingested_at",
            "%offset",
            "%partition",
            "%qos",
            "%retained",
            "now() > %ingested_at",
            "to_unix_timestamp(now()) - to_unix_timestamp(%ingested_at)",
            "uuid_v4()",
        ] {
            assert_eq!(of_delivery(&format!(".noted = {noted}")), ["noted"], "{noted}");
        }
        let of_a_list = "rows = [.]\nif is_array(.) { rows = array!(.) }\n\
            . = map_values(rows) -> |row| { merge(object!(row), {\"noted\": now()}) }";
        assert_eq!(of_delivery(of_a_list), ["noted"]);
        assert_eq!(of_delivery(". = merge!(., {\"noted\": now()})"), ["noted"]);
    }

    #[test]
    fn what_a_program_takes_from_the_message_is_content() {
        let nothing: [&str; 0] = [];
        assert_eq!(of_delivery(".noted = %topic + to_string!(%properties.unit)"), nothing);
        assert_eq!(of_delivery(".value = to_float!(.value) * 2.0"), nothing);
        assert_eq!(of_delivery(".noted = if .value == 1 { \"one\" } else { now() }"), nothing);
    }

    #[test]
    fn a_program_that_some_deliveries_fail_is_judged_by_the_others() {
        assert_eq!(of_delivery("if %retained { abort }\n.noted = now()"), ["noted"]);
        assert_eq!(of_delivery("assert!(!%retained)\n.noted = %offset"), ["noted"]);
    }

    fn difference(row: usize, first: usize, differ: [bool; 2]) -> Difference {
        Difference { row, first, columns: vec![false, false, differ[0], differ[1]] }
    }

    fn conflicts(payloads: &[&str], differences: &[Difference]) -> Vec<(usize, Vec<usize>)> {
        let repeats = repeats("if is_object(.) { .noted = now() }");
        let batch = batch(&repeats, payloads);
        let mut search = Search::new(&repeats, &batch);
        differences.iter().for_each(|difference| search.look_at(difference));
        search.conflicts().into_iter().map(|conflict| (conflict.record, conflict.columns)).collect()
    }

    #[test]
    fn a_row_that_differs_in_its_delivery_alone_is_a_repeat() {
        let differences = [difference(0, 0, [false, true]), difference(1, 1, [true, true])];
        assert_eq!(conflicts(&[EVENT, EVENT], &differences), [(1, vec![2])]);
    }

    #[test]
    fn a_record_conflicts_by_any_of_its_rows() {
        let two = format!("[{EVENT},{EVENT}]");
        let differences = [difference(2, 2, [true, false]), difference(3, 2, [true, true])];
        assert_eq!(conflicts(&[EVENT, EVENT, &two], &[difference(3, 2, [true, false])]), [(2, vec![2])]);
        assert_eq!(conflicts(&[EVENT, EVENT, &two], &differences), [(2, vec![2])]);
    }

    #[test]
    fn what_differs_from_a_record_that_is_refused_is_judged_later() {
        let two = format!("[{EVENT},{EVENT}]");
        // The first record conflicts with the table by its second row, and its first row is what the second differs
        // from.
        let differences = [difference(1, 1, [true, false]), difference(2, 0, [true, false])];
        assert_eq!(conflicts(&[&two, EVENT], &differences), [(0, vec![2])]);
        assert_eq!(conflicts(&[&two, EVENT], &differences[1..]), [(1, vec![2])]);
    }
}
