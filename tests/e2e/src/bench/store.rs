//! The benchmark's database: its tables, what has arrived in them, and `psql` beside it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crds::{
    names::{POSITION_TABLE, dead_letter_table},
    pipeline::ColumnType,
};
use snafu::{ResultExt, whatever};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use super::reading::{COLUMNS, SCHEMA, TABLE};
use crate::{Result, database::execute};

const HOST: &str = "timescaledb.timescaledb";
const PORT: u16 = 5432;
const USER: &str = "postgres";
const DATABASE: &str = "bench";

/// A database of the benchmark's own.
pub struct Store {
    connection: PgConnection,
    password: String,
    /// Whether the table has a natural key.
    pub is_unique: bool,
}

impl Store {
    /// Makes the database anew.
    ///
    /// # Errors
    /// Fails where the server does not answer or refuses.
    pub async fn create(password: &str, is_unique: bool) -> Result<Self> {
        let mut server = connect("postgres", password).await?;
        execute(&mut server, &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")).await?;
        execute(&mut server, &format!("CREATE DATABASE {DATABASE}")).await?;
        let mut connection = connect(DATABASE, password).await?;
        execute(&mut connection, "CREATE EXTENSION IF NOT EXISTS timescaledb").await?;
        Ok(Self { connection, password: password.to_owned(), is_unique })
    }

    /// Removes the database.
    ///
    /// # Errors
    /// Fails where the server does not answer or refuses.
    pub async fn remove(self) -> Result<()> {
        let mut server = connect("postgres", &self.password).await?;
        execute(&mut server, &format!("DROP DATABASE {DATABASE} WITH (FORCE)")).await
    }

    /// How a processor reaches it.
    pub fn uri(&self) -> String {
        format!("postgres://{USER}:{}@{HOST}:{PORT}/{DATABASE}", self.password)
    }

    /// One more connection.
    ///
    /// # Errors
    /// Fails where the server does not answer.
    pub async fn connect(&self) -> Result<PgConnection> {
        connect(DATABASE, &self.password).await
    }

    /// The tables as the operator would make them, empty, and everything that was written before on disk.
    ///
    /// # Errors
    /// Fails where the server refuses.
    pub async fn begin_anew(&mut self) -> Result<()> {
        let dead_letters = dead_letter_table(TABLE);
        let unique = if self.is_unique { "UNIQUE" } else { "" };
        let columns: Vec<String> = COLUMNS
            .iter()
            .map(|(name, column_type, _)| {
                let not_null = if *column_type == ColumnType::DoublePrecision { "" } else { " NOT NULL" };
                format!("{name} {}{not_null}", column_type.sql())
            })
            .collect();
        execute(
            &mut self.connection,
            &format!(
                "DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;
                 CREATE SCHEMA {SCHEMA};
                 CREATE TABLE {SCHEMA}.{TABLE} ({});
                 SELECT create_hypertable('{SCHEMA}.{TABLE}', by_range('time', INTERVAL '1 day'), \
                   create_default_indexes => false);
                 CREATE {unique} INDEX ON {SCHEMA}.{TABLE} (device, time DESC);
                 CREATE TABLE {SCHEMA}.{dead_letters} (time timestamptz NOT NULL DEFAULT now(), \
                   reason text NOT NULL, stage text NOT NULL, error text NOT NULL, topic text NOT NULL, \
                   partition int NOT NULL, \"offset\" bigint NOT NULL, key bytea, headers jsonb, payload bytea, \
                   payload_bytes bigint NOT NULL, payload_sha256 bytea NOT NULL);
                 CREATE TABLE {SCHEMA}.{POSITION_TABLE} (table_name text NOT NULL, \
                   kafka_cluster_id text NOT NULL, topic text NOT NULL, partition int NOT NULL, \
                   next_offset bigint NOT NULL, last_offset bigint, last_timestamp timestamptz, last_hash bytea, \
                   updated_at timestamptz NOT NULL DEFAULT now(), \
                   PRIMARY KEY (table_name, kafka_cluster_id, topic, partition));",
                columns.join(", ")
            ),
        )
        .await?;
        execute(&mut self.connection, "CHECKPOINT").await
    }

    /// Fails unless the table has so many rows, and no record became a dead letter.
    ///
    /// # Errors
    /// Fails where that is not so.
    pub async fn check(&mut self, rows: u64) -> Result<()> {
        let count = |table: &str| format!("SELECT count(*) FROM {SCHEMA}.{table}");
        let found = number(&mut self.connection, &count(TABLE)).await?;
        let dead_letters = number(&mut self.connection, &count(&dead_letter_table(TABLE))).await?;
        if (found, dead_letters) != (rows as i64, 0) {
            whatever!("{found} rows and {dead_letters} dead letters, where {rows} rows should be");
        }
        Ok(())
    }

    /// How many records have become rows.
    ///
    /// # Errors
    /// Fails where the server does not answer.
    pub async fn stored(&mut self) -> Result<u64> {
        Ok(next_offsets(&mut self.connection).await?.values().sum::<i64>().unsigned_abs())
    }

    /// Writes the table's rows to a file, in the order in which they were written.
    ///
    /// # Errors
    /// Fails where `psql` does.
    pub fn copy_to(&self, file: &Path) -> Result<()> {
        let columns = COLUMNS.map(|(name, ..)| name).join(", ");
        // Without an order the rows come as they lie: the whole table is in one chunk.
        self.psql(&format!(
            "\\copy (SELECT {columns} FROM {SCHEMA}.{TABLE}) TO '{}' WITH (FORMAT binary)",
            file.display()
        ))
    }

    /// Has `psql` copy a file into the table; answers how long that took, from the start of `psql` to its end.
    ///
    /// # Errors
    /// Fails where `psql` does.
    pub fn copy_from(&self, file: &Path) -> Result<Duration> {
        let columns = COLUMNS.map(|(name, ..)| name).join(", ");
        let begun = Instant::now();
        self.psql(&format!(
            "\\copy {SCHEMA}.{TABLE} ({columns}) FROM '{}' WITH (FORMAT binary)",
            file.display()
        ))?;
        Ok(begun.elapsed())
    }

    fn psql(&self, command: &str) -> Result<()> {
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", command])
            .env("PGHOST", HOST)
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", &self.password)
            .env("PGDATABASE", DATABASE)
            // Two scans of one table may else begin in its middle.
            .env("PGOPTIONS", "-c synchronize_seqscans=off -c max_parallel_workers_per_gather=0")
            .output()
            .whatever_context("failed to run psql, the client of PostgreSQL")?;
        if !output.status.success() {
            whatever!("psql failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// Up to where each partition has become rows.
///
/// # Errors
/// Fails where the server does not answer.
pub async fn next_offsets(connection: &mut PgConnection) -> Result<BTreeMap<i32, i64>> {
    let sql = format!("SELECT partition, next_offset FROM {SCHEMA}.{POSITION_TABLE}");
    let rows: Vec<(i32, i64)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(connection)
        .await
        .whatever_context("failed to read the positions")?;
    Ok(rows.into_iter().collect())
}

/// Where the rows for `psql` are kept.
pub fn rows_file(directory: &Path) -> PathBuf {
    directory.join("rows.copy")
}

async fn connect(database: &str, password: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::new_without_pgpass()
        .host(HOST)
        .port(PORT)
        .username(USER)
        .password(password)
        .database(database)
        .ssl_mode(sqlx::postgres::PgSslMode::Disable);
    PgConnection::connect_with(&options)
        .await
        .with_whatever_context(|_| format!("failed to connect to the database {database}"))
}

async fn number(connection: &mut PgConnection, sql: &str) -> Result<i64> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(connection)
        .await
        .with_whatever_context(|_| format!("failed to run {sql}"))
}
