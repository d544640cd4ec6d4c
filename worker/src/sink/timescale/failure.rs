//! Tells the failures of a transaction apart: wait, find the bad record, or ask a person. Pure.

use std::io;

use crds::worker::WorkerProblem;

use super::{connect, positions, transaction};
use crate::{health::problem, rejection::Reason, source::kafka::offsets, telemetry::chain};

/// What a failure asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The database is away, overloaded or restarting: the same again, later. Nothing is wrong with the data.
    Outage(WorkerProblem),
    /// One of the rows is at fault: find it.
    Data {
        /// What is wrong with the row.
        reason: Reason,
        /// The server's code, and its words for it, which hold no data.
        message: String,
    },
    /// A person must change something: the same again, but slowly.
    Misconfigured(WorkerProblem),
}

/// What a failed statement asks for.
pub fn classify(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            classify_code(&code, database.constraint(), &format!("{} (SQLSTATE {code})", database.message()))
        }
        // Everything else is between the worker and the server: a cut connection, a garbled answer.
        other => Failure::Outage(problem("DatabaseUnreachable", chain(other))),
    }
}

/// What a failed connection asks for.
pub fn classify_connect(error: &connect::Error) -> Failure {
    match error {
        connect::Error::Secret { .. } | connect::Error::Certificate { .. } => {
            Failure::Misconfigured(problem("SecretInvalid", chain(error)))
        }
        connect::Error::Connect { source, .. } => match (classify(source), is_configuration(source)) {
            (Failure::Outage(_), true) => Failure::Misconfigured(problem("DatabaseRefused", chain(error))),
            (Failure::Outage(_), false) => Failure::Outage(problem("DatabaseUnreachable", chain(error))),
            (other, _) => other,
        },
        connect::Error::Slow { .. } => Failure::Outage(problem("DatabaseUnreachable", chain(error))),
    }
}

/// What a failed transaction asks for. A fenced one is the caller's to handle.
pub fn classify_transaction(error: &transaction::Error) -> Failure {
    match error {
        transaction::Error::Database { source, .. } => classify(source),
        transaction::Error::Fenced { .. } | transaction::Error::TimedOut => {
            Failure::Outage(problem("DatabaseUnreachable", chain(error)))
        }
    }
}

/// What unknown positions ask for.
pub fn classify_positions(error: &positions::Error) -> Failure {
    match error {
        positions::Error::Database { source, .. } => classify(source),
        positions::Error::Kafka { source } => classify_kafka(source),
        positions::Error::TimedOut => Failure::Outage(problem("DatabaseUnreachable", chain(error))),
    }
}

/// What a Kafka that does not answer asks for.
pub fn classify_kafka(error: &offsets::Error) -> Failure {
    match error {
        offsets::Error::TopicMissing { .. } => Failure::Outage(problem("TopicMissing", chain(error))),
        _ => Failure::Outage(problem("KafkaUnreachable", chain(error))),
    }
}

fn is_configuration(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Configuration(_) => true,
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::InvalidInput,
        _ => false,
    }
}

/// The SQLSTATE decides; its first two characters are the class.
fn classify_code(code: &str, constraint: Option<&str>, message: &str) -> Failure {
    let misconfigured = |reason| Failure::Misconfigured(problem(reason, message));
    match (code.get(..2).unwrap_or_default(), code) {
        ("22", _) => Failure::Data { reason: Reason::OutOfRange, message: format!("SQLSTATE {code}") },
        ("23", _) => {
            let constraint = constraint.map(|name| format!(", constraint {name}")).unwrap_or_default();
            Failure::Data { reason: Reason::Constraint, message: format!("SQLSTATE {code}{constraint}") }
        }
        (_, "42P01" | "3F000") => misconfigured("TableMissing"),
        (_, "42501") => misconfigured("PermissionMissing"),
        ("42", _) => misconfigured("TableMismatch"),
        ("28" | "3D" | "0L" | "0P", _) => misconfigured("DatabaseRefused"),
        // Connection, shutdown, deadlock, serialisation, resources, read-only after a failover, system errors.
        ("08" | "57" | "40" | "53" | "25" | "55" | "58" | "XX", _) => {
            Failure::Outage(problem("DatabaseUnavailable", message))
        }
        // A code nobody thought of: nothing is lost by asking a person.
        _ => misconfigured("DatabaseRefused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_told_apart() {
        let kind = |code: &str| match classify_code(code, Some("check_v"), "text") {
            Failure::Outage(problem) | Failure::Misconfigured(problem) => problem.reason,
            Failure::Data { reason, message } => format!("{reason}: {message}"),
        };
        for (codes, expected) in [
            (
                &["08006", "57P01", "57014", "40001", "40P01", "53100", "53300", "25006", "25P03"][..],
                "DatabaseUnavailable",
            ),
            (&["42P01", "3F000"], "TableMissing"),
            (&["42501"], "PermissionMissing"),
            (&["42703", "42804"], "TableMismatch"),
            (&["28P01", "28000", "3D000", "0A000", ""], "DatabaseRefused"),
            (&["22003"], "OutOfRange: SQLSTATE 22003"),
            (&["23514"], "Constraint: SQLSTATE 23514, constraint check_v"),
        ] {
            for code in codes {
                assert_eq!(kind(code), expected, "{code}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_of_the_server_is_an_outage() {
        let broken = sqlx::Error::Io(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(classify(&broken), Failure::Outage(_)));
        assert!(matches!(classify(&sqlx::Error::WorkerCrashed), Failure::Outage(_)));
    }
}
