//! The vocabulary of plans: what will be changed, and what will not. No I/O.

use std::fmt;

use crds::{
    names::APPROVE_ANNOTATION,
    status::{ChangeClass, Reason},
    worker::PipelineId,
};
use sha2::{Digest, Sha256};

/// One change that the operator makes to the world, for the plan, logs, Events and messages.
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
    /// What it does to what runs and to data.
    pub class: ChangeClass,
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

/// What a person lets through. An approval is of one change, of one generation of the spec, and holds once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Approvals {
    generation: i64,
    /// The hashes in the annotation.
    given: Vec<String>,
    /// Those that approve nothing any more, the oldest first.
    used: Vec<String>,
}

/// How many approvals are read from the annotation, and how many used ones are remembered.
const MAX_APPROVALS: usize = 20;

/// The length of an approval in hexadecimal digits.
const HASH_DIGITS: usize = 12;

impl Change {
    /// A change that holds nothing up and deletes nothing.
    pub fn new(
        object: impl Into<String>,
        field: impl Into<String>,
        from: impl Into<String>,
        to: impl Into<String>,
    ) -> Self {
        Self {
            object: object.into(),
            field: field.into(),
            from: from.into(),
            to: to.into(),
            class: ChangeClass::Safe,
        }
    }

    /// The same change, of another class.
    pub fn classed(self, class: ChangeClass) -> Self {
        Self { class, ..self }
    }
}

/// What was nobody's becomes a pipeline's. Nothing else of it is changed by that.
pub fn adoption_of(object: String) -> Change {
    Change::new(object, "ownership", "nobody's", "adopted")
}

impl Approvals {
    /// Reads them from a pipeline's generation, the value of its annotation and its status.
    pub fn new(generation: i64, annotation: Option<&str>, used: &[String]) -> Self {
        // What cannot approve anything is not worth remembering.
        let is_hash = |word: &&str| {
            word.len() == HASH_DIGITS && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let words = annotation.unwrap_or_default().split(',').map(str::trim).filter(is_hash);
        let mut given: Vec<String> = Vec::new();
        for word in words.take(MAX_APPROVALS) {
            if !given.iter().any(|one| one == word) {
                given.push(word.to_owned());
            }
        }
        Self { generation, given, used: used.to_vec() }
    }

    /// What a person writes into the annotation to approve this very change.
    ///
    /// A change that was approved and then undone by somebody's hand can be approved once more, and not by what is still
    /// in the annotation: its hash is another one.
    pub fn hash(&self, change: &Change) -> String {
        (0..=self.used.len())
            .map(|times| self.hash_after(change, times))
            .find(|hash| !self.used.contains(hash))
            .unwrap_or_default()
    }

    /// What a person runs to approve it.
    pub fn command(&self, change: &Change, pipeline: &PipelineId) -> String {
        let PipelineId { namespace, name, .. } = pipeline;
        let hash = self.hash(change);
        format!("kubectl annotate --overwrite iotp {name} -n {namespace} {APPROVE_ANNOTATION}={hash}")
    }

    /// Whether a person has approved the change.
    pub fn include(&self, change: &Change) -> bool {
        self.given.contains(&self.hash(change))
    }

    /// What approves nothing any more, now that everything was done but for the changes that are held: used, or of a
    /// change that is gone.
    pub fn used_after(&self, held: &[Change]) -> Vec<String> {
        let waiting: Vec<String> = held.iter().map(|change| self.hash(change)).collect();
        let is_over = |hash: &&String| !waiting.contains(hash) && !self.used.contains(hash);
        let mut used = self.used.clone();
        used.extend(self.given.iter().filter(is_over).cloned());
        while used.len() > MAX_APPROVALS {
            // One that is still in the annotation would be taken for a new one.
            let oldest = used.iter().position(|hash| !self.given.contains(hash)).unwrap_or(0);
            used.remove(oldest);
        }
        used
    }

    fn hash_after(&self, change: &Change, times: usize) -> String {
        let Change { object, field, from, to, class: _ } = change;
        let mut text = format!("{}\n{object}\n{field}\n{from}\n{to}", self.generation);
        if times > 0 {
            text.push_str(&format!("\n{times}"));
        }
        Sha256::digest(text).iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// So many significant digits of a number, and zeros: for what is told again only when it is another one.
pub fn coarse_number(number: i64, digits: u32) -> i64 {
    let unit = 10_i64.pow((number.checked_ilog10().unwrap_or(0) + 1).saturating_sub(digits));
    number / unit * unit
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

    fn to(to: &str) -> Change {
        Change::new("table a.b", "retention", "90 days", to).classed(ChangeClass::Destructive)
    }

    fn given(annotation: &str, used: &[String]) -> Approvals {
        Approvals::new(3, Some(annotation), used)
    }

    #[test]
    fn an_approval_is_of_one_change_of_one_generation_alone() {
        let change = to("30 days");
        let approvals = given("", &[]);
        // Of the text `3`, `table a.b`, `retention`, `90 days` and `30 days`, a line each.
        assert_eq!(approvals.hash(&change), "6a291e76fa98");
        for other in [
            Change { object: "table a.c".into(), ..change.clone() },
            Change { field: "other".into(), ..change.clone() },
            Change { from: "60 days".into(), ..change.clone() },
            Change { to: "7 days".into(), ..change.clone() },
        ] {
            assert_ne!(approvals.hash(&other), approvals.hash(&change), "{other}");
        }
        let next = Approvals::new(4, Some(&approvals.hash(&change)), &[]);
        assert!(!next.include(&change));
    }

    #[test]
    fn an_annotation_approves_every_change_that_it_names() {
        let hash = |days| given("", &[]).hash(&to(days));
        let both = format!("{}, {}", hash("30 days"), hash("7 days"));
        for (annotation, approved) in [
            ("", [false, false]),
            (&hash("7 days"), [false, true]),
            (&both, [true, true]),
            (&both.replace(',', ""), [false, false]),
        ] {
            let approvals = given(annotation, &[]);
            let includes = |days| approvals.include(&to(days));
            assert_eq!([includes("30 days"), includes("7 days")], approved, "{annotation:?}");
        }
        assert!(!Approvals::new(3, None, &[]).include(&to("30 days")));
    }

    #[test]
    fn an_approval_holds_once_and_the_same_change_can_be_approved_anew() {
        let first = given("", &[]).hash(&to("30 days"));
        let made = given(&first, &[]);
        assert!(made.include(&to("30 days")));
        let used = made.used_after(&[]);
        assert_eq!(used, std::slice::from_ref(&first));

        let undone = given(&first, &used);
        assert!(!undone.include(&to("30 days")));
        let second = undone.hash(&to("30 days"));
        assert_ne!(second, first);
        assert_eq!(undone.used_after(&[to("30 days")]), used);
        let approved_anew = given(&format!("{first},{second}"), &used);
        assert!(approved_anew.include(&to("30 days")));
        assert_eq!(approved_anew.used_after(&[]), [first, second]);
    }

    #[test]
    fn what_still_waits_is_not_used_and_what_is_no_hash_is_not_remembered() {
        let waiting = given("", &[]).hash(&to("30 days"));
        let approvals = given(&format!("yes please, 000000000000 ,{waiting},000000000000"), &[]);
        assert_eq!(approvals.used_after(&[to("30 days")]), ["000000000000"]);
    }

    #[test]
    fn of_many_used_ones_those_in_the_annotation_are_remembered() {
        let hashes: Vec<String> = (0..30).map(|number| format!("{number:012x}")).collect();
        let approvals = given(&hashes[..15].join(","), &hashes[..20]);
        let annotation = hashes[5..30].join(",");
        let used = given(&annotation, &approvals.used_after(&[])).used_after(&[]);
        assert_eq!(used, hashes[5..25], "20 are read");
        assert_eq!(given(&annotation, &used).used_after(&[]), used);
    }
}
