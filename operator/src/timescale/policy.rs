//! What native policies have in common, whatever they do with the chunks that they find. Pure.

use std::time::Duration;

use super::{
    ObservedPolicy, TableStep,
    sql::{duration_text, identifier, interval, regclass},
};
use crate::change::Change;

/// A kind of policy by the functions of TimescaleDB that make and remove it.
pub(super) struct PolicyKind {
    /// How they are run: `SELECT` for functions, `CALL` for procedures.
    pub statement: &'static str,
    /// What their names say between `add_` or `remove_` and `_policy`.
    pub name: &'static str,
    /// The argument that says how old rows must be.
    pub age: &'static str,
}

/// A policy as it shall be.
#[derive(Clone, Copy)]
pub(super) struct WantedPolicy {
    /// How old rows must be.
    pub after: Duration,
    /// How often it looks for them.
    pub check_interval: Duration,
}

/// Makes the policy of a hypertable what it shall be; `None` where it is. `change` tells it, given from and to, and
/// `functions` is the schema of TimescaleDB's functions.
pub(super) fn plan_policy(
    kind: &PolicyKind,
    hypertable: (&str, &str),
    functions: &str,
    wanted: Option<WantedPolicy>,
    found: Option<&ObservedPolicy>,
    change: impl FnOnce(String, String) -> Change,
) -> Option<TableStep> {
    if is_as_wanted(wanted, found) {
        return None;
    }
    let settings = wanted.map(|wanted| {
        [(kind.age, interval(wanted.after)), ("schedule_interval", interval(wanted.check_interval))]
    });
    let from = found.map(describe).unwrap_or_default();
    let to = wanted.map(|wanted| duration_text(wanted.after)).unwrap_or_default();
    Some(TableStep {
        changes: vec![change(from, to)],
        sql: kind.replace(hypertable, functions, found.is_some(), settings.as_ref().map(<[_; 2]>::as_slice)),
    })
}

impl PolicyKind {
    /// The SQL that puts a policy with these settings in the place of the one that is there; with `None`, nothing in its
    /// place. TimescaleDB's own `if_not_exists` would keep the old one and merely warn.
    pub fn replace(
        &self,
        (schema, name): (&str, &str),
        functions: &str,
        is_there: bool,
        settings: Option<&[(&str, String)]>,
    ) -> String {
        let Self { statement, name: policy, age: _ } = self;
        let functions = identifier(functions);
        let target = regclass(schema, name);
        let mut sql = String::new();
        if is_there {
            sql.push_str(&format!("{statement} {functions}.remove_{policy}_policy({target});\n"));
        }
        if let Some(settings) = settings {
            let settings: String =
                settings.iter().map(|(name, value)| format!(", {name} => {value}")).collect();
            sql.push_str(&format!("{statement} {functions}.add_{policy}_policy({target}{settings});\n"));
        }
        sql
    }
}

fn is_as_wanted(wanted: Option<WantedPolicy>, found: Option<&ObservedPolicy>) -> bool {
    match (wanted, found) {
        (None, None) => true,
        (Some(wanted), Some(found)) => {
            found.scheduled
                && found.after == Some(wanted.after)
                && found.check_interval == wanted.check_interval
        }
        _ => false,
    }
}

/// The policy in a few words.
fn describe(found: &ObservedPolicy) -> String {
    let time = found.after.map_or_else(|| "another rule".to_owned(), duration_text);
    let pause = if found.scheduled { "" } else { ", paused" };
    format!("{time} (looked for every {}{pause})", duration_text(found.check_interval))
}
