//! From an object to one row of binary COPY. Pure.
//!
//! Which values each column type takes stands in `docs/columns.md`; [`value`] is its other half.

pub mod fields;
pub mod json;
pub mod value;

use crds::{
    pipeline::ColumnType,
    worker::{AcceptTimeConfig, TableConfig},
};
use program::Value;

use self::fields::Fields;
use crate::rejection::{Reason, Rejection, Stage};

/// What every binary COPY begins with: signature, flags, length of the header's extension.
pub const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What every binary COPY ends with.
pub const COPY_TRAILER: &[u8] = &(-1_i16).to_be_bytes();

/// How many bytes the rows of one record may take.
const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024;

/// Writes rows of one table.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    columns: Vec<Column>,
    /// What the columns take.
    fields: Fields,
    has_extra: bool,
    accept_time: AcceptTimeConfig,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    column_type: ColumnType,
    path: Vec<String>,
    nullable: bool,
    is_time: bool,
}

impl RowEncoder {
    /// Writes rows of `table` whose event time is within `accept_time`.
    pub fn new(table: &TableConfig, accept_time: AcceptTimeConfig) -> Self {
        let columns = table
            .columns
            .iter()
            .map(|column| Column {
                name: column.name.clone(),
                column_type: column.column_type,
                path: column.from.clone(),
                nullable: column.nullable,
                is_time: column.name == table.time_column,
            })
            .collect();
        let fields = Fields::of(&table.columns);
        Self { columns, fields, has_extra: table.extra_column.is_some(), accept_time }
    }

    /// Appends the rows of one record, all or none. `now` is in microseconds since 1970. Calls `unmapped` with each field
    /// that no column takes, as [`Fields::find`] does: also of the row that does not fit.
    ///
    /// # Errors
    /// Says what is wrong with the first row that does not fit; `buffer` is then as it was.
    pub fn encode(
        &self,
        rows: &[Value],
        now: i64,
        buffer: &mut Vec<u8>,
        unmapped: &mut dyn FnMut(&str, &str),
    ) -> Result<(), Rejection> {
        let start = buffer.len();
        let mut found = vec![None; self.columns.len()];
        let result = rows.iter().try_for_each(|row| {
            self.encode_row(row, &mut found, now, buffer, unmapped)?;
            if buffer.len() - start > MAX_RECORD_BYTES {
                let message = format!("the rows of this record take more than {MAX_RECORD_BYTES} bytes");
                return Err(Rejection::new(Reason::TooLarge, Stage::Encode, message));
            }
            Ok(())
        });
        if result.is_err() {
            buffer.truncate(start);
        }
        result
    }

    fn encode_row<'a>(
        &self,
        row: &'a Value,
        found: &mut [Option<&'a Value>],
        now: i64,
        buffer: &mut Vec<u8>,
        unmapped: &mut dyn FnMut(&str, &str),
    ) -> Result<(), Rejection> {
        let reject = |(reason, message)| Rejection::new(reason, Stage::Encode, message);
        found.fill(None);
        let has_rest = self.fields.find(row, found, unmapped);
        let count = self.columns.len() + usize::from(self.has_extra);
        // A table has at most 1,600 columns.
        buffer.extend_from_slice(&i16::try_from(count).unwrap_or(i16::MAX).to_be_bytes());
        for (column, found) in self.columns.iter().zip(found) {
            self.encode_column(column, *found, now, buffer).map_err(|(reason, message)| {
                reject((reason, format!("column {}: {message}", column.name)))
            })?;
        }
        match (self.has_extra, has_rest) {
            (false, _) => Ok(()),
            (true, false) => {
                buffer.extend_from_slice(&NULL);
                Ok(())
            }
            (true, true) => self.encode_extra(row, buffer).map_err(reject),
        }
    }

    fn encode_extra(&self, row: &Value, buffer: &mut Vec<u8>) -> Result<(), (Reason, String)> {
        let rest = row.as_object().into_iter().flatten().filter(|(name, _)| !self.fields.take(name));
        with_length(buffer, |buffer| {
            buffer.push(json::JSONB_VERSION);
            json::write_object(rest.map(|(name, value)| (name.as_str(), value)), buffer)
        })
    }

    fn encode_column(
        &self,
        column: &Column,
        found: Option<&Value>,
        now: i64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), (Reason, String)> {
        let Some(found) = found else {
            if !column.nullable {
                return Err((Reason::MissingField, format!("{} has no value", path_text(&column.path))));
            }
            buffer.extend_from_slice(&NULL);
            return Ok(());
        };
        if column.is_time {
            let time = value::timestamp(found)?;
            self.check_time(time, now)?;
            with_length(buffer, |buffer| {
                value::write_timestamp(time, buffer);
                Ok(())
            })
        } else {
            with_length(buffer, |buffer| value::write(column.column_type, found, buffer))
        }
    }

    fn check_time(&self, time: i64, now: i64) -> Result<(), (Reason, String)> {
        let age_seconds = (now - time).div_euclid(1_000_000);
        let allowed =
            |seconds: Option<u64>| seconds.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        if allowed(self.accept_time.max_late_seconds).is_some_and(|max_late| age_seconds > max_late) {
            return Err((Reason::TimeOutOfRange, format!("the event is {age_seconds} s old")));
        }
        if allowed(self.accept_time.max_ahead_seconds).is_some_and(|max_ahead| -age_seconds > max_ahead) {
            return Err((Reason::TimeOutOfRange, format!("the event is {} s in the future", -age_seconds)));
        }
        Ok(())
    }
}

/// The length that stands for NULL.
pub const NULL: [u8; 4] = (-1_i32).to_be_bytes();

fn path_text(path: &[String]) -> String {
    path.iter().flat_map(|field| [".", field]).collect()
}

/// Writes a field behind its length, which is known only afterwards.
fn with_length(
    buffer: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), (Reason, String)>,
) -> Result<(), (Reason, String)> {
    let start = buffer.len();
    buffer.extend_from_slice(&NULL);
    write(buffer)?;
    let length = i32::try_from(buffer.len() - start - NULL.len())
        .map_err(|_| (Reason::TooLarge, "the value has more than 2 GiB".to_owned()))?;
    buffer[start..start + NULL.len()].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use crds::worker::ColumnConfig;

    use super::*;
    use crate::codec::json::decode;

    const NOW: i64 = 1_795_428_000_000_000;

    fn column(name: &str, column_type: ColumnType, from: &[&str], nullable: bool) -> ColumnConfig {
        let from = from.iter().map(|field| (*field).to_owned()).collect();
        ColumnConfig { name: name.into(), column_type, from, nullable }
    }

    fn encoder(extra: bool) -> RowEncoder {
        let table = TableConfig {
            schema: "plant".into(),
            name: "telemetry".into(),
            columns: vec![
                column("time", ColumnType::Timestamptz, &["ts"], false),
                column("device", ColumnType::Text, &["device"], false),
                column("value", ColumnType::DoublePrecision, &["sensor", "value"], true),
            ],
            time_column: "time".into(),
            extra_column: extra.then(|| "extra".into()),
            unique_by: Vec::new(),
        };
        RowEncoder::new(
            &table,
            AcceptTimeConfig { max_late_seconds: Some(3600), max_ahead_seconds: Some(60) },
        )
    }

    fn encode(extra: bool, rows: &[&str]) -> Result<Vec<u8>, (Reason, String)> {
        let rows: Vec<Value> = rows.iter().map(|row| decode(row.as_bytes()).unwrap()).collect();
        let mut buffer = b"before".to_vec();
        match encoder(extra).encode(&rows, NOW, &mut buffer, &mut |_, _| {}) {
            Ok(()) => Ok(buffer.split_off(6)),
            Err(rejection) => {
                assert_eq!(buffer, b"before");
                Err((rejection.reason, rejection.message))
            }
        }
    }

    #[test]
    fn a_row_is_written_as_copy_expects_it() {
        let row = encode(false, &[r#"{"ts":"2026-11-23T10:00:00Z","device":"d7","sensor":{"value":1.5}}"#])
            .unwrap();
        let micros_since_2000 = NOW - 946_684_800_000_000;
        let expected: Vec<u8> = [
            &3_i16.to_be_bytes()[..],
            &8_i32.to_be_bytes(),
            &micros_since_2000.to_be_bytes(),
            &2_i32.to_be_bytes(),
            b"d7",
            &8_i32.to_be_bytes(),
            &1.5_f64.to_be_bytes(),
        ]
        .concat();
        assert_eq!(row, expected);
    }

    #[test]
    fn what_no_column_takes_goes_to_the_extra_column() {
        let row = encode(true, &[r#"{"ts":1795428000,"device":"d","sensor":{"value":2},"a":[1]}"#]).unwrap();
        assert!(
            row.ends_with(b"\x01{\"a\":[1],\"sensor\":{\"value\":2}}"),
            "{}",
            String::from_utf8_lossy(&row)
        );
        let without = encode(true, &[r#"{"ts":1795428000,"device":"d"}"#]).unwrap();
        assert!(without.ends_with(&[NULL, NULL].concat()));
    }

    #[test]
    fn missing_and_null_are_the_same() {
        assert!(encode(false, &[r#"{"ts":1795428000,"device":"d","sensor":null}"#]).is_ok());
        for row in [r#"{"ts":1795428000}"#, r#"{"ts":1795428000,"device":null}"#] {
            let message = "column device: .device has no value".to_owned();
            assert_eq!(encode(false, &[row]), Err((Reason::MissingField, message)));
        }
    }

    #[test]
    fn one_bad_row_rejects_all_rows_of_the_record() {
        let good = r#"{"ts":1795428000,"device":"d"}"#;
        let bad = r#"{"ts":1795428000,"device":["d"]}"#;
        let message = "column device: an array, text is needed".to_owned();
        assert_eq!(encode(false, &[good, bad]), Err((Reason::WrongType, message)));
        assert_eq!(encode(false, &[good, good]).unwrap().len(), 2 * encode(false, &[good]).unwrap().len());
    }

    #[test]
    fn times_outside_of_the_window_are_rejected() {
        let at =
            |offset: i64| encode(false, &[&format!(r#"{{"ts":{},"device":"d"}}"#, 1_795_428_000 + offset)]);
        assert!(at(-3600).is_ok());
        assert_eq!(at(-3601).unwrap_err().0, Reason::TimeOutOfRange);
        assert!(at(60).is_ok());
        assert_eq!(at(61).unwrap_err().1, "column time: the event is 61 s in the future");
    }

    #[test]
    fn nul_is_rejected_wherever_it_would_be_stored() {
        for row in [
            r#"{"ts":1795428000,"device":"d\u0000"}"#,
            r#"{"ts":1795428000,"device":"d","a":"\u0000"}"#,
            r#"{"ts":1795428000,"device":"d","a\u0000":1}"#,
            r#"{"ts":1795428000,"device":"d","a":[{"b\u0000":1}]}"#,
        ] {
            assert_eq!(encode(true, &[row]).unwrap_err().0, Reason::NulCharacter, "{row}");
        }
        assert!(encode(false, &[r#"{"ts":1795428000,"device":"d","a\u0000":1}"#]).is_ok());
    }
}
