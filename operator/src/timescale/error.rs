//! What can go wrong with the database, told so that a person can act on it. No I/O.
//!
//! What a server says is never repeated, but for its SQLSTATE: whoever writes a spec may point the operator at any
//! address, and shall not read through it what answers there.

use std::io;

use crds::status::Reason;
use rustls::CertificateError;
use snafu::Snafu;

/// A request to the database that failed. Holds neither a password nor anything that a server said.
#[derive(Clone, Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum Error {
    /// No connection, or no answer within the deadline.
    #[snafu(display("failed to {action}: {database} does not answer: {explanation}"))]
    Unreachable {
        /// What was to be done.
        action: String,
        /// Host, port and database.
        database: String,
        /// What happened and what to look at.
        explanation: String,
    },

    /// The connection could not be encrypted as the spec says.
    #[snafu(display("failed to {action}: no TLS with {database}: {explanation}"))]
    Tls {
        /// What was to be done.
        action: String,
        /// Host, port and database.
        database: String,
        /// What happened and what to look at.
        explanation: &'static str,
    },

    /// Something stands between the operator and the server.
    #[snafu(display(
        "failed to connect to the database: {database} does not take a session's settings, so it is a connection \
         pooler and not the server itself; workers may go through it, and the operator needs the server: name a Secret \
         with its own address in timescale.adminSecretRef"
    ))]
    Pooled {
        /// Host, port and database.
        database: String,
    },

    /// The server answered with an error.
    #[snafu(display(
        "failed to {action} as role {role}: {database} answered SQLSTATE {code}: {explanation}"
    ))]
    Refused {
        /// What was to be done.
        action: String,
        /// Host, port and database.
        database: String,
        /// The role that the operator has there.
        role: String,
        /// The five characters.
        code: String,
        /// What it means and what to do.
        explanation: &'static str,
    },

    /// The answer is none that this operator can read: a server that is no PostgreSQL, or a fault of the operator.
    #[snafu(display("failed to {action}: {database} answered something unexpected: {explanation}"))]
    Unexpected {
        /// What was to be done.
        action: String,
        /// Host, port and database.
        database: String,
        /// What kind of answer it was.
        explanation: String,
    },

    /// Another pipeline has claimed the topic.
    #[snafu(display(
        "failed to claim topic {topic}: it belongs to the IoTPipeline {owner}; choose another kafka.topic.name"
    ))]
    TopicTaken {
        /// The topic.
        topic: String,
        /// `<cluster>/<namespace>/<name>`.
        owner: String,
    },
}

/// Where a request went, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// Host, port and database.
    pub database: String,
    /// The role.
    pub role: String,
}

impl Error {
    /// The reason of the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable { .. } | Self::Tls { .. } => Reason::DatabaseUnreachable,
            Self::Refused { code, .. } if code == "42501" => Reason::PermissionMissing,
            Self::Refused { .. } | Self::Pooled { .. } => Reason::DatabaseRefused,
            Self::Unexpected { .. } => Reason::ReconcileFailed,
            Self::TopicTaken { .. } => Reason::ResourceConflict,
        }
    }

    /// Sorts what sqlx says, and drops its words: they may hold some of what the server sent.
    pub(super) fn from_sqlx(error: &sqlx::Error, action: &str, server: &Server) -> Self {
        let Server { database, role } = server.clone();
        let action = action.to_owned();
        match error {
            sqlx::Error::Database(answer) => {
                let code = sqlstate(answer.code().as_deref());
                let explanation = explain(&code);
                if is_unavailable(&code) {
                    return Self::Unreachable { action, database, explanation: explanation.to_owned() };
                }
                Self::Refused { action, database, role, code, explanation }
            }
            sqlx::Error::Io(error) => match tls_error(error.get_ref()) {
                Some(error) => Self::Tls { action, database, explanation: explain_tls(error) },
                None => Self::Unreachable { action, database, explanation: explain_io(error) },
            },
            sqlx::Error::Tls(error) => {
                let explanation = match tls_error(Some(error.as_ref())) {
                    Some(error) => explain_tls(error),
                    None if error.to_string() == SQLX_SAYS_NO_TLS => {
                        "the server does not offer it; set timescale.tls.mode to Disable, or let the server offer it"
                    }
                    None => "what timescale.tls names cannot be used for it",
                };
                Self::Tls { action, database, explanation }
            }
            error => Self::Unexpected { action, database, explanation: kind_of(error) },
        }
    }

    /// As [`Error::from_sqlx`], where the server was asked for a session with settings of its own: a pooler shares its
    /// sessions and refuses.
    pub(super) fn from_connecting(error: &sqlx::Error, action: &str, server: &Server) -> Self {
        let is_of_pooler = |code: &str| matches!(code, "08P01" | "0A000");
        match error {
            sqlx::Error::Database(answer) if is_of_pooler(&sqlstate(answer.code().as_deref())) => {
                Self::Pooled { database: server.database.clone() }
            }
            error => Self::from_sqlx(error, action, server),
        }
    }
}

/// How sqlx tells that a server does not offer TLS.
const SQLX_SAYS_NO_TLS: &str = "server does not support TLS";

/// Five letters and digits, or nothing that the server said.
fn sqlstate(code: Option<&str>) -> String {
    let is_sqlstate = |code: &&str| {
        code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    code.filter(is_sqlstate).unwrap_or("unknown").to_owned()
}

/// Whether the server is going, coming or full rather than unwilling.
fn is_unavailable(code: &str) -> bool {
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "53300")
}

/// What an SQLSTATE means here and what to do.
fn explain(code: &str) -> &'static str {
    match code {
        "28P01" => {
            "the password is refused, or there is no such role; check the Secret of timescale.secretRef or \
                    adminSecretRef"
        }
        "28000" => {
            "the server does not let this role in from here, or not in this way; it may ask for TLS \
                    (timescale.tls) or for a client certificate (timescale.tls.clientSecretRef): see pg_hba.conf"
        }
        "3D000" => "the database does not exist; create it, or correct the Secret",
        "42501" => "the role lacks a right; the server's log says on what",
        "25006" => "the server is read-only, so a replica; the Secret must name the primary",
        "53300" => "too many connections; raise max_connections",
        "53100" => "the disk is full",
        "57P01" | "57P02" | "57P03" => "the server starts or stops",
        "57014" => "it took too long and was cancelled; the next try follows",
        "55P03" => {
            "another session holds a lock on it, perhaps a backup or a migration; the next try follows"
        }
        "23505" | "42P07" | "42701" | "42P06" | "42710" | "40001" | "40P01" => {
            "somebody else changed it at the same time; the next try looks again"
        }
        "42P01" | "42703" | "42883" | "3F000" => {
            "something is not there that was there a moment ago, or TimescaleDB lacks a function; the next try looks again"
        }
        "2BP01" => "something else depends on it, such as a view; drop that first",
        "53200" => "out of memory or of shared memory; raise max_locks_per_transaction",
        "0A000" => "this version or edition of PostgreSQL or TimescaleDB cannot do it",
        _ => "see the server's log",
    }
}

/// What went wrong with a connection. The operating system's own words; others may be the server's.
fn explain_io(error: &io::Error) -> String {
    // The standard library's own text, around that of the resolver.
    if error.to_string().starts_with("failed to lookup address information") {
        return "its host name is not known; check the Secret, and DNS".to_owned();
    }
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code).to_string(),
        None => format!("the connection broke ({}); check that it is a PostgreSQL server", error.kind()),
    }
}

/// What rustls says, wherever it stands in the chain.
fn tls_error<'a>(
    error: Option<&'a (dyn std::error::Error + Send + Sync + 'static)>,
) -> Option<&'a rustls::Error> {
    error?.downcast_ref::<rustls::Error>()
}

/// Why there is no TLS. The names in the server's certificate are the server's words too.
fn explain_tls(error: &rustls::Error) -> &'static str {
    use CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            "the server's certificate is signed by an authority that is not trusted; name it in \
             timescale.tls.caSecretRef"
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            "the server's certificate does not name the host that the Secret names; connect by a name that is in it, or \
             set timescale.tls.mode to VerifyCa"
        }
        rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => "the server's certificate has expired, or is not valid yet; renew it, or look at the clocks",
        rustls::Error::InvalidCertificate(_) => {
            "the server's certificate cannot be used; look at it, and at timescale.tls.caSecretRef"
        }
        rustls::Error::AlertReceived(_) => {
            "the server broke off; it may not trust the certificate of timescale.tls.clientSecretRef, or ask for one"
        }
        rustls::Error::InconsistentKeys(_) => {
            "certificate and key of timescale.tls.clientSecretRef do not belong together"
        }
        _ => "what answers does not speak TLS as this operator does; check host and port in the Secret",
    }
}

/// What kind of answer sqlx could not read. Columns are named by the operator itself.
fn kind_of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Protocol(_) => {
            "it does not speak PostgreSQL's protocol; check host and port in the Secret".to_owned()
        }
        sqlx::Error::ColumnDecode { index, .. } => format!("column {index} has another type than expected"),
        sqlx::Error::ColumnNotFound(name) => format!("column {name} is missing"),
        sqlx::Error::RowNotFound => "no row where one is expected".to_owned(),
        _ => "it cannot be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error as StdError, fmt};

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What a server may say that only poses as one.
    #[derive(Debug)]
    struct Answer(&'static str);

    const SECRET: &str = "the intranet's secret";

    impl fmt::Display for Answer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(SECRET)
        }
    }

    impl StdError for Answer {}

    impl DatabaseError for Answer {
        fn message(&self) -> &str {
            SECRET
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(Cow::Borrowed(self.0))
        }

        fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn server() -> Server {
        Server { database: "db:5432/iot".into(), role: "app".into() }
    }

    fn answer(code: &'static str) -> Error {
        Error::from_sqlx(&sqlx::Error::Database(Box::new(Answer(code))), "read", &server())
    }

    #[test]
    fn answers_are_sorted_by_sqlstate() {
        assert_eq!(answer("42501").reason(), Reason::PermissionMissing);
        assert_eq!(answer("28P01").reason(), Reason::DatabaseRefused);
        assert_eq!(answer("57P03").reason(), Reason::DatabaseUnreachable);
        assert_eq!(answer("08006").reason(), Reason::DatabaseUnreachable);
        assert_eq!(
            answer("28P01").to_string(),
            "failed to read as role app: db:5432/iot answered SQLSTATE 28P01: the password is refused, or there is no \
             such role; check the Secret of timescale.secretRef or adminSecretRef"
        );
    }

    #[test]
    fn a_pooler_that_refuses_settings_is_named_when_connecting_and_only_then() {
        let refused = sqlx::Error::Database(Box::new(Answer("08P01")));
        let error = Error::from_connecting(&refused, "connect", &server());
        assert_eq!(error.reason(), Reason::DatabaseRefused);
        assert!(error.to_string().contains("timescale.adminSecretRef"), "{error}");
        assert_eq!(answer("08P01").reason(), Reason::DatabaseUnreachable);
    }

    #[test]
    fn nothing_that_a_server_said_is_repeated() {
        let boxed = || Box::new(io::Error::other(SECRET));
        let names = CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("db").unwrap(),
            presented: vec![SECRET.to_owned()],
        };
        for error in [
            sqlx::Error::Database(Box::new(Answer("22P02"))),
            sqlx::Error::Database(Box::new(Answer("42501"))),
            sqlx::Error::Database(Box::new(Answer(SECRET))),
            sqlx::Error::Io(io::Error::new(io::ErrorKind::UnexpectedEof, SECRET)),
            sqlx::Error::Io(io::Error::other(rustls::Error::InvalidCertificate(names))),
            sqlx::Error::Tls(boxed()),
            sqlx::Error::Protocol(SECRET.to_owned()),
            sqlx::Error::Decode(boxed()),
            sqlx::Error::ColumnDecode { index: "0".into(), source: boxed() },
            sqlx::Error::TypeNotFound { type_name: SECRET.to_owned() },
            sqlx::Error::InvalidArgument(SECRET.to_owned()),
        ] {
            for told in [
                Error::from_sqlx(&error, "read", &server()),
                Error::from_connecting(&error, "connect", &server()),
            ] {
                let text = format!("{} {told:?}", crate::telemetry::chain(&told));
                assert!(!text.contains("secret"), "{text}");
            }
        }
    }

    #[test]
    fn tls_that_fails_names_the_field_that_mends_it() {
        let told = |error: CertificateError| {
            let error = sqlx::Error::Io(io::Error::other(rustls::Error::InvalidCertificate(error)));
            Error::from_sqlx(&error, "connect", &server()).to_string()
        };
        assert!(told(CertificateError::UnknownIssuer).contains("timescale.tls.caSecretRef"));
        assert!(told(CertificateError::NotValidForName).contains("timescale.tls.mode to VerifyCa"));
        let none = sqlx::Error::Tls(SQLX_SAYS_NO_TLS.into());
        let none = Error::from_sqlx(&none, "connect", &server()).to_string();
        assert!(none.contains("the server does not offer it"), "{none}");
    }
}
