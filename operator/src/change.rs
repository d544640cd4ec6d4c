//! The vocabulary of plans: what will be changed, and what will not. No I/O.

use std::fmt;

use crds::status::Reason;
use sha2::{Digest, Sha256};

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

/// What a person should know of something that is as the spec says, as far as it can be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// The reason of the condition, which holds all the same.
    pub reason: Reason,
    /// What is so, why, and what to do if that is not wanted, for a person.
    pub message: String,
}

impl Change {
    /// What a person writes into the annotation to approve this very change: 12 hexadecimal digits.
    pub fn approval(&self) -> String {
        let whole = [&self.object, &self.field, &self.from, &self.to].map(String::as_str).join("\n");
        Sha256::digest(whole).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the value of a pipeline's annotation approves this change: it is one of the values in it, which stand
    /// between commas.
    pub fn is_approved_by(&self, annotation: Option<&str>) -> bool {
        let approval = self.approval();
        annotation.is_some_and(|value| value.split(',').any(|one| one.trim() == approval))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_is_of_one_change_alone() {
        let change = Change {
            object: "table a.b".into(),
            field: "retention".into(),
            from: "90 days".into(),
            to: "30 days".into(),
        };
        // Of the text `table a.b`, `retention`, `90 days` and `30 days`, a line each.
        assert_eq!(change.approval(), "1a1990446fc0");
        for other in [
            Change { object: "table a.c".into(), ..change.clone() },
            Change { field: "other".into(), ..change.clone() },
            Change { from: "60 days".into(), ..change.clone() },
            Change { to: "7 days".into(), ..change.clone() },
        ] {
            assert_ne!(other.approval(), change.approval(), "{other}");
        }
    }

    #[test]
    fn an_annotation_approves_every_change_that_it_names() {
        let change = |to: &str| Change {
            object: "table a.b".into(),
            field: "retention".into(),
            from: "90 days".into(),
            to: to.into(),
        };
        let both = format!("{}, {}", change("30 days").approval(), change("7 days").approval());
        for (annotation, approved) in [
            (None, [false, false]),
            (Some(""), [false, false]),
            (Some(change("7 days").approval().as_str()), [false, true]),
            (Some(both.as_str()), [true, true]),
            (Some(both.replace(',', "").as_str()), [false, false]),
        ] {
            let is_approved = |to| change(to).is_approved_by(annotation);
            assert_eq!([is_approved("30 days"), is_approved("7 days")], approved, "{annotation:?}");
        }
    }
}
