//! The difference between a hypertable as it is and as it shall be, for the target table and for its dead
//! letters alike. Pure.
//!
//! Nothing is ever dropped: a column or an index that the spec no longer names stays, so a mistaken edit costs no
//! data. Types never change, because every row would be rewritten under a lock.

use std::time::Duration;

use crds::status::{ChangeClass, Reason};

use super::{
    IndexBuild, ObservedColumn, ObservedHypertable, ObservedRelation, TableStep,
    sql::{duration_text, identifier, interval, qualified, regclass},
};
use crate::{
    change::{Change, Refusal},
    pipeline::{SortOrder, Table, WantedTable},
};

pub(super) mod indexes;

/// How long the chunks of a dead-letter table are.
const DEAD_LETTER_CHUNK_INTERVAL: Duration = Duration::from_secs(7 * 86_400);

/// A hypertable as it shall be.
pub(super) struct WantedRelation {
    pub schema: String,
    pub name: String,
    pub columns: Vec<WantedColumn>,
    pub time_column: String,
    pub chunk_interval: Duration,
    pub indexes: Vec<Vec<(String, SortOrder)>>,
    /// The columns on which it is unique; empty where it is not.
    pub unique_by: Vec<String>,
}

/// A column as it shall be.
pub(super) struct WantedColumn {
    pub name: String,
    /// As `format_type` spells it.
    pub sql_type: &'static str,
    pub nullable: bool,
    /// An SQL expression.
    pub default: Option<&'static str>,
}

/// What to do about one hypertable.
#[derive(Default)]
pub(super) struct RelationPlan {
    pub steps: Vec<TableStep>,
    pub builds: Vec<IndexBuild>,
    pub refusals: Vec<Refusal>,
    /// The wanted columns that are missing and stay so.
    pub missing_columns: Vec<String>,
}

impl WantedRelation {
    /// The target table of a pipeline.
    pub fn target(table: &Table, wanted: &WantedTable) -> Self {
        let names = |columns: &[(crate::pipeline::SqlIdent, SortOrder)]| {
            columns.iter().map(|(name, order)| (name.to_string(), *order)).collect()
        };
        Self {
            schema: table.schema.to_string(),
            name: table.name.to_string(),
            columns: table
                .columns
                .iter()
                .map(|column| WantedColumn {
                    name: column.name.to_string(),
                    sql_type: column.column_type.sql(),
                    nullable: column.nullable,
                    default: None,
                })
                .collect(),
            time_column: table.time_column.to_string(),
            chunk_interval: wanted.chunk_interval,
            indexes: wanted.indexes.iter().map(|index| names(&index.columns)).collect(),
            unique_by: table.unique_by.iter().map(ToString::to_string).collect(),
        }
    }

    /// The dead letters of a pipeline.
    pub fn dead_letters(table: &Table) -> Self {
        let column = |name: &str, sql_type, nullable, default| WantedColumn {
            name: name.to_owned(),
            sql_type,
            nullable,
            default,
        };
        Self {
            schema: table.schema.to_string(),
            name: crds::names::dead_letter_table(table.name.as_str()),
            columns: vec![
                column("time", "timestamp with time zone", false, Some("now()")),
                column("reason", "text", false, None),
                column("stage", "text", false, None),
                column("error", "text", false, None),
                column("topic", "text", false, None),
                column("partition", "integer", false, None),
                column("offset", "bigint", false, None),
                column("key", "bytea", true, None),
                column("headers", "jsonb", true, None),
                column("payload", "bytea", true, None),
                column("payload_bytes", "bigint", false, None),
                column("payload_sha256", "bytea", false, None),
            ],
            time_column: "time".to_owned(),
            chunk_interval: DEAD_LETTER_CHUNK_INTERVAL,
            indexes: vec![vec![("time".to_owned(), SortOrder::Descending)]],
            unique_by: Vec::new(),
        }
    }

    /// What to do so that the hypertable is as wanted. `functions` is the schema of TimescaleDB's functions.
    pub fn plan(&self, observed: Option<&ObservedRelation>, functions: &str) -> RelationPlan {
        match observed {
            None => RelationPlan { steps: self.create(functions), ..RelationPlan::default() },
            Some(relation) => match self.hypertable(relation) {
                Err(refusal) => RelationPlan { refusals: vec![refusal], ..RelationPlan::default() },
                Ok((hypertable, chunk_interval)) => {
                    let mut plan = RelationPlan::default();
                    self.plan_columns(relation, hypertable.has_chunks, &mut plan);
                    if chunk_interval != self.chunk_interval {
                        plan.steps.push(self.set_chunk_interval(chunk_interval, functions));
                    }
                    self.plan_indexes(relation, hypertable.has_chunks, &mut plan);
                    self.plan_unique_index(relation, &mut plan);
                    plan
                }
            },
        }
    }

    fn create(&self, functions: &str) -> Vec<TableStep> {
        let columns: Vec<_> =
            self.columns.iter().map(|column| format!("  {}", column.definition())).collect();
        let mut steps = vec![TableStep {
            changes: vec![self.change("", "", &self.name)],
            sql: format!(
                "CREATE TABLE {} (\n{}\n);\n\
                 SELECT {}.create_hypertable({}, {}.by_range({}, {}), create_default_indexes => false);\n",
                self.sql_name(),
                columns.join(",\n"),
                identifier(functions),
                regclass(&self.schema, &self.name),
                identifier(functions),
                super::sql::literal(&self.time_column),
                interval(self.chunk_interval),
            ),
        }];
        let indexes = self.indexes.iter().map(|columns| self.create_index(columns));
        let unique_index = (!self.unique_by.is_empty()).then(|| self.create_unique_index());
        steps.extend(indexes.chain(unique_index).map(|sql| TableStep { changes: Vec::new(), sql }));
        steps
    }

    /// The hypertable and its chunk interval, if this is one over the right column.
    fn hypertable<'a>(
        &self,
        relation: &'a ObservedRelation,
    ) -> Result<(&'a ObservedHypertable, Duration), Refusal> {
        let refused = |found: String| {
            Err(self.refused(format!(
                "{} {found}, which this pipeline did not make of it; rename or drop it, and it is created anew",
                self.display_name()
            )))
        };
        match &relation.hypertable {
            None => refused("is not a hypertable".to_owned()),
            Some(hypertable) => match hypertable.chunk_interval {
                Some(interval) if hypertable.time_column == self.time_column => Ok((hypertable, interval)),
                _ => refused(format!(
                    "is partitioned by {} rather than {}",
                    hypertable.time_column, self.time_column
                )),
            },
        }
    }

    fn plan_columns(&self, relation: &ObservedRelation, has_chunks: bool, plan: &mut RelationPlan) {
        for wanted in &self.columns {
            let found = relation.columns.iter().find(|found| found.name == wanted.name);
            match found {
                None => self.plan_missing_column(wanted, has_chunks, plan),
                Some(found) if found.sql_type != wanted.sql_type => {
                    plan.refusals.push(self.other_type(wanted, found));
                }
                Some(found) if found.nullable != wanted.nullable => {
                    self.plan_nullability(wanted, has_chunks, plan);
                }
                Some(_) => {}
            }
        }
        let is_wanted = |found: &ObservedColumn| self.columns.iter().any(|wanted| wanted.name == found.name);
        let needed = relation.columns.iter().filter(|found| !found.nullable && !found.has_default);
        for found in needed.filter(|found| !is_wanted(found)) {
            plan.refusals.push(self.refused(format!(
                "column {column} of {table} is NOT NULL without a default, and timescale.columns no longer names it, \
                 so no row could be written; name it again, or run: ALTER TABLE {sql} ALTER COLUMN {quoted} DROP NOT NULL;",
                column = found.name,
                table = self.display_name(),
                sql = self.sql_name(),
                quoted = identifier(&found.name),
            )));
        }
    }

    fn plan_missing_column(&self, wanted: &WantedColumn, has_chunks: bool, plan: &mut RelationPlan) {
        if has_chunks && !wanted.nullable && wanted.default.is_none() {
            plan.refusals.push(self.refused(format!(
                "column {} cannot be added to {} as NOT NULL, because the table has rows and they would lack a \
                 value; set nullable: true for it",
                wanted.name,
                self.display_name()
            )));
            plan.missing_columns.push(wanted.name.clone());
            return;
        }
        // A hypertable with a columnstore takes no column that is NOT NULL from the first.
        let (definition, set_not_null) = if wanted.nullable || wanted.default.is_some() {
            (wanted.definition(), String::new())
        } else {
            let nullable = format!("{} {}", identifier(&wanted.name), wanted.sql_type);
            (nullable, self.alter_nullability(wanted, "SET"))
        };
        plan.steps.push(TableStep {
            changes: vec![self.change(&format!("column {}", wanted.name), "", wanted.sql_type)],
            sql: format!("ALTER TABLE {} ADD COLUMN {definition};\n{set_not_null}", self.sql_name()),
        });
    }

    fn plan_nullability(&self, wanted: &WantedColumn, has_chunks: bool, plan: &mut RelationPlan) {
        let alter = |verb: &str| self.alter_nullability(wanted, verb);
        let field = format!("column {}", wanted.name);
        if wanted.nullable {
            plan.steps.push(TableStep {
                changes: vec![self.change(&field, "NOT NULL", "nullable")],
                sql: alter("DROP"),
            });
        } else if has_chunks {
            plan.refusals.push(self.refused(format!(
                "column {} of {} cannot become NOT NULL by itself, because the table has rows; set nullable: true, or \
                 fill its NULLs and run: {}",
                wanted.name,
                self.display_name(),
                alter("SET").trim_end(),
            )));
        } else {
            plan.steps.push(TableStep {
                // Rows that lack a value were taken so far.
                changes: vec![self.change(&field, "nullable", "NOT NULL").classed(ChangeClass::Disruptive)],
                sql: alter("SET"),
            });
        }
    }

    /// `verb` is `SET` or `DROP`.
    fn alter_nullability(&self, column: &WantedColumn, verb: &str) -> String {
        format!(
            "ALTER TABLE {} ALTER COLUMN {} {verb} NOT NULL;\n",
            self.sql_name(),
            identifier(&column.name)
        )
    }

    fn set_chunk_interval(&self, found: Duration, functions: &str) -> TableStep {
        TableStep {
            changes: vec![self.change(
                "chunk interval",
                &duration_text(found),
                &duration_text(self.chunk_interval),
            )],
            sql: format!(
                "SELECT {}.set_chunk_time_interval({}, {});\n",
                identifier(functions),
                regclass(&self.schema, &self.name),
                interval(self.chunk_interval)
            ),
        }
    }

    fn other_type(&self, wanted: &WantedColumn, found: &ObservedColumn) -> Refusal {
        self.refused(format!(
            "column {} of {} has type {} and timescale.columns says {}; types never change. Set it back, or add a \
             column of another name",
            wanted.name,
            self.display_name(),
            found.sql_type,
            wanted.sql_type
        ))
    }

    fn refused(&self, message: String) -> Refusal {
        Refusal { reason: Reason::TableChangeRefused, message }
    }

    fn change(&self, field: &str, from: &str, to: &str) -> Change {
        Change::new(format!("table {}", self.display_name()), field, from, to)
    }

    fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    fn sql_name(&self) -> String {
        qualified(&self.schema, &self.name)
    }
}

impl WantedColumn {
    fn definition(&self) -> String {
        let default = self.default.map(|default| format!(" DEFAULT {default}")).unwrap_or_default();
        let not_null = if self.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}{default}", identifier(&self.name), self.sql_type)
    }
}
