//! A spec that is edited field by field, as a person edits it, and read by the operator's own validation.

use std::{collections::BTreeMap, fmt};

use crds::{IoTPipeline, pipeline::ColumnType};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use operator::{
    pipeline::Table,
    reconcile::validate::{Settings, validate},
};
use serde_json::{Value, json};

/// An edit of `timescale`, or something that goes on meanwhile.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A field gets this value; `null` removes it.
    Field(&'static str, Value),
    /// A column gets this definition, and is the last one if it is new; `null` removes it.
    Column(&'static str, Value),
    /// A rollup gets this definition, and is the last one if it is new; `null` removes it.
    Rollup(&'static str, Value),
    /// A field of a rollup gets this value, if there is that rollup; `null` removes it.
    RollupField(&'static str, &'static str, Value),
    /// Devices send a row each day, up to so many days ago.
    Rows(u32),
}

/// All edits there are but those of rollups. A field that is new to the API is a line here.
pub fn edits() -> Vec<Edit> {
    let fields = [
        ("chunkInterval", vec![json!(null), json!("12h"), json!("7d")]),
        (
            "indexes",
            vec![
                json!(null),
                json!([{"columns": ["device", "time DESC"]}]),
                json!([{"columns": ["pressure DESC", "time"]}, {"columns": ["device"]}]),
                json!([{"columns": ["device"]}, {"columns": ["line", "time DESC"]}]),
            ],
        ),
        ("uniqueBy", vec![json!(null), json!(["device", "time"]), json!(["line", "time"])]),
        ("retention", [None, Some("400d"), Some("30d"), Some("2d")].map(retention).to_vec()),
        (
            "deadLetters",
            vec![
                json!(null),
                json!({"retention": retention(Some("90d"))}),
                json!({"retention": retention(Some("7d"))}),
            ],
        ),
        (
            "columnstore",
            vec![
                json!(null),
                json!({"after": "7d"}),
                json!({"after": "1d", "segmentBy": ["device"]}),
                json!({"after": "7d", "segmentBy": ["device"], "orderBy": ["pressure", "time DESC"]}),
            ],
        ),
    ];
    let columns = [
        ("pressure", vec![json!(null), json!({"type": "real"}), json!({"type": "double precision"})]),
        ("line", vec![json!(null), json!({"type": "text"}), json!({"type": "text", "nullable": false})]),
        ("count", vec![json!(null), json!({"type": "bigint"}), json!({"type": "bigint", "nullable": false})]),
        ("serial", vec![json!(null), json!({"type": "uuid"})]),
    ];
    let fields = fields
        .into_iter()
        .flat_map(|(name, values)| values.into_iter().map(move |value| Edit::Field(name, value)));
    let columns = columns
        .into_iter()
        .flat_map(|(name, values)| values.into_iter().map(move |value| Edit::Column(name, value)));
    fields.chain(columns).chain([0, 1, 2, 3, 9, 40].map(Edit::Rows)).collect()
}

/// The edits of rollups: an hourly one of the table, and a daily one made from it.
pub fn rollup_edits() -> Vec<Edit> {
    let hour = [
        ("bucket", vec![json!("1h"), json!("2h")]),
        ("timeColumn", vec![json!(null), json!("at")]),
        ("groupBy", vec![json!(null), json!(["device"]), json!(["line", "device"])]),
        (
            "select",
            vec![
                json!({"rows": "count(*)"}),
                json!({"rows": "count(*)", "top": "max(pressure)", "mean": "avg(pressure)"}),
                json!({"rows": "count(*)", "total": "sum(count)", "serial": "last(serial, time)"}),
            ],
        ),
        ("materializedOnly", vec![json!(true), json!(false)]),
        ("refresh", vec![refresh("1d", "1h", "30m"), refresh("20h", "2h", "1h")]),
        ("retention", [None, Some("400d"), Some("5d")].map(retention).to_vec()),
        (
            "columnstore",
            vec![
                json!(null),
                json!({"after": "4d"}),
                json!({"after": "2d", "segmentBy": ["device"]}),
                json!({"after": "4d", "segmentBy": ["device"], "orderBy": ["rows", "bucket DESC"]}),
            ],
        ),
    ];
    let day = [
        ("groupBy", vec![json!(null), json!(["device"])]),
        ("select", vec![json!({"rows": "sum(rows)"}), json!({"rows": "sum(rows)", "top": "max(top)"})]),
        ("materializedOnly", vec![json!(true), json!(false)]),
        ("refresh", vec![refresh("4d", "12h", "1h"), refresh("5d", "1d", "2h")]),
        ("retention", [None, Some("300d"), Some("20d")].map(retention).to_vec()),
        ("columnstore", vec![json!(null), json!({"after": "6d", "orderBy": ["rows DESC"]})]),
    ];
    let of = |rollup: &'static str, fields: Vec<(&'static str, Vec<Value>)>| {
        fields.into_iter().flat_map(move |(field, values)| {
            values.into_iter().map(move |value| Edit::RollupField(rollup, field, value))
        })
    };
    let whole = [
        Edit::Rollup("hour", json!(null)),
        Edit::Rollup("day", json!(null)),
        Edit::Rollup("hour", hourly()),
        Edit::Rollup("day", daily()),
    ];
    whole.into_iter().chain(of("hour", hour.to_vec())).chain(of("day", day.to_vec())).collect()
}

/// A rollup of the table.
pub fn hourly() -> Value {
    json!({
        "bucket": "1h",
        "groupBy": ["device"],
        "select": {"rows": "count(*)"},
        "refresh": refresh("1d", "1h", "30m"),
    })
}

/// A rollup of the hourly one. It ends so long ago that the other one has got further whenever both are filled.
pub fn daily() -> Value {
    json!({
        "from": "hour",
        "bucket": "1d",
        "groupBy": ["device"],
        "select": {"rows": "sum(rows)"},
        "refresh": refresh("4d", "12h", "1h"),
    })
}

fn refresh(start_offset: &str, end_offset: &str, every: &str) -> Value {
    json!({"startOffset": start_offset, "endOffset": end_offset, "every": every})
}

fn retention(drop_after: Option<&str>) -> Value {
    drop_after.map_or(Value::Null, |drop_after| json!({"dropAfter": drop_after}))
}

/// Writes rows, each at `time`, which may name the `row`: 0 to the last one. Each has as much as the columns of this table need.
pub fn insert_into(table: &Table, time: &str, last: u32) -> String {
    let needed: Vec<_> = table.columns.iter().filter(|column| !column.nullable).collect();
    let names: Vec<_> = needed.iter().map(|column| format!("\"{}\"", column.name)).collect();
    let values: Vec<_> = needed
        .iter()
        .map(|column| match column.column_type {
            ColumnType::Timestamptz => time,
            ColumnType::Text => "'a'",
            _ => "1",
        })
        .collect();
    format!(
        "INSERT INTO {table} ({}) SELECT {} FROM generate_series(0, {last}) AS row ON CONFLICT DO NOTHING",
        names.join(", "),
        values.join(", ")
    )
}

impl fmt::Display for Edit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name, value) => write!(formatter, "{name}: {value}"),
            Self::Column(name, value) => write!(formatter, "column {name}: {value}"),
            Self::Rollup(name, value) => write!(formatter, "rollup {name}: {value}"),
            Self::RollupField(name, field, value) => write!(formatter, "rollup {name}, {field}: {value}"),
            Self::Rows(days) => write!(formatter, "rows of {days} days"),
        }
    }
}

/// The spec of a pipeline.
#[derive(Clone)]
pub struct EditableSpec(Value);

impl EditableSpec {
    /// The smallest one.
    pub fn new(schema: &str) -> Self {
        Self(json!({
            "apiVersion": "iotpipeline.dev/v1alpha1",
            "kind": "IoTPipeline",
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
            "spec": {
                "mqtt": {"url": "mqtt://mosquitto:1883", "subscriptions": [{"filter": "a/b"}]},
                "kafka": {
                    "bootstrapServers": "kafka:9092",
                    "topic": {"name": "t", "partitions": 1, "replicationFactor": 1},
                },
                "timescale": {
                    "secretRef": {"name": "tsdb"},
                    "table": {"schema": schema, "name": "edited"},
                    "columns": [
                        {"name": "time", "type": "timestamptz", "from": ".ts"},
                        {"name": "device", "type": "text", "nullable": false},
                    ],
                    "timeColumn": "time",
                },
            },
        }))
    }

    /// One with everything in it.
    pub fn full(schema: &str) -> Self {
        let mut spec = Self::new(schema);
        let types = [
            "boolean",
            "smallint",
            "integer",
            "bigint",
            "real",
            "double precision",
            "text",
            "timestamptz",
            "jsonb",
            "uuid",
        ];
        for (number, column_type) in types.iter().enumerate() {
            let name = format!("a_{}", column_type.replace(' ', "_"));
            let column = json!({"name": name, "type": column_type, "nullable": *column_type != "smallint"});
            spec.set(&format!("/columns/{}", 2 + number), column);
        }
        let fields = json!({
            "extraColumn": "extra",
            "chunkInterval": "12h",
            "indexes": [{"columns": ["device", "time DESC"]}, {"columns": ["a_bigint"]}],
            "uniqueBy": ["device", "time"],
            "retention": {"dropAfter": "90d"},
            "deadLetters": {"retention": {"dropAfter": "30d"}},
            "columnstore": {"after": "7d", "segmentBy": ["device"], "orderBy": ["time DESC"]},
            "rollups": [
                {
                    "name": "hour",
                    "bucket": "1h",
                    "timeColumn": "hour",
                    "groupBy": ["device"],
                    "select": {
                        "rows": "count(*)",
                        "mean": "avg(a_real)",
                        "total": "sum(a_integer)",
                        "newest": "last(a_double_precision, time)",
                    },
                    "materializedOnly": true,
                    "refresh": refresh("3d", "1h", "30m"),
                    "retention": retention(Some("400d")),
                    "columnstore": {"after": "7d", "segmentBy": ["device"], "orderBy": ["hour DESC"]},
                },
                {
                    "name": "day",
                    "from": "hour",
                    "bucket": "1d",
                    "timeColumn": "day",
                    "groupBy": ["device"],
                    "select": {"rows": "sum(rows)", "total": "sum(total)"},
                    "materializedOnly": false,
                    "refresh": refresh("5d", "12h", "1h"),
                    "retention": retention(Some("800d")),
                    "columnstore": {"after": "10d", "segmentBy": ["device"], "orderBy": ["rows", "day DESC"]},
                },
            ],
        });
        for (field, value) in fields.as_object().unwrap() {
            spec.set(&format!("/{field}"), value.clone());
        }
        spec
    }

    /// Makes an edit.
    pub fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::Field(name, value) => self.set(&format!("/{name}"), value.clone()),
            Edit::Column(name, definition) => self.set_listed("columns", name, definition),
            Edit::Rollup(name, definition) => self.set_listed("rollups", name, definition),
            Edit::RollupField(name, field, value) => {
                if let Some(place) = self.place_of("rollups", name) {
                    self.set(&format!("/rollups/{place}/{field}"), value.clone());
                }
            }
            Edit::Rows(_) => {}
        }
    }

    /// Sets the value at this JSON pointer into `timescale`; `null` removes it. The index after the last one of a list is
    /// that of a new one.
    pub fn set(&mut self, pointer: &str, value: Value) {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let timescale = &mut self.0["spec"]["timescale"];
        match timescale.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}")) {
            Value::Object(fields) if value.is_null() => drop(fields.remove(key)),
            Value::Object(fields) => drop(fields.insert(key.to_owned(), value)),
            Value::Array(list) => match key.parse().unwrap() {
                place if value.is_null() => drop(list.remove(place)),
                place if place == list.len() => list.push(value),
                place => list[place] = value,
            },
            _ => panic!("{pointer}"),
        }
    }

    /// Sets what has this name in a list, as the last one if it is new.
    fn set_listed(&mut self, list: &str, name: &str, definition: &Value) {
        let place = self.place_of(list, name);
        let listed = self.0["spec"]["timescale"].get(list).and_then(Value::as_array);
        let end = listed.map_or(0, Vec::len);
        if listed.is_none() {
            self.set(&format!("/{list}"), json!([]));
        }
        let mut definition = definition.clone();
        match (place, definition.as_object_mut()) {
            (None, None) => {}
            (place, fields) => {
                if let Some(fields) = fields {
                    fields.insert("name".to_owned(), json!(name));
                }
                self.set(&format!("/{list}/{}", place.unwrap_or(end)), definition);
            }
        }
    }

    fn place_of(&self, list: &str, name: &str) -> Option<usize> {
        let listed = self.0["spec"]["timescale"].get(list)?.as_array()?;
        listed.iter().position(|listed| listed["name"] == name)
    }

    /// The table of this name that it says, with rollups whose names begin with it, or why it is invalid.
    pub fn table(&self, name: &str) -> Result<Table, String> {
        let mut object: IoTPipeline = serde_json::from_value(self.0.clone()).unwrap();
        object.spec.timescale.table.name = name.to_owned();
        for rollup in &mut object.spec.timescale.rollups {
            rollup.name = format!("{name}_{}", rollup.name);
            rollup.from = rollup.from.as_ref().map(|from| format!("{name}_{from}"));
        }
        let uri = ByteString(b"postgres://postgres:any@timescaledb:5432/iot".into());
        let secret = Secret { data: Some(BTreeMap::from([("uri".to_owned(), uri)])), ..Secret::default() };
        let secrets = ["tsdb", "other"].map(|name| (name.to_owned(), Some(secret.clone()))).into();
        let settings = Settings { cluster_name: "c".to_owned() };
        validate(&object, &secrets, None, &settings)
            .map(|pipeline| pipeline.table)
            .map_err(|invalid| invalid.message)
    }
}
