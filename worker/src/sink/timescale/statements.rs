//! The SQL of the sink. Pure. Identifiers come in through [`quote_identifier`] and nothing else is pasted.
//!
//! No statement relies on the session (no prepared statement outlives its use, `SET LOCAL` only), so that a
//! transaction-pooling proxy may stand in between.

use crds::{
    names::{POSITION_TABLE, dead_letter_table},
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
    /// COPY of rows.
    pub copy: String,
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

impl Statements {
    /// The statements for one table.
    pub fn new(table: &TableConfig) -> Self {
        let schema = quote_identifier(&table.schema);
        let target = quote_identifier(&table.name);
        let dead_letters = quote_identifier(&dead_letter_table(&table.name));
        let positions = quote_identifier(POSITION_TABLE);
        let columns: Vec<String> = table
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .chain(table.extra_column.as_deref())
            .map(quote_identifier)
            .collect();
        let columns = columns.join(", ");
        Self {
            copy: format!("COPY {schema}.{target} ({columns}) FROM STDIN (FORMAT binary)"),
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

/// An SQL identifier in quotes.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use crds::{pipeline::ColumnType, worker::ColumnConfig};

    use super::*;

    #[test]
    fn statements() {
        let column = |name: &str| ColumnConfig {
            name: name.into(),
            column_type: ColumnType::Text,
            from: vec![name.into()],
            nullable: true,
        };
        let Statements { copy, insert_dead_letters, move_positions, read_positions, insert_positions } =
            Statements::new(&TableConfig {
                schema: "plant_7".into(),
                name: "line_telemetry".into(),
                columns: vec![column("time"), column("device")],
                time_column: "time".into(),
                extra_column: Some("extra".into()),
            });
        insta::assert_snapshot!(
            [copy, insert_dead_letters, move_positions, read_positions, insert_positions].join("\n\n")
        );
    }

    #[test]
    fn an_identifier_cannot_end_its_quotes() {
        assert_eq!(quote_identifier("a\"; DROP TABLE b; --"), "\"a\"\"; DROP TABLE b; --\"");
    }
}
