//! From rows in binary COPY form to one binary array for each column: a field of the one and an element of the other
//! are the same bytes, so nothing is decoded. Pure.

use crds::pipeline::ColumnType;
use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, types::Oid},
};

use super::encode::NULL;

/// The fields of rows in binary COPY form, row by row, each with its length in front.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    left_in_row: u16,
}

/// The fields of these rows.
pub fn fields(rows: &[u8]) -> Fields<'_> {
    Fields { rest: rows, left_in_row: 0 }
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while self.left_in_row == 0 {
            self.left_in_row = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        }
        self.left_in_row -= 1;
        let length = i32::from_be_bytes(self.rest.first_chunk().copied()?);
        self.take(NULL.len() + usize::try_from(length).unwrap_or(0))
    }
}

/// One column of some rows, as an array of its type.
#[derive(Debug)]
pub struct Array {
    column_type: ColumnType,
    elements: Vec<u8>,
    count: i32,
    has_null: bool,
}

impl Array {
    fn push(&mut self, field: &[u8]) {
        self.elements.extend_from_slice(field);
        self.count += 1;
        self.has_null |= field == NULL;
    }

    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        self.elements.len() + 20
    }
}

/// The columns of rows that have these types.
pub fn transpose(rows: &[u8], types: impl Iterator<Item = ColumnType>) -> Vec<Array> {
    let array = |column_type| Array { column_type, elements: Vec::new(), count: 0, has_null: false };
    let mut arrays: Vec<Array> = types.map(array).collect();
    let count = arrays.len();
    for (index, field) in fields(rows).enumerate() {
        arrays[index % count].push(field);
    }
    arrays
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let (dimensions, lower_bound) = (1_i32, 1_i32);
        let (element, _) = oids(self.column_type);
        buffer.extend_from_slice(&dimensions.to_be_bytes());
        buffer.extend_from_slice(&i32::from(self.has_null).to_be_bytes());
        buffer.extend_from_slice(&element.to_be_bytes());
        buffer.extend_from_slice(&self.count.to_be_bytes());
        buffer.extend_from_slice(&lower_bound.to_be_bytes());
        buffer.extend_from_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        let (_, array) = oids(self.column_type);
        Some(PgTypeInfo::with_oid(Oid(array)))
    }

    fn size_hint(&self) -> usize {
        self.size()
    }
}

/// Each array says its own type.
impl Type<Postgres> for Array {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("anyarray")
    }
}

/// The type's number and that of its arrays, the same in every PostgreSQL (`pg_type.dat`).
fn oids(column_type: ColumnType) -> (u32, u32) {
    match column_type {
        ColumnType::Boolean => (16, 1000),
        ColumnType::Smallint => (21, 1005),
        ColumnType::Integer => (23, 1007),
        ColumnType::Bigint => (20, 1016),
        ColumnType::Real => (700, 1021),
        ColumnType::DoublePrecision => (701, 1022),
        ColumnType::Text => (25, 1009),
        ColumnType::Timestamptz => (1184, 1185),
        ColumnType::Jsonb => (3802, 3807),
        ColumnType::Uuid => (2950, 2951),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(bytes: &[u8]) -> Vec<u8> {
        [&i32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    fn row(fields: &[Vec<u8>]) -> Vec<u8> {
        [&i16::try_from(fields.len()).unwrap().to_be_bytes()[..], &fields.concat()].concat()
    }

    fn encoded(array: &Array) -> Vec<u8> {
        let mut buffer = PgArgumentBuffer::default();
        assert!(matches!(array.encode_by_ref(&mut buffer), Ok(IsNull::No)));
        assert_eq!(buffer.len(), array.size());
        buffer.to_vec()
    }

    #[test]
    fn a_column_becomes_an_array_of_the_same_bytes() {
        let (jsonb, text) = (field(b"\x01{}"), field("é".as_bytes()));
        let null = NULL.to_vec();
        let rows = [row(&[text.clone(), null.clone()]), row(&[field(b""), jsonb.clone()])].concat();
        let [texts, jsonbs] = &transpose(&rows, [ColumnType::Text, ColumnType::Jsonb].into_iter())[..] else {
            panic!()
        };
        let header = |has_null: u8, element: u32| {
            [&[0, 0, 0, 1, 0, 0, 0, has_null][..], &element.to_be_bytes(), &[0, 0, 0, 2, 0, 0, 0, 1]].concat()
        };
        assert_eq!(encoded(texts), [header(0, 25), text, field(b"")].concat());
        assert_eq!(encoded(jsonbs), [header(1, 3802), null, jsonb].concat());
    }

    #[test]
    fn fields_of_rows_of_all_lengths_are_found() {
        let long = field(&[7; 70_000]);
        let rows = [row(&[long.clone(), NULL.to_vec()]), row(&[]), row(&[field(b"a"), field(b"")])].concat();
        let found: Vec<&[u8]> = fields(&rows).collect();
        assert_eq!(found, [&long[..], &NULL, &field(b"a"), &field(b"")]);
        assert_eq!(fields(b"").count(), 0);
        // What is cut off ends it.
        assert_eq!(fields(&rows[..rows.len() - 1]).count(), 3);
    }
}
