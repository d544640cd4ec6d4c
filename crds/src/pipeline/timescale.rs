//! `spec.timescale`: the hypertable, and how to reach its database.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Management,
    rollups::RollupSpec,
    secrets::{CaSecretRef, SecretRef},
};
use crate::units::DurationText;

/// The hypertable.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.columns.exists(column, column.name == self.timeColumn && column.type == 'timestamptz')")
        .message("timeColumn must name a column of type timestamptz")
        .field_path(".timeColumn"),
    validation = Rule::new("!has(self.extraColumn) || !self.columns.exists(column, column.name == self.extraColumn)")
        .message("extraColumn is a column of its own and must not be listed in columns")
        .field_path(".extraColumn"),
    validation = Rule::new("!has(self.indexes) || self.indexes.all(index, index.columns.all(entry, self.columns.exists(column, entry == column.name || entry == column.name + ' DESC' || entry == column.name + ' ASC')))")
        .message("an index may hold declared columns only, each alone or followed by ASC or DESC")
        .field_path(".indexes"),
    validation = Rule::new("!has(self.uniqueBy) || self.uniqueBy.exists(name, name == self.timeColumn)")
        .message("uniqueBy must hold the timeColumn: a hypertable is unique only within what partitions it")
        .field_path(".uniqueBy"),
    validation = Rule::new("!has(self.uniqueBy) || self.uniqueBy.all(name, self.columns.exists(column, column.name == name))")
        .message("uniqueBy may hold declared columns only")
        .field_path(".uniqueBy"),
    validation = Rule::new("!has(self.uniqueBy) || self.columns.all(column, column.name == self.timeColumn || !(column.name in self.uniqueBy) || has(column.nullable) && !column.nullable)")
        .message("every column of uniqueBy but the timeColumn needs nullable: false, because NULL equals nothing")
        .field_path(".uniqueBy"),
    validation = Rule::new("!has(self.columnstore) || !has(self.columnstore.segmentBy) || self.columnstore.segmentBy.all(name, name != self.timeColumn && self.columns.exists(column, column.name == name && column.type != 'jsonb'))")
        .message("columnstore.segmentBy may hold declared columns only, not the timeColumn and none of type jsonb")
        .field_path(".columnstore"),
    validation = Rule::new("!has(self.columnstore) || !has(self.columnstore.orderBy) || self.columnstore.orderBy.all(entry, self.columns.exists(column, column.type != 'jsonb' && (entry == column.name || entry == column.name + ' DESC' || entry == column.name + ' ASC')))")
        .message("columnstore.orderBy may hold declared columns only, none of type jsonb, each alone or followed by ASC or DESC")
        .field_path(".columnstore"),
    validation = Rule::new("!has(self.rollups) || self.rollups.all(rollup, rollup.name != self.table.name && rollup.name != self.table.name + '_dead_letters')")
        .message("a rollup is a view beside the table and its dead letters; give it another name")
        .field_path(".rollups"),
    validation = Rule::new("!has(self.rollups) || self.rollups.all(rollup, has(rollup.from) || !has(rollup.groupBy) || rollup.groupBy.all(name, name != self.timeColumn && self.columns.exists(column, column.name == name && column.type != 'jsonb')))")
        .message("groupBy of a rollup may hold declared columns only, not the timeColumn and none of type jsonb; with from, columns of that rollup")
        .field_path(".rollups"),
    validation = Rule::new("self.management != 'External' || !(has(self.chunkInterval) || has(self.indexes) || has(self.retention) || has(self.columnstore) || has(self.rollups))")
        .message("a table whose management is External is as somebody else made it; leave chunkInterval, indexes, retention, columnstore and rollups out"),
)]
pub struct TimescaleSpec {
    /// A Secret of this namespace with `fqdn-uri`, `uri`, or `host`, `port`, `dbname`, `username` and `password`: the
    /// role that reads and writes. CloudNativePG's `<cluster>-app` fits.
    pub secret_ref: SecretRef,
    /// Such a Secret for the operator alone: the role that creates, alters, and grants the other role no more than
    /// workers need. May name another host, so that workers go through a pooler and the operator does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_secret_ref: Option<SecretRef>,
    /// Encryption and certificates; without this block the connection is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<DatabaseTlsSpec>,
    /// Managed (default): the operator creates and keeps the table. External: somebody else does. Cannot change.
    #[serde(default)]
    pub management: Management,
    /// Where rows go. Cannot change.
    pub table: TableRef,
    /// The columns. May grow; types never change, and a column that leaves the list stays in the table.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.name == a.name))")
        .message("each column may be listed once"))]
    pub columns: Vec<ColumnSpec>,
    /// The column of type timestamptz that partitions the hypertable. Cannot change.
    #[schemars(length(min = 1, max = 63))]
    pub time_column: String,
    /// A jsonb column for the fields that no other column takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    pub extra_column: Option<String>,
    /// The span of time of a chunk; default 1d. A change holds for new chunks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_interval: Option<DurationText>,
    /// The indexes; none by default. One that leaves the list stays on the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub indexes: Vec<IndexSpec>,
    /// The natural key: columns, the time column among them, that tell one row from another. A message that MQTT
    /// delivered twice then makes one row, and is counted; the same key with other content is a dead letter
    /// (`KeyConflict`). Content is every other column, but for values that depend on the delivery, such as those of
    /// `now()` and `%offset`. Cannot change while the table has the unique index of another key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b == a))")
        .message("uniqueBy may name each column once"))]
    pub unique_by: Vec<String>,
    /// How long rows stay; without it for ever. A shorter time waits for approval, because it drops rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
    /// When chunks go into the columnstore, and how: smaller, and faster to read. Only TimescaleDB's Community edition has
    /// one; without it `TableReady` holds with the reason ColumnstoreUnsupported, and rows stay in the rowstore. Where this
    /// block leaves the spec no more chunks go there, and those that are there stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columnstore: Option<ColumnstoreSpec>,
    /// Aggregates by time, such as hourly means of each device; none by default. One that leaves the list stays in the
    /// database as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.all(a, self.exists_one(b, b.name == a.name))")
            .message("each rollup needs a name of its own"),
        validation = Rule::new("self.all(a, !has(a.from) || self.exists(b, b.name == a.from))")
            .message("from must name another rollup of the list; leave it out for the table itself"),
    )]
    pub rollups: Vec<RollupSpec>,
    /// The dead letters beside the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<DeadLettersSpec>,
}

/// Certificates of the connection to the database.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.mode != 'Disable' || !(has(self.caSecretRef) || has(self.clientSecretRef))")
        .message("mode Disable uses no certificates; leave caSecretRef and clientSecretRef out, or choose another mode"),
    validation = Rule::new("self.mode != 'Require' || !has(self.caSecretRef)")
        .message("mode Require checks no certificate; choose VerifyCa or VerifyFull, or leave caSecretRef out")
        .field_path(".caSecretRef"),
)]
pub struct DatabaseTlsSpec {
    /// Disable: no encryption. Require: encryption, whoever the server is. VerifyCa: its certificate comes from a
    /// trusted authority. VerifyFull (default): and names the host.
    #[serde(default = "default_database_tls_mode")]
    pub mode: DatabaseTlsMode,
    /// The certificate authorities that the server's certificate may come from. The database's driver accepts those
    /// that the system trusts beside them, so leave `mode` at VerifyFull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// The client certificate: a Secret with `tls.crt` and `tls.key` (cert-manager), or `user.crt` and `user.key`
    /// (Strimzi).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretRef>,
}

/// What of the database server is checked. The names are those of PostgreSQL's `sslmode`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum DatabaseTlsMode {
    /// No encryption.
    #[default]
    Disable,
    /// Encryption, whoever the server is.
    Require,
    /// The server's certificate comes from a trusted authority.
    VerifyCa,
    /// The server's certificate comes from a trusted authority and names the host.
    VerifyFull,
}

/// A table by schema and name.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TableRef {
    /// The schema; created where it does not exist. None of PostgreSQL's or TimescaleDB's own.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('pg_') && !self.startsWith('_timescaledb') && !self.startsWith('timescaledb') && self != 'information_schema'")
        .message("this schema belongs to PostgreSQL or TimescaleDB"))]
    pub schema: String,
    /// The table, at most 50 characters, so that `<name>_dead_letters` is a legal name too.
    #[schemars(length(min = 1, max = 50), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('_iotpipeline_')").message("names that begin with _iotpipeline_ are the operator's own"))]
    pub name: String,
}

/// One column.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ColumnSpec {
    /// The column's name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    pub name: String,
    /// Its SQL type. docs/columns.md says which values each takes. Cannot change.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// The field it takes, such as `.sensor.value`; default the field of the column's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^(\.[A-Za-z_][A-Za-z0-9_-]*)+$"))]
    pub from: Option<String>,
    /// Whether the field may be missing or null; default true, and false for the time column. Where it may not, such a
    /// message is a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nullable: Option<bool>,
}

/// The SQL types that a column may have.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// true or false.
    Boolean,
    /// 16-bit integer.
    Smallint,
    /// 32-bit integer.
    Integer,
    /// 64-bit integer.
    Bigint,
    /// 32-bit floating point.
    Real,
    /// 64-bit floating point.
    #[serde(rename = "double precision")]
    DoublePrecision,
    /// Text.
    Text,
    /// A point in time.
    Timestamptz,
    /// Any JSON value.
    Jsonb,
    /// A UUID.
    Uuid,
}

impl ColumnType {
    /// The type as SQL spells it, which is also what `format_type` answers.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Smallint => "smallint",
            Self::Integer => "integer",
            Self::Bigint => "bigint",
            Self::Real => "real",
            Self::DoublePrecision => "double precision",
            Self::Text => "text",
            Self::Timestamptz => "timestamp with time zone",
            Self::Jsonb => "jsonb",
            Self::Uuid => "uuid",
        }
    }
}

/// One index.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IndexSpec {
    /// Columns in order, each alone or followed by ` ASC` or ` DESC`.
    #[schemars(length(min = 1, max = 8), inner(length(max = 70)))]
    pub columns: Vec<String>,
}

/// How long rows stay.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetentionSpec {
    /// Chunks whose rows are all older than this are dropped.
    pub drop_after: DurationText,
}

/// When chunks go into the columnstore, and how.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.segmentBy) || !has(self.orderBy) || self.orderBy.all(entry, !(entry.split(' ')[0] in self.segmentBy))")
        .message("a column is either in segmentBy or in orderBy: within a segment it is always the same")
        .field_path(".orderBy"),
)]
pub struct ColumnstoreSpec {
    /// Chunks whose rows are all older than this go into the columnstore. Less than `retention.dropAfter`. Rows that come
    /// later are written there too, which takes longer: where `processing.acceptTime.maxLate` accepts such rows, or any,
    /// `TableReady` holds with the reason LateRowsInColumnstore.
    pub after: DurationText,
    /// Columns that are the same in all rows of a segment, such as the device: what queries select by, with a hundred rows
    /// and more of each value in a chunk; none by default. Neither the time column nor one of type jsonb. A change holds
    /// for chunks that go into the columnstore from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b == a))")
        .message("segmentBy may name each column once"))]
    pub segment_by: Vec<String>,
    /// The order of the rows of a segment: columns, each alone or followed by ` ASC` or ` DESC`, none of type jsonb. By
    /// default the columns of `uniqueBy` that are not in `segmentBy`, in their order, or else the time column; and the
    /// time column is DESC. Where it is not listed it comes last. A change holds for chunks that go into the columnstore
    /// from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 70)))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.split(' ')[0] == a.split(' ')[0]))")
        .message("orderBy may name each column once"))]
    pub order_by: Vec<String>,
}

/// The dead letters of a table.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLettersSpec {
    /// How long they stay; without it for ever. A shorter time waits for approval, because it drops dead letters. Beside
    /// a table that another pipeline manages, or wrote to first where nobody does, it is for that pipeline to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
}

fn default_database_tls_mode() -> DatabaseTlsMode {
    DatabaseTlsMode::VerifyFull
}
