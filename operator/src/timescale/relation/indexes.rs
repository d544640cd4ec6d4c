//! The indexes of a hypertable: recognised by what they index, made under a name that follows from it. Pure.

use crds::{names::MAX_IDENTIFIER_BYTES, status::ChangeClass};
use sha2::{Digest, Sha256};

use super::{RelationPlan, WantedRelation};
use crate::{
    pipeline::SortOrder,
    timescale::{
        ATTEMPT_INTERVAL, BuildKind, IndexBuild, ObservedIndex, ObservedRelation, TableStep,
        sql::{identifier, identifiers, ordering, qualified},
    },
};

impl WantedRelation {
    /// Makes the indexes that are missing, those that were interrupted among them. One of another name serves as well, and one
    /// that was interrupted and is not to be made goes: it serves nobody, and costs those who write as much as one that does.
    pub(super) fn plan_indexes(
        &self,
        relation: &ObservedRelation,
        has_chunks: bool,
        plan: &mut RelationPlan,
    ) {
        for columns in &self.indexes {
            // What is wrong with the column is said of the column.
            if columns.iter().any(|(name, _)| plan.missing_columns.contains(name)) {
                continue;
            }
            if relation.indexes.iter().any(|found| found.is_valid && found.columns == *columns) {
                continue;
            }
            let name = self.index_name(columns);
            let namesake = relation.indexes.iter().find(|found| found.name == name);
            if namesake.is_some_and(|found| found.is_valid || found.columns != *columns) {
                plan.refusals.push(self.refused(format!(
                    "index {name} of {} exists with another definition; run: DROP INDEX {};",
                    self.display_name(),
                    qualified(&self.schema, &name)
                )));
                continue;
            }
            let change = self.change("index", "", &name);
            let whole = self.create_index(columns);
            if has_chunks || namesake.is_some() {
                // Whoever writes into a chunk waits until its rows are in it.
                let changes = vec![change.classed(ChangeClass::Disruptive)];
                let sql = whole.replace(";\n", " WITH (timescaledb.transaction_per_chunk);\n");
                let step = TableStep { changes, sql };
                plan.builds.push(IndexBuild { index: name, step, kind: BuildKind::PerChunk { whole } });
            } else {
                plan.steps.push(TableStep { changes: vec![change], sql: whole });
            }
        }
        let is_made = |name: &str| plan.builds.iter().any(|build| build.index == name);
        let is_ours = |found: &&ObservedIndex| {
            !found.columns.is_empty() && found.name == self.index_name(&found.columns)
        };
        let interrupted = relation.indexes.iter().filter(|found| !found.is_valid).filter(is_ours);
        let left: Vec<_> = interrupted.filter(|found| !is_made(&found.name)).collect();
        plan.builds.extend(left.into_iter().map(|found| self.drop_interrupted(&found.name)));
    }

    fn drop_interrupted(&self, name: &str) -> IndexBuild {
        IndexBuild {
            index: name.to_owned(),
            step: TableStep {
                changes: vec![self.change("index", name, "").classed(ChangeClass::Disruptive)],
                sql: format!("DROP INDEX {};\n", qualified(&self.schema, name)),
            },
            kind: BuildKind::Drop,
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
        plan.builds.push(IndexBuild {
            step: TableStep {
                changes: vec![self.change("unique index", "", &name).classed(ChangeClass::Disruptive)],
                sql: self.create_unique_index(),
            },
            index: name,
            kind: BuildKind::Unique { refusal: self.refused(self.has_repeats()) },
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
        pipeline::{SortOrder, Table},
        timescale::{
            BuildKind, Edition, IndexBuild, ObservedIndex, TablePlan, plan,
            test_support::{as_wanted, empty, ident, only_refusal, pipeline, sql, table_of, wanted},
        },
    };

    fn unique_by(columns: &[&str]) -> Table {
        Table { unique_by: columns.iter().map(|name| ident(name)).collect(), ..wanted() }
    }

    fn unique_index(name: &str, columns: &[&str]) -> ObservedIndex {
        let unique_by = columns.iter().map(|name| (*name).to_owned()).collect();
        ObservedIndex { name: name.into(), is_valid: true, columns: Vec::new(), unique_by }
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
    fn an_index_over_rows_is_made_apart_and_chunk_by_chunk() {
        let plan_without = |has_chunks| {
            let mut observed = as_wanted();
            table_of(&mut observed).indexes.clear();
            table_of(&mut observed).hypertable.as_mut().unwrap().has_chunks = has_chunks;
            plan(&wanted(), &pipeline("line"), &observed, &Approvals::default())
        };
        let whole = "CREATE INDEX \"line_device_time_desc_idx\" ON \"plant_7\".\"line\" (\"device\", \"time\" DESC);\n";
        let TablePlan { steps, builds, .. } = plan_without(true);
        assert_eq!((steps.len(), builds.len()), (0, 1));
        assert_eq!(builds[0].kind, BuildKind::PerChunk { whole: whole.into() });
        let per_chunk = whole.replace(';', " WITH (timescaledb.transaction_per_chunk);");
        assert_eq!((&*builds[0].index, &builds[0].step.sql), ("line_device_time_desc_idx", &per_chunk));

        let TablePlan { steps, builds, .. } = plan_without(false);
        assert_eq!((steps[0].sql.as_str(), builds.len()), (whole, 0));
    }

    #[test]
    fn an_index_that_was_interrupted_is_made_anew_and_one_of_a_person_is_not_touched() {
        let plan_with = |name: &str| {
            let mut observed = as_wanted();
            let index = &mut table_of(&mut observed).indexes[0];
            (index.name, index.is_valid) = (name.into(), false);
            plan(&wanted(), &pipeline("line"), &observed, &Approvals::default())
        };
        for name in ["line_device_time_desc_idx", "theirs"] {
            let plan = plan_with(name);
            assert_eq!((plan.steps.len(), plan.refusals.len()), (0, 0));
            assert_eq!(plan.builds[0].index, "line_device_time_desc_idx");
        }
    }

    #[test]
    fn an_index_that_was_interrupted_and_left_the_spec_goes() {
        let plan_with = |name: &str, is_valid| {
            let mut observed = as_wanted();
            let columns = vec![("temperature".to_owned(), SortOrder::Descending)];
            let index = ObservedIndex { name: name.into(), is_valid, columns, unique_by: Vec::new() };
            table_of(&mut observed).indexes.push(index);
            plan(&wanted(), &pipeline("line"), &observed, &Approvals::default())
        };
        let plan = plan_with("line_temperature_desc_idx", false);
        let [IndexBuild { step, kind: BuildKind::Drop, .. }] = &plan.builds[..] else { panic!("{plan:?}") };
        assert_eq!(step.sql, "DROP INDEX \"plant_7\".\"line_temperature_desc_idx\";\n");
        assert_eq!(
            step.changes[0].to_string(),
            "table plant_7.line: index removed (was line_temperature_desc_idx)"
        );
        // One that serves stays, and one of a person is theirs.
        assert_eq!(plan_with("line_temperature_desc_idx", true), TablePlan::default());
        assert_eq!(plan_with("theirs", false), TablePlan::default());
    }

    #[test]
    fn a_new_table_gets_its_unique_index_with_the_others() {
        let plan = plan(
            &unique_by(&["device", "time"]),
            &pipeline("line"),
            &empty(Edition::Apache2),
            &Approvals::default(),
        );
        assert_eq!(plan.builds, []);
        let at = |part: &str| sql(&plan).find(part).unwrap();
        assert!(at("create_hypertable") < at(CREATE_UNIQUE));
    }

    #[test]
    fn a_unique_index_that_is_missing_is_tried_whatever_rows_there_are() {
        let plan = plan_with(&unique_by(&["device", "time"]), None);
        assert_eq!(sql(&plan), CREATE_UNIQUE);
        let [IndexBuild { step, kind: BuildKind::Unique { refusal }, .. }] = &plan.builds[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            step.changes[0].to_string(),
            "table plant_7.line: unique index set to line_device_time_key"
        );
        assert_eq!(refusal.reason, Reason::TableChangeRefused);
        insta::assert_snapshot!(refusal.message);
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
            assert_eq!(plan_with(&key, Some(unique_index("theirs", columns))).builds.len(), 1);
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
