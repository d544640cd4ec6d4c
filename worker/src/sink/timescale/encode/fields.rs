//! Which fields of an object columns take, and which none does. Pure.

use crds::worker::ColumnConfig;
use program::Value;

/// The fields that columns take, whole or some of it, of one object.
#[derive(Clone, Debug)]
pub struct Fields {
    /// What stands before their names in a path: `.` at the top level, else such as `.sensor.`.
    place: String,
    /// Sorted by name as the fields of an object are, so that both are walked through once.
    fields: Vec<Field>,
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    /// The columns that take it whole, by index. Where none does, as of `.sensor.value`, `sensor` is in the extra column
    /// too, so that nothing of it is lost.
    columns: Vec<usize>,
    /// What columns take of it.
    inner: Fields,
}

impl Fields {
    /// What these columns take.
    pub fn of(columns: &[ColumnConfig]) -> Self {
        let mut fields = Self::at(".".to_owned());
        for (index, column) in columns.iter().enumerate() {
            fields.add(&column.from, index);
        }
        fields
    }

    fn at(place: String) -> Self {
        Self { place, fields: Vec::new() }
    }

    fn add(&mut self, path: &[String], column: usize) {
        let Some((name, rest)) = path.split_first() else { return };
        let index = self.search(name).unwrap_or_else(|index| {
            let inner = Self::at(format!("{}{name}.", self.place));
            self.fields.insert(index, Field { name: name.clone(), columns: Vec::new(), inner });
            index
        });
        let field = &mut self.fields[index];
        if rest.is_empty() {
            field.columns.push(column);
        } else {
            field.inner.add(rest, column);
        }
    }

    /// Whether a column takes the field of this name whole.
    pub fn take(&self, name: &str) -> bool {
        self.search(name).is_ok_and(|index| self.fields[index].is_taken())
    }

    /// Finds the value of each column, where null counts as none; answers whether there is a field that no column takes
    /// whole. Calls `unmapped` with each field of which no column takes anything: with what stands before its name in a
    /// path, and its name. Of such a field, what is inside is not looked at.
    pub fn find<'value>(
        &self,
        object: &'value Value,
        found: &mut [Option<&'value Value>],
        unmapped: &mut dyn FnMut(&str, &str),
    ) -> bool {
        let mut has_rest = false;
        let mut fields = self.fields.iter().peekable();
        for (name, value) in object.as_object().into_iter().flatten() {
            let name = name.as_str();
            while fields.next_if(|field| field.name.as_str() < name).is_some() {}
            let Some(field) = fields.next_if(|field| field.name == name) else {
                has_rest = true;
                unmapped(&self.place, name);
                continue;
            };
            has_rest |= !field.is_taken();
            if value.is_null() {
                continue;
            }
            for index in &field.columns {
                found[*index] = Some(value);
            }
            if field.inner.fields.is_empty() {
                continue;
            }
            if field.is_taken() {
                field.inner.find(value, found, &mut |_, _| {});
            } else if value.is_object() {
                field.inner.find(value, found, unmapped);
            } else {
                // Columns take something of it, but it has nothing inside.
                unmapped(&self.place, name);
            }
        }
        has_rest
    }

    fn search(&self, name: &str) -> Result<usize, usize> {
        self.fields.binary_search_by(|field| field.name.as_str().cmp(name))
    }
}

impl Field {
    fn is_taken(&self) -> bool {
        !self.columns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use crds::pipeline::ColumnType;

    use super::*;
    use crate::codec::json::decode;

    fn fields(paths: &[&str]) -> Fields {
        let column = |path: &&str| ColumnConfig {
            name: (*path).into(),
            column_type: ColumnType::Text,
            from: path.split('.').map(str::to_owned).collect(),
            nullable: true,
        };
        Fields::of(&paths.iter().map(column).collect::<Vec<_>>())
    }

    /// What columns find, and what is left: `+` where no column takes a field whole, and the unmapped fields.
    fn look(paths: &[&str], object: &str) -> (Vec<Option<String>>, String) {
        let object = decode(object.as_bytes()).unwrap();
        let mut found = vec![None; paths.len()];
        let mut unmapped = Vec::new();
        let has_rest = fields(paths)
            .find(&object, &mut found, &mut |place, name| unmapped.push(format!("{place}{name}")));
        let found = found.into_iter().map(|value| value.map(Value::to_string)).collect();
        (found, format!("{}{}", if has_rest { "+" } else { "" }, unmapped.join(" ")))
    }

    fn rest(paths: &[&str], object: &str) -> String {
        look(paths, object).1
    }

    #[test]
    fn each_column_finds_its_value() {
        let paths = ["b", "s.v", "a", "s.u.w", "s.v", "s"];
        let (found, rest) = look(&paths, r#"{"a":1,"b":null,"s":{"u":{"w":2},"v":3}}"#);
        let found: Vec<_> = found.iter().map(Option::as_deref).collect();
        let whole = r#"{ "u": { "w": 2 }, "v": 3 }"#;
        assert_eq!(found, [None, Some("3"), Some("1"), Some("2"), Some("3"), Some(whole)]);
        assert_eq!(rest, "");
        assert_eq!(look(&["s.v"], r#"{"s":3}"#).0, [None]);
    }

    #[test]
    fn what_no_column_takes_is_unmapped() {
        assert_eq!(rest(&["a"], r#"{"a":1}"#), "");
        assert_eq!(rest(&["a", "c"], r#"{"A":0,"a":1,"b":2,"c":3,"d":null}"#), "+.A .b .d");
        assert_eq!(rest(&["a"], "{}"), "");
        assert_eq!(rest(&[], r#"{"a":1}"#), "+.a");
    }

    #[test]
    fn where_columns_take_something_of_a_field_the_rest_of_it_is_unmapped() {
        let paths = ["s.v", "s.u.w"];
        assert_eq!(rest(&paths, r#"{"s":{"u":{"w":1},"v":2}}"#), "+");
        assert_eq!(rest(&paths, r#"{"s":{"u":{"w":1,"x":{"y":1}},"v":2,"z":[]}}"#), "+.s.u.x .s.z");
        // What is nothing, or has nothing inside, is not there.
        assert_eq!(rest(&paths, r#"{"s":{}}"#), "+");
        assert_eq!(rest(&paths, r#"{"s":null}"#), "+");
        // What was an object is something else now.
        assert_eq!(rest(&paths, r#"{"s":3}"#), "+.s");
        assert_eq!(rest(&paths, r#"{"s":{"u":[{"w":1}]}}"#), "+.s.u");
        // A column that takes it whole takes what is in it.
        assert_eq!(rest(&["s.v", "s"], r#"{"s":{"z":1}}"#), "");
        assert_eq!(rest(&["s.v", "s"], r#"{"s":3}"#), "");
    }

    #[test]
    fn only_a_field_that_a_column_takes_whole_is_taken() {
        let fields = fields(&["a", "s.v"]);
        assert_eq!(["a", "s", "v"].map(|name| fields.take(name)), [true, false, false]);
    }
}
