//! A TimescaleDB of the Community edition, which the local cluster's is not, beside the cluster: without background
//! workers and `COPY`, so for pipelines whose workers stand still.

use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use snafu::{OptionExt, ResultExt};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{Result, backends, cluster::Cluster};

/// Not that of the integration tests.
const PORT: u16 = 15440;

/// The server, for as long as this lives. Its only role is a superuser, and takes any password.
pub struct Community {
    address: String,
}

impl Community {
    /// Starts it on an address of the cluster's node, in whose network scenarios run, so that pods reach it.
    ///
    /// # Errors
    /// Fails where it does not answer after two minutes.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.whatever_context("failed to list the nodes")?;
        let addresses = nodes.items.into_iter().filter_map(|node| node.status?.addresses).flatten();
        let address = addresses.into_iter().find(|address| address.type_ == "InternalIP");
        let address = address.whatever_context("no node has an address")?.address;
        // Whatever becomes of it, it is ended.
        let community = Self { address: address.clone() };
        backends::run("community/start", vec![PORT.to_string(), address], String::new()).await?;
        community.execute("CREATE EXTENSION timescaledb SCHEMA public").await?;
        Ok(community)
    }

    /// Makes a Secret that names it, as `timescale.secretRef` wants one.
    ///
    /// # Errors
    /// Fails where the API server does.
    pub async fn make_secret(&self, cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
        let secret = serde_json::from_value(json!({
            "metadata": {"name": name},
            "stringData": {"uri": format!("postgres://postgres:any@{}:{PORT}/postgres", self.address)},
        }));
        let secret: Secret = secret.whatever_context("failed to write a Secret")?;
        let made = cluster.api(namespace).create(&PostParams::default(), &secret).await;
        made.with_whatever_context(|_| format!("failed to make the Secret {namespace}/{name}"))?;
        Ok(())
    }

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// Fails where the server refuses one of them.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        let mut connection = self.connect().await?;
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        done.with_whatever_context(|_| format!("failed to run {sql}"))?;
        close(connection).await
    }

    /// The one text that a query answers.
    ///
    /// # Errors
    /// Fails where the server refuses it or answers something else.
    pub async fn text(&self, sql: &str) -> Result<String> {
        let mut connection = self.connect().await?;
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut connection).await;
        let row = row.with_whatever_context(|_| format!("failed to run {sql}"))?;
        close(connection).await?;
        row.try_get(0).with_whatever_context(|_| format!("no text answers {sql}"))
    }

    /// The server has one session, for which the others wait; so each of these is short.
    async fn connect(&self) -> Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&self.address)
            .port(PORT)
            .database("postgres")
            .username("postgres")
            .password("any")
            .ssl_mode(PgSslMode::Disable);
        options.connect().await.whatever_context("failed to connect to TimescaleDB's Community edition")
    }
}

impl Drop for Community {
    fn drop(&mut self) {
        let stop = format!("{}/cluster/community/stop", env!("CARGO_MANIFEST_DIR"));
        let stopped = Command::new(stop).arg(PORT.to_string()).stdin(Stdio::null()).status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("TimescaleDB's Community edition still runs on port {PORT}");
        }
    }
}

async fn close(connection: PgConnection) -> Result<()> {
    connection.close().await.whatever_context("failed to close a connection")
}
