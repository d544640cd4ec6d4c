//! Connects to the database with the Secret as it is now, so that a rotated password needs no restart.

use std::{path::PathBuf, time::Duration};

use crds::database::{DatabaseAccess, DatabaseSecretError};
use snafu::{ResultExt, Snafu};
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::timeout;

use crate::config::read_secret;

/// The name under which the server lists the worker's sessions.
pub const APPLICATION_NAME: &str = "iotpipeline-processor";

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The mounted Secret does not name a database.
    #[snafu(display("the Secret mounted at {} {source}", directory.display()))]
    Secret {
        /// Where it is mounted.
        directory: PathBuf,
        /// What it lacks.
        source: DatabaseSecretError,
    },
    /// The server refused or did not answer.
    #[snafu(display("failed to connect to {access:?}"))]
    Connect {
        /// Where to, without the password.
        access: Box<DatabaseAccess>,
        /// Why not.
        source: sqlx::Error,
    },
    /// The server took too long.
    #[snafu(display("no connection to {access:?} within {} s", CONNECT_TIMEOUT.as_secs()))]
    Slow {
        /// Where to, without the password.
        access: Box<DatabaseAccess>,
    },
}

/// Connects to the pipeline's database.
#[derive(Clone, Debug)]
pub struct Connector {
    /// The directory into which the Secret is mounted.
    pub secret_directory: PathBuf,
    /// The pipeline's namespace, which completes a host without a dot.
    pub namespace: String,
}

impl Connector {
    /// Reads the Secret and connects.
    ///
    /// # Errors
    /// Never quotes the password.
    pub async fn connect(&self) -> Result<PgConnection, Error> {
        let directory = &self.secret_directory;
        let access = DatabaseAccess::from_secret(|key| read_secret(directory, key).ok(), &self.namespace)
            .context(SecretSnafu { directory })?;
        match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options(&access))).await {
            Ok(connected) => connected.context(ConnectSnafu { access }),
            Err(_) => SlowSnafu { access }.fail(),
        }
    }
}

fn options(access: &DatabaseAccess) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&access.host)
        .port(access.port)
        .database(&access.database)
        .username(&access.username)
        .password(&access.password)
        .application_name(APPLICATION_NAME)
        .ssl_mode(PgSslMode::Disable)
        // Poolers refuse this startup parameter, and nothing here reads floats as text.
        .extra_float_digits(None)
        .statement_cache_capacity(0)
}
