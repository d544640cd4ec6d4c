//! What the database holds, asked directly.

use std::collections::{BTreeMap, BTreeSet};

use crds::names::{POSITION_TABLE, dead_letter_table};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use snafu::{OptionExt, ResultExt};
use sqlx::{
    AssertSqlSafe, FromRow, PgConnection, PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};

use crate::{
    Result,
    cluster::{CREDENTIALS_NAMESPACE, Cluster, value_of},
    fleet::{DeadLetters, Reading, Rows},
};

/// A connection to TimescaleDB, as the role that the pipelines use.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
}

/// The table of one pipeline.
#[derive(Clone, Debug)]
pub struct Table {
    database: Database,
    schema: String,
    name: String,
}

impl Database {
    /// Connects as a Secret says.
    ///
    /// # Errors
    /// Fails where the Secret is incomplete or the database does not answer.
    pub async fn connect(secret: &Secret) -> Result<Self> {
        let value = |key: &str| {
            value_of(secret, key).with_whatever_context(|| format!("the Secret has no key {key}"))
        };
        let options = PgConnectOptions::new_without_pgpass()
            .host(&value("host")?)
            .port(value("port")?.parse().whatever_context("the Secret's port is no number")?)
            .database(&value("dbname")?)
            .username(&value("username")?)
            .password(&value("password")?)
            .ssl_mode(sqlx::postgres::PgSslMode::Disable);
        let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await;
        Ok(Self { pool: pool.whatever_context("failed to connect to TimescaleDB")? })
    }

    /// Connects as the server's superuser.
    ///
    /// # Errors
    /// Fails where the local cluster's Secret is incomplete or the database does not answer.
    pub async fn superuser(cluster: &Cluster) -> Result<Self> {
        let mut secret = cluster.secret(CREDENTIALS_NAMESPACE, "tsdb").await?;
        let credentials = cluster.secret("timescaledb", "credentials").await?;
        let password =
            value_of(&credentials, "postgres-password").whatever_context("there is no superuser")?;
        let login = [("username", "postgres".to_owned()), ("password", password)];
        let values = login.map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())));
        secret.data.get_or_insert_default().extend(values);
        Self::connect(&secret).await
    }

    /// The table `telemetry` of a schema, which is what scenarios use.
    pub fn table(&self, schema: &str) -> Table {
        Table { database: self.clone(), schema: schema.to_owned(), name: "telemetry".to_owned() }
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// Fails where the database refuses it.
    pub async fn execute(&self, sql: &str) -> Result<u64> {
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await;
        Ok(done.with_whatever_context(|_| format!("failed to run {sql}"))?.rows_affected())
    }

    /// Runs statements one after the other on one connection; they may begin and end a transaction.
    ///
    /// # Errors
    /// Fails where the database refuses one of them.
    pub async fn script(&self, sql: &str) -> Result<()> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await;
        done.with_whatever_context(|_| format!("failed to run {sql}"))?;
        Ok(())
    }

    /// Runs a statement and keeps what it locked until `held` is over.
    ///
    /// # Errors
    /// Fails where the database refuses it, or `held` fails.
    pub async fn hold(&self, sql: &str, held: impl Future<Output = Result<()>>) -> Result<()> {
        let mut transaction = self.pool.begin().await.whatever_context("failed to begin a transaction")?;
        execute(&mut transaction, sql).await?;
        let result = held.await;
        transaction.rollback().await.whatever_context("failed to roll back")?;
        result
    }

    /// What one query answers.
    ///
    /// # Errors
    /// Fails where the database refuses it.
    pub async fn query<T>(&self, sql: &str) -> Result<Vec<T>>
    where
        T: for<'row> FromRow<'row, PgRow> + Send + Unpin,
    {
        let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&self.pool).await;
        rows.with_whatever_context(|_| format!("failed to run {sql}"))
    }

    /// The number that one query answers.
    ///
    /// # Errors
    /// Fails where the database refuses it or answers no number.
    pub async fn number(&self, sql: &str) -> Result<i64> {
        let rows: Vec<(i64,)> = self.query(sql).await?;
        rows.first().map(|row| row.0).with_whatever_context(|| format!("no answer to {sql}"))
    }
}

impl Table {
    /// `schema.table`, each quoted.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// The table of dead letters, quoted.
    pub fn dead_letters(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&dead_letter_table(&self.name)))
    }

    /// The tables of this schema by name, bookkeeping and all.
    ///
    /// # Errors
    /// Fails where the database does.
    pub async fn neighbours(&self) -> Result<BTreeSet<String>> {
        let sql =
            format!("SELECT tablename::text FROM pg_tables WHERE schemaname = {}", literal(&self.schema));
        let names: Vec<(String,)> = self.database.query(&sql).await?;
        Ok(names.into_iter().map(|name| name.0).collect())
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// Fails where there is no such table.
    pub async fn count(&self) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM {}", self.quoted());
        Ok(self.database.number(&sql).await?.unsigned_abs())
    }

    /// How many dead letters there are of each reason.
    ///
    /// # Errors
    /// Fails where there is no such table.
    pub async fn dead_letters_by_reason(&self) -> Result<BTreeMap<String, u64>> {
        let sql = format!("SELECT reason, count(*) FROM {} GROUP BY reason", self.dead_letters());
        let counts: Vec<(String, i64)> = self.database.query(&sql).await?;
        Ok(counts.into_iter().map(|(reason, count)| (reason, count.unsigned_abs())).collect())
    }

    /// Every row as the fleet's ledger has it, with how often it is there.
    ///
    /// # Errors
    /// Fails where there is no such table.
    pub async fn rows(&self) -> Result<Rows> {
        let sql = format!(
            "SELECT device, seq, (extract(epoch FROM time) * 1000)::bigint AS time_ms, temp_f, vibration, battery FROM {}",
            self.quoted()
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.database.pool).await;
        let mut found = Rows::new();
        for row in rows.whatever_context("failed to read the rows")? {
            let reading = reading_of(&row).whatever_context("failed to read a row")?;
            *found.entry((reading.device.clone(), reading.seq, reading.fingerprint())).or_default() += 1;
        }
        Ok(found)
    }

    /// Every dead letter as the fleet's ledger has it, with how often it is there.
    ///
    /// # Errors
    /// Fails where there is no such table.
    pub async fn letters(&self) -> Result<DeadLetters> {
        let sql = format!("SELECT payload_sha256, count(*) FROM {} GROUP BY 1", self.dead_letters());
        let letters: Vec<(Vec<u8>, i64)> = self.database.query(&sql).await?;
        Ok(letters.into_iter().map(|(hash, count)| (hash, count.unsigned_abs())).collect())
    }

    /// How many devices have a row of a reading since `time`.
    ///
    /// # Errors
    /// Fails where there is no such table.
    pub async fn devices_since(&self, time: Timestamp) -> Result<u64> {
        let sql = format!("SELECT count(DISTINCT device) FROM {} WHERE time >= '{time}'", self.quoted());
        Ok(self.database.number(&sql).await?.unsigned_abs())
    }

    /// The Kafka records that became rows or dead letters, with how often they did. Needs the columns
    /// `kafka_partition` and `kafka_offset`.
    ///
    /// # Errors
    /// Fails where there is no such table.
    pub async fn origins(&self) -> Result<BTreeMap<(i32, i64), u64>> {
        let sql = format!(
            "SELECT kafka_partition, kafka_offset, count(*) FROM (\
             SELECT kafka_partition, kafka_offset FROM {} UNION ALL SELECT partition, \"offset\" FROM {}) AS origin \
             GROUP BY 1, 2",
            self.quoted(),
            self.dead_letters()
        );
        let origins: Vec<(i32, i64, i64)> = self.database.query(&sql).await?;
        Ok(origins
            .into_iter()
            .map(|(partition, offset, count)| ((partition, offset), count.unsigned_abs()))
            .collect())
    }

    /// Up to where each partition has become rows.
    ///
    /// # Errors
    /// Fails where there are no positions.
    pub async fn positions(&self) -> Result<BTreeMap<i32, i64>> {
        let sql = format!(
            "SELECT partition, next_offset FROM {}.{} WHERE table_name = {}",
            quoted(&self.schema),
            quoted(POSITION_TABLE),
            literal(&self.name)
        );
        let positions: Vec<(i32, i64)> = self.database.query(&sql).await?;
        Ok(positions.into_iter().collect())
    }
}

/// An SQL identifier.
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// An SQL text literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn reading_of(row: &PgRow) -> Result<Reading, sqlx::Error> {
    Ok(Reading {
        device: row.try_get("device")?,
        seq: row.try_get("seq")?,
        time: Timestamp::from_millisecond(row.try_get("time_ms")?).unwrap_or_default(),
        temp_f: row.try_get("temp_f")?,
        vibration: row.try_get("vibration")?,
        battery: row.try_get("battery")?,
        details: serde_json::Map::new(),
    })
}

/// Runs statements one after the other on this connection; they may begin and end a transaction.
pub(crate) async fn execute(connection: &mut PgConnection, sql: &str) -> Result<()> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
    done.with_whatever_context(|_| format!("failed to run {sql}"))?;
    Ok(())
}
