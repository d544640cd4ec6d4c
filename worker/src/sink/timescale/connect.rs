//! Connects to the database with the Secret as it is now, so that a rotated password needs no restart.

use std::{path::PathBuf, time::Duration};

use access::database::{DatabaseAccess, DatabaseSecretError, DatabaseTls};
use crds::{names::SecretPurpose, worker::DatabaseTlsConfig};
use snafu::{ResultExt, Snafu};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use crate::secrets::{self, Secrets};

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
    /// A certificate is not mounted.
    #[snafu(transparent)]
    Certificate {
        /// Which.
        source: secrets::Error,
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
    /// Where the Secrets are mounted.
    pub secrets: Secrets,
    /// Whether and how the connection is encrypted.
    pub tls: DatabaseTlsConfig,
    /// The pipeline's namespace, which completes a host without a dot.
    pub namespace: String,
}

impl Connector {
    /// Reads the Secrets and connects.
    ///
    /// # Errors
    /// Never quotes the password.
    pub async fn connect(&self) -> Result<PgConnection, Error> {
        let access = self.access()?;
        match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&access.options(APPLICATION_NAME))).await {
            Ok(connected) => connected.context(ConnectSnafu { access }),
            Err(_) => SlowSnafu { access }.fail(),
        }
    }

    fn access(&self) -> Result<DatabaseAccess, Error> {
        let DatabaseTlsConfig { mode, certificates } = self.tls;
        let material =
            self.secrets.tls(certificates, SecretPurpose::TimescaleCa, SecretPurpose::TimescaleClient)?;
        let directory = self.secrets.directory(SecretPurpose::Timescale);
        let value_of = |key: &str| self.secrets.read(SecretPurpose::Timescale, key).ok();
        DatabaseAccess::from_secret(value_of, &self.namespace, DatabaseTls { mode, material })
            .context(SecretSnafu { directory })
    }
}
