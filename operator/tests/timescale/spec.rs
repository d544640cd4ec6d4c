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
    /// Devices send a row each day, up to so many days ago.
    Rows(u32),
}

/// All edits there are. A field that is new to the API is a line here.
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

fn retention(drop_after: Option<&str>) -> Value {
    drop_after.map_or(Value::Null, |drop_after| json!({"dropAfter": drop_after}))
}

impl Edit {
    /// Writes the rows, as far as the columns of this table need values. Some repeat the key of others.
    pub fn insert_into(&self, table: &Table) -> String {
        let Self::Rows(days) = self else { return String::new() };
        let needed: Vec<_> = table.columns.iter().filter(|column| !column.nullable).collect();
        let names: Vec<_> = needed.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let values: Vec<_> = needed
            .iter()
            .map(|column| match column.column_type {
                ColumnType::Timestamptz => "date_trunc('day', now()) - day * interval '1 day'",
                ColumnType::Text => "'a'",
                _ => "1",
            })
            .collect();
        format!(
            "INSERT INTO {table} ({}) SELECT {} FROM generate_series(0, {days}) AS day ON CONFLICT DO NOTHING",
            names.join(", "),
            values.join(", ")
        )
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name, value) => write!(formatter, "{name}: {value}"),
            Self::Column(name, value) => write!(formatter, "column {name}: {value}"),
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

    /// Makes an edit.
    pub fn apply(&mut self, edit: &Edit) {
        let timescale = self.0["spec"]["timescale"].as_object_mut().unwrap();
        match edit {
            Edit::Field(name, Value::Null) => drop(timescale.remove(*name)),
            Edit::Field(name, value) => drop(timescale.insert((*name).to_owned(), value.clone())),
            Edit::Column(name, definition) => {
                let columns = timescale["columns"].as_array_mut().unwrap();
                let place = columns.iter().position(|column| column["name"] == *name);
                let mut column = definition.clone();
                match (place, column.as_object_mut()) {
                    (Some(place), None) => drop(columns.remove(place)),
                    (None, None) => {}
                    (place, Some(fields)) => {
                        fields.insert("name".to_owned(), json!(name));
                        match place {
                            Some(place) => columns[place] = column,
                            None => columns.push(column),
                        }
                    }
                }
            }
            Edit::Rows(_) => {}
        }
    }

    /// The table of this name that it says, or why it is invalid.
    pub fn table(&self, name: &str) -> Result<Table, String> {
        let mut object: IoTPipeline = serde_json::from_value(self.0.clone()).unwrap();
        object.spec.timescale.table.name = name.to_owned();
        let uri = ByteString(b"postgres://postgres:any@timescaledb:5432/iot".into());
        let secret = Secret { data: Some(BTreeMap::from([("uri".to_owned(), uri)])), ..Secret::default() };
        let secrets = BTreeMap::from([("tsdb".to_owned(), Some(secret))]);
        let settings = Settings { cluster_name: "c".to_owned() };
        validate(&object, &secrets, &settings)
            .map(|pipeline| pipeline.table)
            .map_err(|invalid| invalid.message)
    }
}
