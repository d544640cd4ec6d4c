//! What can go wrong with the database, told so that a person can act on it. No I/O.

use crds::status::Reason;
use snafu::Snafu;

/// A request to the database that failed. Holds neither a password nor the data of a row.
#[derive(Debug, Snafu)]
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

    /// The server answered with an error.
    #[snafu(display("failed to {action}: {database} answered SQLSTATE {code}: {explanation}"))]
    Refused {
        /// What was to be done.
        action: String,
        /// Host, port and database.
        database: String,
        /// The five characters.
        code: String,
        /// What it means and what to do.
        explanation: String,
    },

    /// The answer is none that this operator can read: a server that is no PostgreSQL, or a fault of the operator.
    #[snafu(display("failed to {action}: {database} answered something unexpected"))]
    Unexpected {
        /// What was to be done.
        action: String,
        /// Host, port and database.
        database: String,
        /// What sqlx says: names of columns and types, no values.
        source: sqlx::Error,
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

impl Error {
    /// The reason of the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable { .. } => Reason::DatabaseUnreachable,
            Self::Refused { code, .. } if code == "42501" => Reason::PermissionMissing,
            Self::Refused { .. } => Reason::DatabaseRefused,
            Self::Unexpected { .. } => Reason::ReconcileFailed,
            Self::TopicTaken { .. } => Reason::ResourceConflict,
        }
    }

    /// Sorts what sqlx says.
    pub(super) fn from_sqlx(error: sqlx::Error, action: &str, database: &str) -> Self {
        let (action, database) = (action.to_owned(), database.to_owned());
        let answer = match &error {
            sqlx::Error::Database(answer) => answer,
            sqlx::Error::Io(error) => {
                return Self::Unreachable { action, database, explanation: error.to_string() };
            }
            _ => return Self::Unexpected { action, database, source: error },
        };
        let code = answer.code().unwrap_or_default().into_owned();
        let explanation = explain(&code, answer.message());
        if is_unavailable(&code) {
            return Self::Unreachable { action, database, explanation };
        }
        Self::Refused { action, database, code, explanation }
    }
}

/// Whether the server is going, coming or full rather than unwilling.
fn is_unavailable(code: &str) -> bool {
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "53300")
}

/// What an SQLSTATE means here and what to do. The server's own words only where they name objects and cannot
/// hold the data of a row.
fn explain(code: &str, message: &str) -> String {
    let words = match code {
        "28P01" | "28000" => "the role or its password is refused; check the Secret of timescale.secretRef",
        "3D000" => "the database does not exist; create it, or correct the Secret of timescale.secretRef",
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
        "2BP01" => "something else depends on it, such as a view; drop that first",
        "53200" => "out of shared memory; raise max_locks_per_transaction",
        _ => "",
    };
    let names_objects =
        ["42", "0A", "2B", "3F", "55", "58", "TS"].iter().any(|class| code.starts_with(class));
    match (words, names_objects) {
        ("", true) => message.to_owned(),
        ("", false) => "see the server's log".to_owned(),
        (words, true) => format!("{message}; {words}"),
        (words, false) => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_sqlstate() {
        let refused = |code: &str| Error::Refused {
            action: "read".into(),
            database: "db:5432/iot".into(),
            code: code.into(),
            explanation: explain(code, "the server's words"),
        };
        assert_eq!(refused("42501").reason(), Reason::PermissionMissing);
        assert_eq!(refused("28P01").reason(), Reason::DatabaseRefused);
        assert!(is_unavailable("57P03") && is_unavailable("08006") && !is_unavailable("42501"));
        assert_eq!(
            refused("28P01").to_string(),
            "failed to read: db:5432/iot answered SQLSTATE 28P01: the role or its password is refused; check the \
             Secret of timescale.secretRef"
        );
    }

    #[test]
    fn words_that_may_hold_the_data_of_a_row_are_not_repeated() {
        assert_eq!(
            explain("22P02", "invalid input syntax for type integer: \"hunter2\""),
            "see the server's log"
        );
        assert_eq!(explain("42501", "permission denied for schema s"), "permission denied for schema s");
    }
}
