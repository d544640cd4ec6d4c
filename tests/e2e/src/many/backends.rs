//! A database and topics of the measurement's own on servers that may serve others.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use snafu::ResultExt;
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use url::Url;

use crate::{Result, database::execute};

const TIMEOUT: Duration = Duration::from_secs(60);

/// How many topics are deleted in one request.
const TOPICS_AT_ONCE: usize = 100;

/// Kafka and the database, as pipelines reach them.
pub struct Backends {
    /// Kafka, `host:port`.
    pub kafka: String,
    /// The URI of the database.
    pub uri: String,
    /// What each topic's name begins with.
    pub prefix: String,
    server: PgConnectOptions,
    database: String,
}

impl Backends {
    /// Makes the database.
    ///
    /// # Errors
    /// Fails where the server does not answer or refuses.
    pub async fn create(kafka: &str, timescale: &str) -> Result<Self> {
        let mut uri: Url = timescale.parse().whatever_context("the database's URI is none")?;
        let server: PgConnectOptions = timescale.parse().whatever_context("the database's URI is none")?;
        let database = format!("many_{}", std::process::id());
        let mut connection = connect(&server).await?;
        execute(&mut connection, &format!("CREATE DATABASE {database}")).await?;
        uri.set_path(&database);
        let prefix = format!("many-{}.", std::process::id());
        Ok(Self { kafka: kafka.to_owned(), uri: uri.into(), prefix, server, database })
    }

    /// Removes the database, and the topics that begin with the prefix.
    ///
    /// # Errors
    /// Fails where a server does not answer or refuses.
    pub async fn remove(&self) -> Result<()> {
        let mut connection = connect(&self.server).await?;
        execute(&mut connection, &format!("DROP DATABASE {} WITH (FORCE)", self.database)).await?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka);
        let admin: AdminClient<DefaultClientContext> =
            config.create().whatever_context("failed to make a Kafka admin client")?;
        let metadata =
            admin.inner().fetch_metadata(None, TIMEOUT).whatever_context("failed to list the topics")?;
        let names = metadata.topics().iter().map(|topic| topic.name());
        let ours: Vec<_> = names.filter(|name| name.starts_with(&self.prefix)).collect();
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
        for some in ours.chunks(TOPICS_AT_ONCE) {
            admin.delete_topics(some, &options).await.whatever_context("failed to delete topics")?;
        }
        Ok(())
    }
}

async fn connect(server: &PgConnectOptions) -> Result<PgConnection> {
    server.connect().await.whatever_context("failed to connect to TimescaleDB")
}
