//! How a database is named in a Secret, as parts or as a URI, and how to reach it.

use std::fmt;

use crds::{names::service_host, pipeline::DatabaseTlsMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::tls::TlsMaterial;

/// Variables of the environment that would change every connection, and that [`DatabaseAccess::options`] cannot
/// overrule: whoever connects refuses to start where one of them is set. It overrules all others.
pub const REFUSED_VARIABLES: [&str; 3] = ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY"];

/// How to reach the database. Holds the password, so its `Debug` hides it.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct DatabaseAccess {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub database: String,
    /// Role.
    pub username: String,
    /// The role's password; empty where a client certificate says who it is.
    pub password: String,
    /// Whether and how the connection is encrypted.
    pub tls: DatabaseTls,
}

/// Whether and how a connection to a database is encrypted.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct DatabaseTls {
    /// What of the server is checked.
    pub mode: DatabaseTlsMode,
    /// The certificates.
    pub material: TlsMaterial,
}

/// Why a Secret does not name a database. Quotes keys and never values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DatabaseSecretError {
    /// Neither `uri` nor all of the parts are there.
    Missing(&'static str),
    /// The value of this key is not usable, and why.
    Unusable(&'static str, &'static str),
}

impl DatabaseAccess {
    /// Reads `fqdn-uri` or `uri` where there is one, else `host`, `port` (5432), `dbname`, `username` (or `user`)
    /// and `password`: the keys of a CloudNativePG `<cluster>-app` Secret. A host without a dot is a Service
    /// in `namespace`.
    ///
    /// # Errors
    /// Names the key that is missing or unusable.
    pub fn from_secret(
        value_of: impl Fn(&str) -> Option<String>,
        namespace: &str,
        tls: DatabaseTls,
    ) -> Result<Self, DatabaseSecretError> {
        let mut access = match (value_of("fqdn-uri"), value_of("uri")) {
            (Some(uri), _) => Self::from_uri("fqdn-uri", &uri, tls)?,
            (None, Some(uri)) => Self::from_uri("uri", &uri, tls)?,
            (None, None) => Self::from_parts(&value_of, tls)?,
        };
        access.host = service_host(&access.host, namespace);
        Ok(access)
    }

    /// The settings of a client that connects so and that the server lists as `application_name`. Every session
    /// suits a transaction-pooling proxy: it keeps no statement prepared and starts without parameters that such a
    /// proxy refuses. Nothing comes from the environment but what [`REFUSED_VARIABLES`] names.
    pub fn options(&self, application_name: &str) -> PgConnectOptions {
        let Self { host, port, database, username, password, tls: DatabaseTls { mode, material } } = self;
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(host)
            .port(*port)
            .database(database)
            .username(username)
            .password(password)
            .application_name(application_name)
            .ssl_mode(match mode {
                DatabaseTlsMode::Disable => PgSslMode::Disable,
                DatabaseTlsMode::Require => PgSslMode::Require,
                DatabaseTlsMode::VerifyCa => PgSslMode::VerifyCa,
                DatabaseTlsMode::VerifyFull => PgSslMode::VerifyFull,
            })
            .extra_float_digits(None)
            .statement_cache_capacity(0)
            // An empty text adds none, and keeps PGSSLROOTCERT from naming one.
            .ssl_root_cert_from_pem(material.ca.clone().unwrap_or_default().into_bytes());
        if let Some(client) = &material.client {
            options =
                options.ssl_client_cert_from_pem(&client.certificate).ssl_client_key_from_pem(&client.key);
        }
        options
    }

    fn from_parts(
        value_of: &impl Fn(&str) -> Option<String>,
        tls: DatabaseTls,
    ) -> Result<Self, DatabaseSecretError> {
        let required =
            |key| value_of(key).filter(|value| !value.is_empty()).ok_or(DatabaseSecretError::Missing(key));
        let port = match value_of("port") {
            Some(port) => {
                port.trim().parse().map_err(|_| DatabaseSecretError::Unusable("port", "it is no TCP port"))?
            }
            None => DEFAULT_PORT,
        };
        let host = required("host")?;
        if host.starts_with('/') {
            return Err(DatabaseSecretError::Unusable(
                "host",
                "it is a path; a host name or an address is needed",
            ));
        }
        Ok(Self {
            host,
            port,
            database: required("dbname")?,
            username: required("username").or_else(|missing| required("user").map_err(|_| missing))?,
            password: match required("password") {
                Err(_) if tls.material.client.is_some() => String::new(),
                password => password?,
            },
            tls,
        })
    }

    fn from_uri(key: &'static str, uri: &str, tls: DatabaseTls) -> Result<Self, DatabaseSecretError> {
        let unusable = |why| DatabaseSecretError::Unusable(key, why);
        let url = Url::parse(uri)
            .map_err(|_| unusable("it is no URI; write postgres://user:password@host:port/dbname"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(unusable("its scheme is not postgres"));
        }
        // Parameters such as sslkey or passfile name files; the spec is the place for such settings.
        if url.query_pairs().any(|(name, _)| name != "sslmode" && name != "application_name") {
            return Err(unusable(
                "it has parameters; only sslmode and application_name are allowed, and ignored",
            ));
        }
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| unusable("it holds text that is not UTF-8"))
        };
        let host = url.host_str().filter(|host| !host.is_empty() && !host.contains('%'));
        let database = decoded(url.path().trim_start_matches('/'))?;
        if database.is_empty() || url.username().is_empty() {
            return Err(unusable("it names no user or no database"));
        }
        Ok(Self {
            // An IPv6 address has brackets in a URI, and none elsewhere.
            host: host.ok_or_else(|| unusable("it names no host"))?.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(DEFAULT_PORT),
            database,
            username: decoded(url.username())?,
            password: match url.password() {
                Some(password) => decoded(password)?,
                None if tls.material.client.is_some() => String::new(),
                None => return Err(unusable("it has no password")),
            },
            tls,
        })
    }
}

const DEFAULT_PORT: u16 = 5432;

impl fmt::Debug for DatabaseAccess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "postgres://{}:***@{}:{}/{}", self.username, self.host, self.port, self.database)
    }
}

impl fmt::Display for DatabaseSecretError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => {
                write!(formatter, "has no key {key} (it needs uri, or host, dbname, username and password)")
            }
            Self::Unusable(key, why) => write!(formatter, "has a key {key} that cannot be used: {why}"),
        }
    }
}

impl std::error::Error for DatabaseSecretError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(secret: &[(&str, &str)]) -> Result<DatabaseAccess, DatabaseSecretError> {
        let value_of =
            |key: &str| secret.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        DatabaseAccess::from_secret(value_of, "plant-7", DatabaseTls::default())
    }

    #[test]
    fn parts_and_uri_say_the_same() {
        let expected = DatabaseAccess {
            host: "db.plant-7.svc".into(),
            port: 6432,
            database: "iot".into(),
            username: "app".into(),
            password: "p@ss/word".into(),
            tls: DatabaseTls::default(),
        };
        let parts = [
            ("host", "db"),
            ("port", "6432"),
            ("dbname", "iot"),
            ("username", "app"),
            ("password", "p@ss/word"),
        ];
        assert_eq!(read(&parts).as_ref(), Ok(&expected));
        assert_eq!(read(&[("uri", "postgresql://app:p%40ss%2Fword@db:6432/iot")]), Ok(expected));
    }

    #[test]
    fn a_full_name_wins_over_a_short_one() {
        let both = [("uri", "postgres://a:b@short/x"), ("fqdn-uri", "postgres://a:b@db.other.svc/x")];
        assert_eq!(read(&both).unwrap().host, "db.other.svc");
    }

    #[test]
    fn an_ipv6_address_has_no_brackets() {
        assert_eq!(read(&[("uri", "postgres://a:b@[fd00::7]:5432/x")]).unwrap().host, "fd00::7");
    }

    #[test]
    fn what_is_wrong_is_named_by_key_and_never_by_value() {
        for (secret, message) in [
            (vec![], "has no key host (it needs uri, or host, dbname, username and password)"),
            (
                vec![("host", "/run/postgresql")],
                "has a key host that cannot be used: it is a path; a host name or an address is needed",
            ),
            (
                vec![("uri", "postgres://a:b@h/x?sslkey=/etc/key")],
                "has a key uri that cannot be used: it has parameters; only sslmode and application_name are allowed, and ignored",
            ),
            (vec![("uri", "postgres://a@h/x")], "has a key uri that cannot be used: it has no password"),
            (
                vec![("uri", "mysql://a:b@h/x")],
                "has a key uri that cannot be used: its scheme is not postgres",
            ),
            (
                vec![("uri", "postgres://a:b@%2Frun%2Fpg/x")],
                "has a key uri that cannot be used: it names no host",
            ),
            (vec![("host", "h"), ("port", "none")], "has a key port that cannot be used: it is no TCP port"),
        ] {
            assert_eq!(read(&secret).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let access = read(&[("uri", "postgres://app:hunter2@db.x/iot")]).unwrap();
        assert_eq!(format!("{access:?}"), "postgres://app:***@db.x:5432/iot");
    }
}
