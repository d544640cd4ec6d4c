//! A table that is there and nobody's, to be kept from now on: whether it can be made what the spec says without any row
//! being changed. What can be added is no hindrance: it is planned as for a table of our own. Pure.

use crds::{names::dead_letter_table, status::Reason};

use super::{
    ObservedTable,
    external::{generated_columns, no_hypertable, other_time_column},
    relation::WantedRelation,
};
use crate::{
    change::Refusal,
    pipeline::{Table, WantedTable},
};

/// Everything that stands in the way, in one message; `None` where nothing does, or where nothing is there.
pub(super) fn cannot_adopt(
    wanted: &Table,
    wanted_table: &WantedTable,
    observed: &ObservedTable,
) -> Option<Refusal> {
    let mut hindrances = Vec::new();
    if let Some(relation) = &observed.table {
        let not_as_needed = no_hypertable(wanted, relation).or_else(|| other_time_column(wanted, relation));
        if not_as_needed.is_none() {
            // The schema of functions plays no part in what is refused.
            hindrances.extend(WantedRelation::target(wanted, wanted_table).plan(Some(relation), "").refusals);
            hindrances.extend(generated_columns(wanted, relation));
        }
        hindrances.extend(not_as_needed);
    }
    let dead_letters = observed.dead_letters.as_ref().filter(|_| observed.dead_letter_marker.is_none());
    if let Some(relation) = dead_letters
        && !WantedRelation::dead_letters(wanted).plan(Some(relation), "").refusals.is_empty()
    {
        let name = dead_letter_table(wanted.name.as_str());
        hindrances.push(Refusal {
            reason: Reason::TableUnfit,
            message: format!(
                "{}.{name} does not have the columns of dead letters, which need this name; rename or drop it",
                wanted.schema
            ),
        });
    }
    if hindrances.is_empty() {
        return None;
    }
    let hindrances: Vec<_> =
        hindrances.iter().map(|hindrance| hindrance.message.trim_end_matches(';')).collect();
    Some(Refusal {
        reason: Reason::TableUnfit,
        message: format!("table {wanted} cannot be adopted as it is: {}", hindrances.join("; ")),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        change::Approvals,
        timescale::{
            KnownRetention, ObservedPolicy, TablePlan, plan,
            test_support::{DAY, as_wanted, only_refusal, pipeline, sql, table_of, wanted},
        },
    };

    /// A table that fits and has nothing of ours beside it.
    fn theirs() -> ObservedTable {
        ObservedTable {
            bookkeeping_version: 0,
            marker: None,
            dead_letter_marker: None,
            retention: KnownRetention::default(),
            dead_letter_retention: KnownRetention::default(),
            dead_letters: None,
            ..as_wanted()
        }
    }

    fn plan_after(change: impl FnOnce(&mut ObservedTable)) -> TablePlan {
        let mut adopting = wanted();
        adopting.wanted.as_mut().unwrap().adopt = true;
        let mut observed = theirs();
        change(&mut observed);
        plan(&adopting, &pipeline("line"), &observed, &Approvals::default())
    }

    #[test]
    fn a_table_that_fits_is_taken_over_and_gets_what_it_lacks() {
        let plan = plan_after(|observed| {
            table_of(observed).columns.pop();
            table_of(observed).columns[1].nullable = true;
            table_of(observed).hypertable.as_mut().unwrap().has_chunks = false;
        });
        insta::assert_snapshot!(sql(&plan));
        let changes: Vec<_> =
            plan.steps.iter().flat_map(|step| &step.changes).map(ToString::to_string).collect();
        insta::assert_snapshot!("what_is_told_of_an_adoption", changes.join("\n"));
    }

    #[test]
    fn a_table_that_does_not_fit_is_left_alone_and_all_that_differs_is_told() {
        let plan = plan_after(|observed| {
            table_of(observed).columns[2].sql_type = "real".into();
            table_of(observed).columns[1].is_generated = true;
            let more = table_of(observed).columns[1].clone();
            table_of(observed).columns.push(super::super::ObservedColumn {
                name: "shift".into(),
                has_default: false,
                is_generated: false,
                ..more
            });
        });
        let (reason, message) = only_refusal(&plan);
        assert_eq!(reason, Reason::TableUnfit);
        insta::assert_snapshot!(message);
        let no_hypertable = plan_after(|observed| table_of(observed).hypertable = None);
        assert!(only_refusal(&no_hypertable).1.contains("create_hypertable"));
        let other_time =
            plan_after(|observed| table_of(observed).hypertable.as_mut().unwrap().time_column = "t".into());
        assert!(only_refusal(&other_time).1.contains("correct timeColumn"));
        let dead_letters = plan_after(|observed| {
            observed.dead_letters = observed.table.clone();
        });
        assert!(only_refusal(&dead_letters).1.contains("line_dead_letters does not have the columns"));
    }

    #[test]
    fn what_another_pipeline_has_or_another_role_owns_is_not_taken() {
        let taken = plan_after(|observed| {
            observed.bookkeeping_version = as_wanted().bookkeeping_version;
            observed.marker = Some(pipeline("other"));
        });
        assert_eq!(only_refusal(&taken).0, Reason::ResourceConflict);
        let foreign = plan_after(|observed| table_of(observed).owned = false);
        let (reason, message) = only_refusal(&foreign);
        assert_eq!(reason, Reason::PermissionMissing);
        assert!(message.ends_with("ALTER TABLE \"plant_7\".\"line\" OWNER TO \"app\";"), "{message}");
    }

    #[test]
    fn rows_that_were_kept_longer_go_only_with_an_approval() {
        let policy = |days: u32| ObservedPolicy {
            after: Some(days * DAY),
            check_interval: Duration::from_secs(3600),
            scheduled: true,
        };
        for (found, from) in [(Some(policy(365)), "365 days"), (None, "for ever")] {
            let plan = plan_after(|observed| table_of(observed).retention = found);
            assert_eq!(plan.held[0].from, from);
            assert_eq!(plan.refusals[0].reason, Reason::ApprovalRequired);
            assert!(!plan.steps.is_empty(), "it is adopted all the same");
            assert!(!plan.steps.iter().any(|step| step.sql.contains("retention_policy")), "{plan:?}");
        }
        let longer = plan_after(|observed| table_of(observed).retention = Some(policy(30)));
        assert_eq!(longer.held, []);
    }
}
