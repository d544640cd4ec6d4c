//! The indexes of a hypertable: recognised by what they index, made under a name that follows from it. Pure.

use crds::{names::MAX_IDENTIFIER_BYTES, status::ChangeClass};
use sha2::{Digest, Sha256};

use super::{RelationPlan, WantedRelation};
use crate::{
    pipeline::SortOrder,
    timescale::{
        ATTEMPT_INTERVAL, Attempt, ObservedRelation, TableStep,
        sql::{identifier, identifiers, ordering, qualified},
    },
};

impl WantedRelation {
    /// Makes the indexes that are missing. One of another name serves as well.
    pub(super) fn plan_indexes(
        &self,
        relation: &ObservedRelation,
        has_chunks: bool,
        plan: &mut RelationPlan,
    ) {
        // Writers wait until all rows are in it.
        let class = if has_chunks { ChangeClass::Disruptive } else { ChangeClass::Safe };
        for columns in &self.indexes {
            // What is wrong with the column is said of the column.
            if columns.iter().any(|(name, _)| plan.missing_columns.contains(name)) {
                continue;
            }
            if relation.indexes.iter().any(|found| found.columns == *columns) {
                continue;
            }
            let name = self.index_name(columns);
            if relation.indexes.iter().any(|found| found.name == name) {
                plan.refusals.push(self.refused(format!(
                    "index {name} of {} exists with another definition; run: DROP INDEX {};",
                    self.display_name(),
                    qualified(&self.schema, &name)
                )));
                continue;
            }
            plan.steps.push(TableStep {
                changes: vec![self.change("index", "", &name).classed(class)],
                sql: self.create_index(columns),
            });
        }
    }

    pub(super) fn create_index(&self, columns: &[(String, SortOrder)]) -> String {
        format!(
            "CREATE INDEX {} ON {} ({});\n",
            identifier(&self.index_name(columns)),
            self.sql_name(),
            ordering(columns)
        )
    }

    /// `<table>_<column>[_desc]…_idx`, or where that is too long for PostgreSQL, its beginning and a hash.
    fn index_name(&self, columns: &[(String, SortOrder)]) -> String {
        let parts = columns.iter().map(|(name, order)| match order {
            SortOrder::Ascending => format!("_{name}"),
            SortOrder::Descending => format!("_{name}_desc"),
        });
        fitting(&format!("{}{}", self.name, parts.collect::<String>()), "_idx")
    }

    /// Makes the unique index that is missing, whatever rows are there. One with other columns, made by an earlier spec,
    /// would go on to refuse rows: whoever changes the key drops it.
    pub(super) fn plan_unique_index(&self, relation: &ObservedRelation, plan: &mut RelationPlan) {
        let is_of_earlier_spec =
            |columns: &[String]| !columns.is_empty() && !is_same_key(columns, &self.unique_by);
        let earlier = relation.indexes.iter().find(|found| {
            found.name == self.unique_index_name(&found.unique_by) && is_of_earlier_spec(&found.unique_by)
        });
        if let Some(earlier) = earlier {
            plan.refusals.push(self.refused(format!(
                "index {} keeps {} unique by {}, and timescale.uniqueBy says {}; set it back, or run: DROP INDEX {};",
                earlier.name,
                self.display_name(),
                earlier.unique_by.join(", "),
                if self.unique_by.is_empty() { "nothing".to_owned() } else { self.unique_by.join(", ") },
                qualified(&self.schema, &earlier.name)
            )));
            return;
        }
        let lacks_column = self.unique_by.iter().any(|name| plan.missing_columns.contains(name));
        if self.unique_by.is_empty() || lacks_column || is_unique_by(relation, &self.unique_by) {
            return;
        }
        let name = self.unique_index_name(&self.unique_by);
        if relation.indexes.iter().any(|found| found.name == name) {
            plan.refusals.push(self.refused(format!(
                "index {name} of {} exists with another definition; run: DROP INDEX {};",
                self.display_name(),
                qualified(&self.schema, &name)
            )));
            return;
        }
        plan.attempts.push(Attempt {
            step: TableStep {
                changes: vec![self.change("unique index", "", &name).classed(ChangeClass::Disruptive)],
                sql: self.create_unique_index(),
            },
            refusal: self.refused(self.has_repeats()),
        });
    }

    pub(super) fn create_unique_index(&self) -> String {
        format!(
            "CREATE UNIQUE INDEX {} ON {} ({});\n",
            identifier(&self.unique_index_name(&self.unique_by)),
            self.sql_name(),
            identifiers(&self.unique_by)
        )
    }

    fn has_repeats(&self) -> String {
        let key = identifiers(&self.unique_by);
        format!(
            "{} has rows with the same {}, so it cannot be unique by them; leave one of each, or change \
             timescale.uniqueBy (tried again every {} minutes, and when the spec changes). This finds them: \
             SELECT {key}, count(*) FROM {} GROUP BY {key} HAVING count(*) > 1;",
            self.display_name(),
            self.unique_by.join(", "),
            ATTEMPT_INTERVAL.as_secs() / 60,
            self.sql_name(),
        )
    }

    /// `<table>_<column>…_key`, as PostgreSQL calls it, or where that is too long, its beginning and a hash.
    fn unique_index_name(&self, columns: &[String]) -> String {
        fitting(&format!("{}_{}", self.name, columns.join("_")), "_key")
    }
}

/// Whether an index sees to it that no two rows have the same values of exactly these columns, in whatever order.
pub(in crate::timescale) fn is_unique_by(relation: &ObservedRelation, columns: &[String]) -> bool {
    relation.indexes.iter().any(|found| is_same_key(&found.unique_by, columns))
}

fn is_same_key(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().all(|column| other.contains(column))
}

/// A name with its ending, or where that is too long for PostgreSQL, its beginning and a hash.
fn fitting(name: &str, ending: &str) -> String {
    let whole = format!("{name}{ending}");
    if whole.len() <= MAX_IDENTIFIER_BYTES {
        return whole;
    }
    let hash: String = Sha256::digest(&whole).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let room = MAX_IDENTIFIER_BYTES - "_".len() - hash.len() - ending.len();
    format!("{}_{hash}{ending}", whole.get(..room).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use crds::status::Reason;

    use crate::{
        change::Approvals,
        pipeline::Table,
        timescale::{
            Edition, ObservedIndex, TablePlan, plan,
            test_support::{as_wanted, empty, ident, only_refusal, pipeline, sql, table_of, wanted},
        },
    };

    fn unique_by(columns: &[&str]) -> Table {
        Table { unique_by: columns.iter().map(|name| ident(name)).collect(), ..wanted() }
    }

    fn unique_index(name: &str, columns: &[&str]) -> ObservedIndex {
        let unique_by = columns.iter().map(|name| (*name).to_owned()).collect();
        ObservedIndex { name: name.into(), columns: Vec::new(), unique_by }
    }

    /// The plan for a table that shall be unique by device and time, with this index beside the others.
    fn plan_with(wanted: &Table, index: Option<ObservedIndex>) -> TablePlan {
        let mut observed = as_wanted();
        table_of(&mut observed).indexes.extend(index);
        plan(wanted, &pipeline("line"), &observed, &Approvals::default())
    }

    const CREATE_UNIQUE: &str =
        "CREATE UNIQUE INDEX \"line_device_time_key\" ON \"plant_7\".\"line\" (\"device\", \"time\");\n";

    #[test]
    fn a_new_table_gets_its_unique_index_with_the_others() {
        let plan = plan(
            &unique_by(&["device", "time"]),
            &pipeline("line"),
            &empty(Edition::Apache2),
            &Approvals::default(),
        );
        assert_eq!(plan.attempts, []);
        let at = |part: &str| sql(&plan).find(part).unwrap();
        assert!(at("create_hypertable") < at(CREATE_UNIQUE));
    }

    #[test]
    fn a_unique_index_that_is_missing_is_tried_whatever_rows_there_are() {
        let plan = plan_with(&unique_by(&["device", "time"]), None);
        assert_eq!(sql(&plan), CREATE_UNIQUE);
        let [attempt] = &plan.attempts[..] else { panic!("{plan:?}") };
        assert_eq!(
            attempt.step.changes[0].to_string(),
            "table plant_7.line: unique index set to line_device_time_key"
        );
        assert_eq!(attempt.refusal.reason, Reason::TableChangeRefused);
        insta::assert_snapshot!(attempt.refusal.message);
    }

    #[test]
    fn any_index_that_keeps_the_table_unique_by_the_key_serves() {
        let key = unique_by(&["device", "time"]);
        for index in [
            unique_index("line_device_time_key", &["device", "time"]),
            unique_index("theirs", &["time", "device"]),
        ] {
            assert_eq!(plan_with(&key, Some(index)), TablePlan::default());
        }
        for columns in [&["time"][..], &["device", "time", "temperature"], &[]] {
            assert_eq!(plan_with(&key, Some(unique_index("theirs", columns))).attempts.len(), 1);
        }
    }

    #[test]
    fn the_unique_index_of_another_key_is_told_with_the_sql_that_drops_it() {
        let index = || Some(unique_index("line_device_time_key", &["device", "time"]));
        let messages = [&[][..], &["time"]].map(|key| {
            let plan = plan_with(&unique_by(key), index());
            let (reason, message) = only_refusal(&plan);
            assert_eq!(reason, Reason::TableChangeRefused);
            message.to_owned()
        });
        insta::assert_snapshot!(messages.join("\n"));
        // One that a person made is theirs.
        assert_eq!(plan_with(&wanted(), Some(unique_index("theirs", &["time"]))), TablePlan::default());
        // The name is taken by something else.
        let taken = ObservedIndex { unique_by: Vec::new(), ..index().unwrap() };
        let plan = plan_with(&unique_by(&["device", "time"]), Some(taken));
        assert!(only_refusal(&plan).1.ends_with("DROP INDEX \"plant_7\".\"line_device_time_key\";"));
    }
}
