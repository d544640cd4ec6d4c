//! What can go wrong with the database, told so that a person can act on it. No I/O.

use crds::status::Reason;
use snafu::Snafu;

/// A request to the database that failed. Holds neither a password nor the data of a row.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum Error {
    /// No connection, or no answer within the deadline.
    #[snafu(display("failed to {action}: {database} does not answer; {advice}"))]
    Unreachable {
        /// What was to be done.
        action: String,
        /// Host, port and database.
        database: String,
        /// What to look at.
        advice: String,
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
        /// The reason of the condition.
        reason: Reason,
    },
}

impl Error {
    /// The reason of the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable { .. } => Reason::DatabaseUnreachable,
            Self::Refused { reason, .. } => *reason,
        }
    }
}
