//! The SQL of the sink. Pure. Identifiers come in through [`quote_identifier`] and nothing else is pasted.
//!
//! No statement relies on the session (no prepared statement outlives its use, `SET LOCAL` only), so that a
//! transaction-pooling proxy may stand in between.

use crds::{
    names::{POSITION_TABLE, dead_letter_table},
    pipeline::ColumnType,
    worker::TableConfig,
};

/// Begins a transaction. A worker that is stopped inside it must not hold the positions for ever; and one that is gone
/// without a word, with its node or its network, must not hold the table: a server that waits for the next piece of a
/// COPY is not idle, and notices by keep-alives alone, which by default begin after two hours.
pub const BEGIN: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'; \
     SET LOCAL tcp_keepalives_idle = 10; SET LOCAL tcp_keepalives_interval = 5; SET LOCAL tcp_keepalives_count = 3";

/// Ends a transaction and keeps what it did.
pub const COMMIT: &str = "COMMIT";

/// Ends a transaction and undoes what it did.
pub const ROLLBACK: &str = "ROLLBACK";

/// A part of a transaction that can be undone alone.
pub const SAVEPOINT: &str = "SAVEPOINT part";

/// Undoes that part.
pub const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT part";

/// Keeps that part.
pub const RELEASE_SAVEPOINT: &str = "RELEASE SAVEPOINT part";

/// The statements that name tables.
#[derive(Clone, Debug)]
pub struct Statements {
    /// How rows get into the table.
    pub rows: RowStatements,
    /// Arrays, one element a dead letter: reason, stage, error, partition, offset, key, headers as JSON text,
    /// payload, length, SHA-256; then the topic.
    pub insert_dead_letters: String,
    /// Table name, Kafka cluster id, topic; then arrays, one element a partition: partition, expected offset,
    /// next offset, last offset, last timestamp in milliseconds, last hash. Its row count is the number of
    /// partitions whose position was the expected one.
    pub move_positions: String,
    /// Table name, Kafka cluster id, topic. Returns partition, next offset, last offset, last timestamp in
    /// milliseconds, last hash.
    pub read_positions: String,
    /// Table name, Kafka cluster id, topic; then arrays: partition, next offset. Leaves existing rows alone.
    pub insert_positions: String,
}

/// How rows get into the table.
#[derive(Clone, Debug)]
pub enum RowStatements {
    /// COPY: every row is a row of its own.
    Copy(String),
    /// The table has a natural key.
    Unique(UniqueStatements),
}

/// The statements for rows with a natural key. Parameters of all: an array for each column, one element a row.
#[derive(Clone, Debug)]
pub struct UniqueStatements {
    /// Inserts the rows whose key the table does not have yet. Its row count is the number of them.
    pub insert: String,
    /// Returns the rows that differ from those that the table has under their keys: a row's number, counted from 1;
    /// the number of the first row with its key; and of each column whether it differs. `None` where a row is nothing
    /// but its key.
    pub compare: Option<String>,
    /// The columns, in order.
    pub columns: Vec<(String, ColumnType)>,
    /// The columns of the key.
    pub key: Vec<String>,
}

impl Statements {
    /// The statements for one table.
    pub fn new(table: &TableConfig) -> Self {
        let schema = quote_identifier(&table.schema);
        let target = quote_identifier(&table.name);
        let dead_letters = quote_identifier(&dead_letter_table(&table.name));
        let positions = quote_identifier(POSITION_TABLE);
        Self {
            rows: RowStatements::new(table, &format!("{schema}.{target}")),
            insert_dead_letters: format!(
                "INSERT INTO {schema}.{dead_letters} (reason, stage, error, topic, partition, \"offset\", key, \
                 headers, payload, payload_bytes, payload_sha256) \
                 SELECT reason, stage, error, $11, partition, \"offset\", key, headers::jsonb, payload, \
                 payload_bytes, payload_sha256 \
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::bytea[], \
                 $7::text[], $8::bytea[], $9::bigint[], $10::bytea[]) \
                 AS letter(reason, stage, error, partition, \"offset\", key, headers, payload, payload_bytes, \
                 payload_sha256)"
            ),
            move_positions: format!(
                "UPDATE {schema}.{positions} AS position SET next_offset = batch.next_offset, \
                 last_offset = batch.last_offset, \
                 last_timestamp = to_timestamp(batch.last_millis / 1000.0), \
                 last_hash = batch.last_hash, updated_at = now() \
                 FROM unnest($4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[]) \
                 AS batch(partition, expected_offset, next_offset, last_offset, last_millis, last_hash) \
                 WHERE position.table_name = $1 AND position.kafka_cluster_id = $2 AND position.topic = $3 \
                 AND position.partition = batch.partition AND position.next_offset = batch.expected_offset"
            ),
            read_positions: format!(
                "SELECT partition, next_offset, last_offset, \
                 round(extract(epoch FROM last_timestamp) * 1000)::bigint AS last_millis, last_hash \
                 FROM {schema}.{positions} \
                 WHERE table_name = $1 AND kafka_cluster_id = $2 AND topic = $3"
            ),
            insert_positions: format!(
                "INSERT INTO {schema}.{positions} (table_name, kafka_cluster_id, topic, partition, next_offset) \
                 SELECT $1, $2, $3, start.partition, start.next_offset \
                 FROM unnest($4::int[], $5::bigint[]) AS start(partition, next_offset) \
                 ON CONFLICT DO NOTHING"
            ),
        }
    }
}

impl RowStatements {
    fn new(table: &TableConfig, target: &str) -> Self {
        if !table.unique_by.is_empty() {
            return Self::Unique(UniqueStatements::new(table, target));
        }
        let columns = column_list(&all_columns(table));
        Self::Copy(format!("COPY {target} ({columns}) FROM STDIN (FORMAT binary)"))
    }
}

impl UniqueStatements {
    fn new(table: &TableConfig, target: &str) -> Self {
        let columns = all_columns(table);
        let arrays: Vec<String> = (1..)
            .zip(&columns)
            .map(|(number, (_, column_type))| format!("${number}::{}[]", column_type.sql()))
            .collect();
        let arrays = arrays.join(", ");
        let key: Vec<String> = table.unique_by.iter().map(|name| quote_identifier(name)).collect();
        let insert = format!(
            "INSERT INTO {target} ({}) SELECT * FROM unnest({arrays}) ON CONFLICT ({}) DO NOTHING",
            column_list(&columns),
            key.join(", ")
        );
        let compare = Self::compare(table, target, &columns, &arrays);
        Self { insert, compare, columns, key: table.unique_by.clone() }
    }

    /// The columns of the batch are called `c1`, `c2`, … so that they never meet a name of the table's. OFFSET 0 keeps
    /// the planner from reading the whole table rather than its index.
    fn compare(
        table: &TableConfig,
        target: &str,
        columns: &[(String, ColumnType)],
        arrays: &str,
    ) -> Option<String> {
        let numbered = || (1..).zip(columns).map(|(number, (name, _))| (format!("c{number}"), name));
        let (key, content): (Vec<_>, Vec<_>) =
            numbered().partition(|(_, name)| table.unique_by.contains(name));
        if content.is_empty() {
            return None;
        }
        let joined = |separator: &str, parts: &mut dyn Iterator<Item = String>| {
            parts.collect::<Vec<_>>().join(separator)
        };
        let stored = |name: &str| format!("stored.{}", quote_identifier(name));
        let aliases = joined(", ", &mut numbered().map(|(alias, _)| alias));
        let key_aliases = joined(", ", &mut key.iter().map(|(alias, _)| alias.clone()));
        let is_of_key =
            joined(" AND ", &mut key.iter().map(|(alias, name)| format!("{} = batch.{alias}", stored(name))));
        let differs =
            |(alias, name): (String, &String)| format!("{} IS DISTINCT FROM batch.{alias}", stored(name));
        let differ = joined(", ", &mut numbered().map(differs));
        let is_other = joined(" OR ", &mut content.into_iter().map(differs));
        Some(format!(
            "SELECT batch.number, batch.first, ARRAY[{differ}] AS differ \
             FROM (SELECT *, min(number) OVER (PARTITION BY {key_aliases}) AS first \
             FROM unnest({arrays}) WITH ORDINALITY AS given({aliases}, number)) AS batch \
             CROSS JOIN LATERAL (SELECT * FROM {target} AS stored WHERE {is_of_key} OFFSET 0) AS stored \
             WHERE {is_other} ORDER BY batch.number"
        ))
    }
}

impl UniqueStatements {
    /// The text for the dead letter of a row that differs in these columns, by number, from the row with its key.
    pub fn conflict_letter(&self, differing: &[usize]) -> String {
        let names: Vec<&str> =
            differing.iter().filter_map(|column| Some(self.columns.get(*column)?.0.as_str())).collect();
        format!("a row with the same {} has other values of {}", self.key.join(", "), names.join(", "))
    }
}

/// The columns that rows have, in order, with their types.
fn all_columns(table: &TableConfig) -> Vec<(String, ColumnType)> {
    let extra = table.extra_column.iter().map(|name| (name.clone(), ColumnType::Jsonb));
    table.columns.iter().map(|column| (column.name.clone(), column.column_type)).chain(extra).collect()
}

fn column_list(columns: &[(String, ColumnType)]) -> String {
    columns.iter().map(|(name, _)| quote_identifier(name)).collect::<Vec<_>>().join(", ")
}

/// An SQL identifier in quotes.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use crds::worker::ColumnConfig;

    use super::*;

    fn table(unique_by: &[&str]) -> TableConfig {
        let column = |name: &str, column_type| ColumnConfig {
            name: name.into(),
            column_type,
            from: vec![name.into()],
            nullable: true,
        };
        TableConfig {
            schema: "plant_7".into(),
            name: "line_telemetry".into(),
            columns: vec![
                column("time", ColumnType::Timestamptz),
                column("device", ColumnType::Text),
                column("value", ColumnType::DoublePrecision),
            ],
            time_column: "time".into(),
            extra_column: Some("extra".into()),
            unique_by: unique_by.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn statements() {
        let Statements { rows, insert_dead_letters, move_positions, read_positions, insert_positions } =
            Statements::new(&table(&[]));
        let RowStatements::Copy(copy) = rows else { panic!() };
        insta::assert_snapshot!(
            [copy, insert_dead_letters, move_positions, read_positions, insert_positions].join("\n\n")
        );
    }

    #[test]
    fn statements_with_a_natural_key() {
        let RowStatements::Unique(unique) = Statements::new(&table(&["device", "time"])).rows else {
            panic!()
        };
        insta::assert_snapshot!([unique.insert, unique.compare.unwrap()].join("\n\n"));
    }

    #[test]
    fn a_conflict_is_told_by_the_names_of_columns() {
        let RowStatements::Unique(unique) = Statements::new(&table(&["device", "time"])).rows else {
            panic!()
        };
        assert_eq!(
            unique.conflict_letter(&[2, 3]),
            "a row with the same device, time has other values of value, extra"
        );
    }

    #[test]
    fn rows_that_are_nothing_but_their_key_are_never_other_ones() {
        let mut table = table(&["time", "device", "value"]);
        table.extra_column = None;
        let RowStatements::Unique(unique) = Statements::new(&table).rows else { panic!() };
        assert_eq!(unique.compare, None);
    }

    #[test]
    fn an_identifier_cannot_end_its_quotes() {
        assert_eq!(quote_identifier("a\"; DROP TABLE b; --"), "\"a\"\"; DROP TABLE b; --\"");
    }
}
