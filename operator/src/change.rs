//! The vocabulary of plans: what will be changed, and what will not. No I/O.

use std::fmt;

use crds::status::Reason;

/// One change that the operator makes to the world outside Kubernetes, for logs, Events and messages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// What is changed, such as `topic plant-7.line-telemetry` or `table plant_7.line_telemetry`.
    pub object: String,
    /// Which property of it, such as `retention.ms`; empty where the object itself is created or deleted.
    pub field: String,
    /// The value found; empty where there was none.
    pub from: String,
    /// The value written; empty where it is removed.
    pub to: String,
}

/// A change that the spec asks for and the operator does not make.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The reason of the condition.
    pub reason: Reason,
    /// What was asked for, why it is refused and what to do instead, for a person.
    pub message: String,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.field.as_str(), self.from.as_str(), self.to.as_str()) {
            ("", "", _) => write!(formatter, "{} created", self.object),
            ("", _, _) => write!(formatter, "{} deleted", self.object),
            (field, "", to) => write!(formatter, "{}: {field} set to {to}", self.object),
            (field, from, "") => write!(formatter, "{}: {field} removed (was {from})", self.object),
            (field, from, to) => write!(formatter, "{}: {field} changed from {from} to {to}", self.object),
        }
    }
}
