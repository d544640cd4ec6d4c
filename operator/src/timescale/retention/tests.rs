//! How long rows and dead letters stay.

use super::*;
use crate::timescale::{
    ExpiredChunks, TablePlan, plan,
    test_support::{DAY, as_wanted, pipeline, sql, wanted},
};

const HOUR: u64 = 3600;

/// What holds for the one holds for the other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hypertable {
    Table,
    DeadLetters,
}

use Hypertable::{DeadLetters, Table as Target};

const ALL: [(Hypertable, Edition); 4] = [
    (Target, Edition::Community),
    (Target, Edition::Apache2),
    (DeadLetters, Edition::Community),
    (DeadLetters, Edition::Apache2),
];

impl Hypertable {
    fn name(self) -> &'static str {
        if self == Target { "line" } else { "line_dead_letters" }
    }

    /// The spec by which its rows stay so many days.
    fn keeping(self, days: Option<u32>) -> Table {
        let mut table = wanted();
        let drop_after = match self {
            Target => &mut table.wanted.as_mut().unwrap().drop_after,
            DeadLetters => &mut table.dead_letters_drop_after,
        };
        *drop_after = days.map(|days| days * DAY);
        table
    }

    fn plan(self, days: Option<u32>, observed: &ObservedTable, approval: Option<&str>) -> TablePlan {
        plan(&self.keeping(days), &pipeline("line"), observed, &approvals(approval))
    }

    fn in_force(self, days: Option<u32>, observed: &ObservedTable, approval: Option<&str>) -> Retention {
        let approvals = approvals(approval);
        retentions_in_force(&self.keeping(days), &pipeline("line"), observed, &approvals)[self.name()]
    }

    fn relation(self, observed: &mut ObservedTable) -> &mut ObservedRelation {
        let relation = if self == Target { &mut observed.table } else { &mut observed.dead_letters };
        relation.as_mut().unwrap()
    }

    fn known(self, observed: &mut ObservedTable) -> &mut KnownRetention {
        if self == Target { &mut observed.retention } else { &mut observed.dead_letter_retention }
    }

    /// A database where 90 days were applied.
    fn ninety(self, edition: Edition) -> ObservedTable {
        let mut observed = as_wanted();
        let policy = Target.relation(&mut observed).retention.take();
        observed.extension.installed.as_mut().unwrap().edition = edition;
        if edition == Edition::Community {
            Target.relation(&mut observed).retention = policy.clone();
            self.relation(&mut observed).retention = policy;
        }
        *self.known(&mut observed) = KnownRetention {
            applied: Some(Retention::For(90 * DAY)),
            expired: Some(ExpiredChunks {
                number: 60,
                oldest: Some("2026-01-01T00:00:00Z".parse().unwrap()),
                rows: Some(1_200_000),
            }),
        };
        observed
    }
}

fn approvals(annotation: Option<&str>) -> Approvals {
    Approvals::new(3, annotation, &[])
}

fn approval_in(plan: &TablePlan) -> String {
    let message = &plan.refusals[0].message;
    message.rsplit_once('=').unwrap().1.to_owned()
}

#[test]
fn a_shorter_time_waits_for_its_own_approval_and_the_old_one_stays_in_force() {
    for (hypertable, edition) in ALL {
        let observed = hypertable.ninety(edition);
        let held = hypertable.plan(Some(30), &observed, None);
        assert_eq!((held.steps.len(), held.refusals.len()), (0, 1), "{held:?}");
        assert_eq!(held.refusals[0].reason, Reason::ApprovalRequired);
        assert_eq!((held.held.len(), held.held[0].class), (1, ChangeClass::Destructive));
        insta::assert_snapshot!(format!("held_{}", hypertable.name()), held.refusals[0].message);
        assert_eq!(hypertable.in_force(Some(30), &observed, None), Retention::For(90 * DAY));

        let approval = approval_in(&held);
        assert_eq!(hypertable.plan(Some(30), &observed, Some("000000000000")), held);
        assert_eq!(hypertable.plan(Some(7), &observed, Some(&approval)).refusals.len(), 1);

        let approved = hypertable.plan(Some(30), &observed, Some(&approval));
        assert_eq!(approved.held, []);
        let noted = format!("SET drop_after_seconds = 2592000 WHERE table_name = '{}'", hypertable.name());
        assert!(sql(&approved).contains(&noted), "{approved:?}");
        let policy = format!("add_retention_policy('\"plant_7\".\"{}\"'", hypertable.name());
        assert_eq!(sql(&approved).contains(&policy), edition == Edition::Community);
        let changes: Vec<_> = approved.steps.iter().flat_map(|step| &step.changes).collect();
        assert_eq!((changes.len(), changes[0].class), (1, ChangeClass::Destructive));
        assert_eq!(hypertable.in_force(Some(30), &observed, Some(&approval)), Retention::For(30 * DAY));
    }
}

#[test]
fn rows_and_dead_letters_that_wait_at_once_are_approved_apart_or_together() {
    let mut observed = DeadLetters.ninety(Edition::Community);
    observed.retention.expired = observed.dead_letter_retention.expired;
    let both = Table { dead_letters_drop_after: Some(7 * DAY), ..Target.keeping(Some(30)) };
    let plan_with = |approval: Option<&str>| plan(&both, &pipeline("line"), &observed, &approvals(approval));
    let held = plan_with(None);
    let hashes: Vec<_> =
        held.refusals.iter().map(|refusal| refusal.message.rsplit_once('=').unwrap().1).collect();
    assert_eq!((held.steps.len(), hashes.len()), (0, 2), "{held:?}");
    for (approved, waiting) in [(0, 1), (1, 0)] {
        let plan = plan_with(Some(hashes[approved]));
        assert_eq!(plan.refusals, [held.refusals[waiting].clone()]);
        assert_eq!(plan.steps.len(), 2, "the note and the policy: {plan:?}");
    }
    assert_eq!(plan_with(Some(&hashes.join(","))).steps.len(), 4);
    assert_eq!(plan_with(Some(&hashes.join(", "))).refusals, []);
}

#[test]
fn a_first_retention_waits_too_and_a_longer_one_does_not() {
    for (hypertable, edition) in ALL {
        let mut kept = hypertable.ninety(edition);
        hypertable.known(&mut kept).applied = Some(Retention::ForEver);
        hypertable.relation(&mut kept).retention = None;
        let first = hypertable.plan(Some(90), &kept, None);
        assert!(first.refusals[0].message.contains("from for ever to 90 days"), "{first:?}");
        assert_eq!(hypertable.in_force(Some(90), &kept, None), Retention::ForEver);

        for longer in [Some(91), None] {
            let plan = hypertable.plan(longer, &hypertable.ninety(edition), None);
            assert!(sql(&plan).contains("SET drop_after_seconds"), "{plan:?}");
            let mut changes = plan.steps.iter().flat_map(|step| &step.changes);
            assert!(changes.all(|change| change.class == ChangeClass::Safe), "{plan:?}");
        }
    }
}

#[test]
fn a_hypertable_without_chunks_is_changed_at_once() {
    for hypertable in [Target, DeadLetters] {
        let mut empty = hypertable.ninety(Edition::Community);
        hypertable.relation(&mut empty).hypertable.as_mut().unwrap().has_chunks = false;
        assert!(sql(&hypertable.plan(Some(1), &empty, None)).contains("INTERVAL '1 day'"));
    }
}

#[test]
fn drift_is_mended_towards_what_was_approved() {
    for hypertable in [Target, DeadLetters] {
        let mut removed = hypertable.ninety(Edition::Community);
        hypertable.relation(&mut removed).retention = None;
        // As the spec says, or as it was before the edit that waits.
        for (days, refusals) in [(90, 0), (30, 1)] {
            let plan = hypertable.plan(Some(days), &removed, None);
            assert_eq!(plan.refusals.len(), refusals);
            assert_eq!(plan.steps.len(), 1);
            assert!(plan.steps[0].sql.contains("drop_after => INTERVAL '90 days'"), "{plan:?}");
        }
    }
}

#[test]
fn where_an_older_operator_noted_nothing_the_policy_tells() {
    for hypertable in [Target, DeadLetters] {
        let mut community = hypertable.ninety(Edition::Community);
        hypertable.known(&mut community).applied = None;
        assert_eq!(hypertable.plan(Some(30), &community, None).refusals.len(), 1);
        let noted = hypertable.plan(Some(90), &community, None);
        let note = format!("SET drop_after_seconds = 7776000 WHERE table_name = '{}';\n", hypertable.name());
        assert!(sql(&noted).ends_with(&note), "{noted:?}");
    }
}

#[test]
fn without_policies_an_older_operator_dropped_rows_as_the_spec_says_and_no_dead_letters() {
    let unnoted = |hypertable: Hypertable| {
        let mut observed = hypertable.ninety(Edition::Apache2);
        hypertable.known(&mut observed).applied = None;
        hypertable.plan(Some(30), &observed, None)
    };
    assert!(sql(&unnoted(Target)).contains("SET drop_after_seconds = 2592000 "));
    assert!(unnoted(DeadLetters).refusals[0].message.contains("from for ever to 30 days"));
}

#[test]
fn expired_chunks_are_told_where_they_go_by_what_is_in_force() {
    for hypertable in [Target, DeadLetters] {
        let mut observed = hypertable.ninety(Edition::Apache2);
        let expired = |days, observed: &ObservedTable, approval: Option<&str>| {
            let approvals = approvals(approval);
            hypertables_with_expired_chunks(
                &hypertable.keeping(Some(days)),
                &pipeline("line"),
                observed,
                &approvals,
            )
        };
        let named = |days: u32| BTreeMap::from([(hypertable.name().to_owned(), days * DAY)]);
        assert_eq!(expired(90, &observed, None), named(90));
        assert_eq!(expired(30, &observed, None), BTreeMap::new(), "that waits for approval");
        let approval = approval_in(&hypertable.plan(Some(30), &observed, None));
        assert_eq!(expired(30, &observed, Some(&approval)), named(30));
        hypertable.known(&mut observed).expired = Some(ExpiredChunks::default());
        assert_eq!(expired(90, &observed, None), BTreeMap::new());
    }
}

#[test]
fn only_what_the_pipeline_made_is_kept_by_it() {
    let keeping = Table { dead_letters_drop_after: Some(7 * DAY), ..wanted() };
    let names = |table: &Table, observed: &ObservedTable| -> Vec<String> {
        retentions_in_force(table, &pipeline("line"), observed, &Approvals::default()).into_keys().collect()
    };
    let mut observed = as_wanted();
    assert_eq!(names(&keeping, &observed), ["line", "line_dead_letters"]);
    let external = Table { wanted: None, ..keeping.clone() };
    assert_eq!(names(&external, &observed), ["line_dead_letters"]);
    for marker in [None, Some(pipeline("other"))] {
        (observed.marker, observed.dead_letter_marker) = (marker.clone(), marker);
        assert_eq!(names(&keeping, &observed), [""; 0]);
    }
}

#[test]
fn expired_chunks_are_looked_for_between_every_minute_and_every_hour() {
    let seconds = |drop_after| check_interval(Duration::from_secs(drop_after)).as_secs();
    assert_eq!([seconds(90 * 24 * HOUR), seconds(12 * HOUR), seconds(60)], [HOUR, HOUR / 2, 60]);
    assert_eq!(check_interval(Duration::from_secs(25 * 60)), Duration::from_secs(62));
}

#[test]
fn dropping_is_due_at_first_after_the_interval_and_when_the_clock_was_set_back() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let due = |last_run, now| drop_is_due(last_run, at(now), Duration::from_secs(24 * HOUR));
    assert!(due(None, 10_000));
    assert!(!due(Some(at(10_000)), 13_599));
    assert!(due(Some(at(10_000)), 13_600));
    assert!(due(Some(at(10_000)), 9_999));
}
