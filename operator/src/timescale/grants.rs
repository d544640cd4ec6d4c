//! What the workers' role may do: exactly what workers need, and granted by the operator only where it has a role of
//! its own. Pure.

use crds::{
    names::{POSITION_TABLE, dead_letter_table},
    status::Reason,
};

use super::{
    GrantObject, LackingRights, ObservedTable, TableStep,
    sql::{identifier, qualified},
};
use crate::{
    change::{Change, Refusal},
    pipeline::Table,
};

impl GrantObject {
    pub(super) const ALL: [Self; 4] = [Self::Schema, Self::Table, Self::DeadLetters, Self::Positions];

    /// What workers need on it. They copy rows and insert dead letters without reading either, but for rows with a
    /// natural key, which they compare with those that are there; positions they read, begin and move.
    pub(super) fn privileges(self, wanted: &Table) -> &'static [&'static str] {
        match self {
            Self::Schema => &["USAGE"],
            Self::Table if !wanted.unique_by.is_empty() => &["SELECT", "INSERT"],
            Self::Table | Self::DeadLetters => &["INSERT"],
            Self::Positions => &["SELECT", "INSERT", "UPDATE"],
        }
    }

    /// The table's name; `None` for the schema.
    pub(super) fn table(self, wanted: &Table) -> Option<String> {
        match self {
            Self::Schema => None,
            Self::Table => Some(wanted.name.to_string()),
            Self::DeadLetters => Some(dead_letter_table(wanted.name.as_str())),
            Self::Positions => Some(POSITION_TABLE.to_owned()),
        }
    }

    fn exists(self, observed: &ObservedTable) -> bool {
        match self {
            Self::Schema => observed.schema_exists,
            Self::Table => observed.table.is_some(),
            Self::DeadLetters => observed.dead_letters.is_some(),
            Self::Positions => observed.bookkeeping_version > 0,
        }
    }

    fn grant(self, wanted: &Table, privileges: &[&str]) -> String {
        let schema = wanted.schema.as_str();
        let object = match self.table(wanted) {
            None => format!("SCHEMA {}", identifier(schema)),
            Some(table) => qualified(schema, &table),
        };
        format!("GRANT {} ON {object} TO {};", privileges.join(", "), identifier(&wanted.writer))
    }
}

/// Grants to the workers' role what it lacks on what is there, and all it needs on what is made now.
pub(super) fn plan_grants(wanted: &Table, observed: &ObservedTable) -> Vec<TableStep> {
    if !observed.writer.exists || writes_itself(wanted, observed) {
        return Vec::new();
    }
    GrantObject::ALL
        .into_iter()
        .filter_map(|object| {
            let privileges = match lacking(observed, object) {
                _ if !object.exists(observed) => object.privileges(wanted),
                Some(lacking) if lacking.is_grantable => lacking.privileges.as_slice(),
                _ => return None,
            };
            let name = match object.table(wanted) {
                None => format!("schema {}", wanted.schema),
                Some(table) => format!("table {}.{table}", wanted.schema),
            };
            let field = format!("rights of role {}", wanted.writer);
            let change = Change::new(name, field, "", privileges.join(", "));
            let is_bookkeeping = object == GrantObject::Positions;
            Some(TableStep {
                changes: if is_bookkeeping { Vec::new() } else { vec![change] },
                sql: format!("{}\n", object.grant(wanted, privileges)),
            })
        })
        .collect()
}

/// The SQL that grants what the workers' role lacks and the operator's role cannot grant.
pub(super) fn missing_grants(wanted: &Table, observed: &ObservedTable) -> Vec<String> {
    let writes_itself = writes_itself(wanted, observed);
    let is_asked = |lacking: &&LackingRights| match lacking.object {
        // A role that keeps these needs more rights on them, which are told apart.
        GrantObject::Schema | GrantObject::Positions if writes_itself => false,
        GrantObject::Table | GrantObject::DeadLetters if writes_itself => wanted.wanted.is_none(),
        _ => !lacking.is_grantable,
    };
    let lacks = observed.writer.lacks.iter().filter(is_asked);
    lacks.map(|lacking| lacking.object.grant(wanted, &lacking.privileges)).collect()
}

/// Workers cannot log in as a role that does not exist.
pub(super) fn missing_role(wanted: &Table, observed: &ObservedTable) -> Option<Refusal> {
    (!observed.writer.exists).then(|| Refusal {
        reason: Reason::PermissionMissing,
        message: format!(
            "role {} of timescale.secretRef does not exist; run as a superuser in database {}, then give it the \
             password in that Secret: CREATE ROLE {} LOGIN;",
            wanted.writer,
            observed.database,
            identifier(&wanted.writer),
        ),
    })
}

/// Whether operator and workers have one role.
fn writes_itself(wanted: &Table, observed: &ObservedTable) -> bool {
    observed.role == wanted.writer
}

fn lacking(observed: &ObservedTable, object: GrantObject) -> Option<&LackingRights> {
    observed.writer.lacks.iter().find(|lacking| lacking.object == object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Approvals,
        timescale::{
            Edition, TablePlan, plan,
            test_support::{as_wanted, empty, ident, only_refusal, pipeline, sql, wanted},
        },
    };

    fn written_by(writer: &str) -> Table {
        Table { writer: writer.into(), ..wanted() }
    }

    fn plan_for(wanted: &Table, observed: &ObservedTable) -> TablePlan {
        plan(wanted, &pipeline("line"), observed, &Approvals::default())
    }

    /// As wanted, but the role lacks all it needs.
    fn ungranted(wanted: &Table, is_grantable: bool) -> ObservedTable {
        let mut observed = as_wanted();
        observed.writer.lacks = GrantObject::ALL
            .map(|object| LackingRights {
                object,
                privileges: object.privileges(wanted).to_vec(),
                is_grantable,
            })
            .to_vec();
        observed
    }

    #[test]
    fn another_role_is_granted_what_workers_need_and_the_documents_say_the_same() {
        let documented = include_str!("../../../docs/security.md");
        let granted = sql(&plan_for(&written_by("processor"), &ungranted(&wanted(), true)));
        insta::assert_snapshot!(granted);
        assert!(documented.contains(&granted), "docs/security.md does not hold:\n{granted}");
        // What is only just made lacks it all.
        let from_nothing = sql(&plan_for(&written_by("processor"), &empty(Edition::Community)));
        assert!(from_nothing.ends_with(&granted), "{from_nothing}");
    }

    #[test]
    fn with_a_natural_key_workers_read_the_table_too() {
        let unique = Table { unique_by: vec![ident("time"), ident("device")], ..written_by("processor") };
        let granted = sql(&plan_for(&unique, &ungranted(&unique, true)));
        let of_table = granted.lines().find(|line| line.contains(".\"line\"")).unwrap();
        assert_eq!(of_table, "GRANT SELECT, INSERT ON \"plant_7\".\"line\" TO \"processor\";");
        assert!(include_str!("../../../docs/security.md").contains("GRANT SELECT ON \"plant_7\".\"line\""));
        // Of one that has what rows without a key need.
        let mut observed = as_wanted();
        observed.writer.lacks = vec![LackingRights {
            object: GrantObject::Table,
            privileges: vec!["SELECT"],
            is_grantable: false,
        }];
        let external = Table { wanted: None, unique_by: Vec::new(), ..written_by("processor") };
        let plan = plan_for(&external, &observed);
        assert!(
            plan.refusals[0].message.ends_with(": GRANT SELECT ON \"plant_7\".\"line\" TO \"processor\";")
        );
    }

    #[test]
    fn only_what_is_missing_is_granted_again() {
        let mut observed = as_wanted();
        observed.writer.lacks = vec![LackingRights {
            object: GrantObject::Positions,
            privileges: vec!["UPDATE"],
            is_grantable: true,
        }];
        assert_eq!(
            sql(&plan_for(&written_by("processor"), &observed)),
            "GRANT UPDATE ON \"plant_7\".\"_iotpipeline_positions\" TO \"processor\";\n"
        );
    }

    #[test]
    fn without_a_role_of_its_own_the_operator_grants_nothing() {
        assert!(!sql(&plan_for(&wanted(), &empty(Edition::Community))).contains("GRANT"));
        assert_eq!(plan_for(&wanted(), &ungranted(&wanted(), true)), TablePlan::default());
        // A table that is somebody else's must let its role in all the same.
        let external = Table { wanted: None, ..wanted() };
        let (reason, message) = {
            let plan = plan_for(&external, &ungranted(&wanted(), false));
            let (reason, message) = only_refusal(&plan);
            (reason, message.to_owned())
        };
        assert_eq!(reason, Reason::PermissionMissing);
        assert!(message.contains("GRANT INSERT ON \"plant_7\".\"line\" TO \"app\";"), "{message}");
        assert!(!message.contains("SCHEMA"), "{message}");
    }

    #[test]
    fn what_the_operator_may_not_grant_is_told() {
        let plan = plan_for(&written_by("processor"), &ungranted(&wanted(), false));
        let (reason, message) = only_refusal(&plan);
        assert_eq!(reason, Reason::PermissionMissing);
        insta::assert_snapshot!(message);
    }

    #[test]
    fn a_role_that_does_not_exist_is_told_and_all_else_is_done() {
        let mut observed = empty(Edition::Community);
        observed.writer.exists = false;
        let plan = plan_for(&written_by("x\"; DROP TABLE y;--"), &observed);
        assert!(!plan.steps.is_empty() && plan.steps.iter().all(|step| !step.sql.contains("GRANT")));
        assert_eq!(plan.refusals.len(), 1);
        let message = &plan.refusals[0].message;
        assert!(message.ends_with(": CREATE ROLE \"x\"\"; DROP TABLE y;--\" LOGIN;"), "{message}");
    }

    #[test]
    fn whatever_a_role_is_called_it_stays_a_name() {
        let granted = sql(&plan_for(&written_by("x\"; DROP TABLE y;--"), &ungranted(&wanted(), true)));
        assert_eq!(granted.matches(" TO \"x\"\"; DROP TABLE y;--\";\n").count(), GrantObject::ALL.len());
    }
}
