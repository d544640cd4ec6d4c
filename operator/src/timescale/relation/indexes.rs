//! The indexes of a hypertable: recognised by what they index, made under a name that follows from it. Pure.

use crds::names::MAX_IDENTIFIER_BYTES;
use sha2::{Digest, Sha256};

use super::{RelationPlan, WantedRelation};
use crate::{
    pipeline::SortOrder,
    timescale::{
        ObservedRelation, TableStep,
        sql::{identifier, qualified},
    },
};

impl WantedRelation {
    /// Makes the indexes that are missing. One of another name serves as well.
    pub(super) fn plan_indexes(&self, relation: &ObservedRelation, plan: &mut RelationPlan) {
        for columns in &self.indexes {
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
                changes: vec![self.change("index", "", &name)],
                sql: self.create_index(columns),
            });
        }
    }

    pub(super) fn create_index(&self, columns: &[(String, SortOrder)]) -> String {
        let list: Vec<_> = columns
            .iter()
            .map(|(name, order)| match order {
                SortOrder::Ascending => identifier(name),
                SortOrder::Descending => format!("{} DESC", identifier(name)),
            })
            .collect();
        format!(
            "CREATE INDEX {} ON {} ({});\n",
            identifier(&self.index_name(columns)),
            self.sql_name(),
            list.join(", ")
        )
    }

    /// `<table>_<column>[_desc]…_idx`, or where that is too long for PostgreSQL, its beginning and a hash.
    fn index_name(&self, columns: &[(String, SortOrder)]) -> String {
        let parts: String = columns
            .iter()
            .map(|(name, order)| match order {
                SortOrder::Ascending => format!("_{name}"),
                SortOrder::Descending => format!("_{name}_desc"),
            })
            .collect();
        let name = format!("{}{parts}_idx", self.name);
        if name.len() <= MAX_IDENTIFIER_BYTES {
            return name;
        }
        let hash: String = Sha256::digest(&name).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let room = MAX_IDENTIFIER_BYTES - "__idx".len() - hash.len();
        format!("{}_{hash}_idx", name.get(..room).unwrap_or_default())
    }
}
