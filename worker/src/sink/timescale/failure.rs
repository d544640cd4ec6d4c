//! Tells the failures of a transaction apart: wait, find the bad record, or ask a person. Pure.
//!
//! Problems are shown in the pipeline's status, to whoever may read that: they hold codes and this project's own
//! words, never a text that the server sent.

mod words;

use crds::worker::WorkerProblem;

use super::{connect, positions, transaction};
use crate::{
    health::problem, rejection::Reason, source::kafka::offsets, source::kafka::trouble, telemetry::chain,
};

/// What a failure asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The database is away, overloaded or restarting: the same again, later. Nothing is wrong with the data.
    Outage(WorkerProblem),
    /// The database cannot take so many rows at once.
    TooMany(WorkerProblem),
    /// One of the rows is at fault: find it.
    Data(DataError),
    /// A person must change something: the same again, but slowly.
    Misconfigured(WorkerProblem),
}

/// Why the server refuses a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataError {
    /// What is wrong with the row.
    pub reason: Reason,
    code: String,
    constraint: Option<String>,
}

impl DataError {
    /// The text for the dead letter. It names the table's constraint, for those who may read the table.
    pub fn letter(&self) -> String {
        let constraint = self.constraint.iter().map(|name| format!(", constraint {name}"));
        format!("SQLSTATE {}", self.code) + &constraint.collect::<String>()
    }

    /// The text for the pipeline's status.
    pub fn problem(&self) -> String {
        format!("The database refuses rows (SQLSTATE {}).", self.code)
    }
}

/// What a failed statement asks for; `step` says what it was for.
pub fn classify(step: &str, error: &sqlx::Error) -> Failure {
    if let Some(data) = data_error(error) {
        return Failure::Data(data);
    }
    match words::sqlstate(error) {
        Some(code) => {
            let words = words::of_code(&code);
            classify_code(&code, &format!("Failed to {step}: {words} (SQLSTATE {code})."))
        }
        // Everything else is between the worker and the server: a cut connection, a garbled answer.
        None => {
            let message = format!("Failed to {step}: {}.", words::of_connection(error));
            Failure::Outage(problem("DatabaseUnreachable", message))
        }
    }
}

/// What is wrong with the data, if that is what the server says.
pub fn data_error(error: &sqlx::Error) -> Option<DataError> {
    let code = words::sqlstate(error)?;
    let reason = data_reason(&code)?;
    let constraint = error.as_database_error().and_then(|database| database.constraint()).map(str::to_owned);
    Some(DataError { reason, code, constraint })
}

/// What a failed connection asks for.
pub fn classify_connect(error: &connect::Error) -> Failure {
    match error {
        connect::Error::Secret { .. } | connect::Error::Certificate { .. } => {
            Failure::Misconfigured(problem("SecretInvalid", chain(error)))
        }
        connect::Error::Connect { access, source } => {
            let step = format!("connect to {access:?}");
            match words::of_settings(source) {
                Some(words) => Failure::Misconfigured(problem(
                    "DatabaseUnreachable",
                    format!("Failed to {step}: {words}."),
                )),
                None => classify(&step, source),
            }
        }
        connect::Error::Slow { .. } => Failure::Outage(problem("DatabaseUnreachable", chain(error))),
    }
}

/// What a failed transaction asks for. One that is fenced or has conflicts is the caller's to handle.
pub fn classify_transaction(error: &transaction::Error) -> Failure {
    match error {
        transaction::Error::Database { step, source } => classify(step, source),
        transaction::Error::Fenced { .. }
        | transaction::Error::Conflicting { .. }
        | transaction::Error::TimedOut { .. } => {
            Failure::Outage(problem("DatabaseUnreachable", chain(error)))
        }
    }
}

/// What unknown positions ask for.
pub fn classify_positions(error: &positions::Error) -> Failure {
    match error {
        positions::Error::Database { source } => classify_transaction(source),
        positions::Error::Kafka { source } => classify_kafka(source),
    }
}

/// What a Kafka that does not answer asks for.
pub fn classify_kafka(error: &offsets::Error) -> Failure {
    let refused = || trouble::refusal(error.code()?);
    match error {
        offsets::Error::TopicMissing { .. } => Failure::Outage(problem("TopicMissing", chain(error))),
        _ => Failure::Outage(refused().unwrap_or_else(|| problem("KafkaUnreachable", chain(error)))),
    }
}

fn data_reason(code: &str) -> Option<Reason> {
    match code.get(..2) {
        Some("22") => Some(Reason::OutOfRange),
        Some("23") => Some(Reason::Constraint),
        // A value too large for an index, say.
        Some("54") => Some(Reason::TooLarge),
        _ => None,
    }
}

/// That not even one record passes, and what to do.
const DECOMPRESSION_LIMIT: &str = "A row has the key of rows in chunks of the columnstore, and more of these must be decompressed for it than the server allows \
     (SQLSTATE 53400). Raise the limit for the role: ALTER ROLE … SET \
     timescaledb.max_tuples_decompressed_per_dml_transaction = 0; or choose segmentBy so that fewer rows have the same values.";

/// The SQLSTATE decides; its first two characters are the class.
fn classify_code(code: &str, message: &str) -> Failure {
    let misconfigured = |reason| Failure::Misconfigured(problem(reason, message));
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "42P01" | "3F000") => misconfigured("TableMissing"),
        (_, "42501") => misconfigured("PermissionMissing"),
        ("42", _) => misconfigured("TableMismatch"),
        ("28" | "3D" | "0L" | "0P", _) => misconfigured("DatabaseRefused"),
        // TimescaleDB's own limit for what one statement decompresses.
        (_, "53400") => Failure::TooMany(problem("DecompressionLimit", DECOMPRESSION_LIMIT)),
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
    use std::{borrow::Cow, error::Error, fmt, io};

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What a server answers.
    #[derive(Debug)]
    struct Answer(&'static str);

    impl fmt::Display for Answer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.message())
        }
    }

    impl Error for Answer {}

    impl DatabaseError for Answer {
        fn message(&self) -> &str {
            "the server's own words"
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }
        fn constraint(&self) -> Option<&str> {
            Some("check_v")
        }
        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn answered(code: &'static str) -> sqlx::Error {
        sqlx::Error::Database(Box::new(Answer(code)))
    }

    fn problem_of(code: &'static str) -> WorkerProblem {
        match classify("copy the rows", &answered(code)) {
            Failure::Outage(problem) | Failure::Misconfigured(problem) | Failure::TooMany(problem) => problem,
            Failure::Data(data) => problem("Data", data.problem()),
        }
    }

    #[test]
    fn sqlstates_are_told_apart() {
        for (codes, expected) in [
            (
                &["08006", "57P01", "57014", "40001", "40P01", "53100", "53300", "25006", "25P03"][..],
                "DatabaseUnavailable",
            ),
            (&["53400"], "DecompressionLimit"),
            (&["42P01", "3F000"], "TableMissing"),
            (&["42501"], "PermissionMissing"),
            (&["42703", "42804", "42P10"], "TableMismatch"),
            (&["28P01", "28000", "3D000", "0A000", "", "what?"], "DatabaseRefused"),
            (&["22003", "23514", "54000"], "Data"),
        ] {
            for code in codes {
                assert_eq!(problem_of(code).reason, expected, "{code}");
            }
        }
    }

    #[test]
    fn a_problem_has_the_code_and_none_of_the_servers_words() {
        for code in ["42501", "28P01", "53300", "22003", "23514", "0A000"] {
            let message = problem_of(code).message;
            assert!(message.contains(&format!("(SQLSTATE {code})")), "{message}");
            assert!(!message.contains("own words") && !message.contains("check_v"), "{message}");
        }
        // What is no SQLSTATE is a text too.
        let message = problem_of("secret").message;
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn a_dead_letter_names_the_constraint() {
        let letter = |code| data_error(&answered(code)).map(|data| (data.reason, data.letter()));
        let expected = (Reason::Constraint, "SQLSTATE 23514, constraint check_v".to_owned());
        assert_eq!(letter("23514"), Some(expected));
        assert_eq!(letter("42501"), None);
    }

    #[test]
    fn what_is_no_answer_of_the_server_is_an_outage() {
        let broken = sqlx::Error::Io(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(classify("commit", &broken), Failure::Outage(_)));
        assert!(matches!(classify("commit", &sqlx::Error::WorkerCrashed), Failure::Outage(_)));
    }
}
