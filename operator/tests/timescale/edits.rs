//! Whatever a spec was edited through, the table ends as the last edit alone would have made it, or the operator says
//! which part of it is refused.
//!
//! The sequences are random. `IOTPIPELINE_TEST_SEED` makes those of an earlier run again: it is printed.

use std::{collections::BTreeSet, fmt::Write as _, io::Write as _};

use crds::status::Reason;
use operator::{
    pipeline::{SqlIdent, Table},
    timescale::TablePlan,
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{
    catalogue::{catalogue, rollup_of},
    spec::{Edit, EditableSpec, daily, edits, hourly, insert_into, rollup_edits},
    support::{ALL, Test, contradiction, now_micros},
};

/// How many, where `IOTPIPELINE_TEST_SEQUENCES` does not say it: `make test-timescale` makes a hundred.
const SEQUENCES: usize = 30;

/// Each so-manieth sequence begins with rollups and rows, and edits these too.
const ROLLUPS_IN: usize = 4;

/// The longest sequence.
const MAX_EDITS: usize = 8;

/// One edit, and whether a person approves what it would delete.
type Step = (Edit, bool);

pub async fn any_sequence_ends_where_its_last_spec_alone_does(test: &Test) {
    let seed =
        std::env::var("IOTPIPELINE_TEST_SEED").map_or_else(|_| now_micros(), |seed| seed.parse().unwrap());
    // Not by the macro, whose output is kept from whoever runs the tests.
    let mut output = std::io::stderr();
    writeln!(output, "edits: edition={} IOTPIPELINE_TEST_SEED={seed}", test.edition).unwrap();
    let mut runner = runner(seed);
    let of =
        |edits| proptest::collection::vec((proptest::sample::select(edits), any::<bool>()), 1..=MAX_EDITS);
    let plain = of(edits());
    let with_rollups = of(edits().into_iter().chain(rollup_edits()).collect());
    let mut refused = 0;
    let sequence_count =
        std::env::var("IOTPIPELINE_TEST_SEQUENCES").map_or(SEQUENCES, |number| number.parse().unwrap());
    for number in 0..sequence_count {
        let steps = if number % ROLLUPS_IN == 0 {
            let begin = [Edit::Rollup("hour", hourly()), Edit::Rollup("day", daily()), Edit::Rows(9)];
            let more = with_rollups.new_tree(&mut runner).unwrap().current();
            begin.map(|edit| (edit, false)).into_iter().chain(more).collect()
        } else {
            plain.new_tree(&mut runner).unwrap().current()
        };
        let told = tell(&steps);
        let context = format!("sequence {number} of seed {seed}:\n{told}");
        refused += usize::from(!Sequence::new(test, context).run(&steps).await);
    }
    writeln!(output, "edits: edition={} sequences={sequence_count} refused={refused}", test.edition).unwrap();
    assert!(refused < sequence_count / 2, "most sequences shall end where nothing is refused: {refused}");
}

fn runner(seed: u128) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn tell(steps: &[Step]) -> String {
    let mut told = String::new();
    for (edit, is_approved) in steps {
        writeln!(told, "  {edit}{}", if *is_approved { ", approved" } else { "" }).unwrap();
    }
    told
}

struct Sequence<'a> {
    test: &'a Test,
    generation: i64,
    is_approved: bool,
    /// What the columns and indexes of all specs so far are in the catalogue.
    former: BTreeSet<String>,
    /// For whoever finds it failed.
    context: String,
}

impl<'a> Sequence<'a> {
    fn new(test: &'a Test, context: String) -> Self {
        Self { test, generation: 0, is_approved: false, former: BTreeSet::new(), context }
    }

    /// Makes all steps, one after the other. Whether nothing is refused in the end.
    async fn run(mut self, steps: &[Step]) -> bool {
        let mut spec = EditableSpec::new(self.test.schema.as_str());
        let mut table = spec.table("edited").unwrap();
        let mut refusals = self.bring_about(&table, false).await;
        assert_eq!(refusals, [], "{}", self.context);
        for (edit, is_approved) in steps {
            let before = spec.clone();
            spec.apply(edit);
            // Who is told that a spec is invalid sets it back.
            let Ok(valid) = spec.table("edited") else {
                spec = before;
                continue;
            };
            table = valid;
            refusals = self.bring_about(&table, *is_approved).await;
            if let (Edit::Rows(days), []) = (edit, &refusals[..]) {
                // Some repeat the key of others.
                self.test
                    .sql(&insert_into(&table, "date_trunc('day', now()) - row * interval '1 day'", *days))
                    .await;
            }
        }
        self.end(&spec, &table, &refusals).await;
        refusals.is_empty()
    }

    /// Brings about what a spec says. What is refused.
    async fn bring_about(&mut self, table: &Table, is_approved: bool) -> Vec<Reason> {
        self.generation += 1;
        self.is_approved = is_approved;
        let refusals =
            self.test.bring_about_generation(table, self.generation, is_approved, &self.context).await;
        let catalogue = catalogue(self.test, "edited").await;
        self.former.extend(catalogue.into_iter().filter(|line| stays(line)));
        refusals
    }

    async fn end(mut self, spec: &EditableSpec, table: &Table, refusals: &[Reason]) {
        let context = self.context.clone();
        // The next look finds nothing to do, and the same refusals.
        let rest = self.test.plan_generation(table, self.generation, self.is_approved).await;
        assert_eq!(rest.steps, [], "{context}");
        let builds = rest.builds.iter().filter_map(contradiction);
        let still: Vec<_> = rest.refusals.iter().map(|refusal| refusal.reason).chain(builds).collect();
        assert_eq!(still, refusals, "{context}");
        for reason in refusals {
            let is_legal = matches!(
                reason,
                Reason::TableChangeRefused
                    | Reason::ApprovalRequired
                    | Reason::RollupBehind
                    | Reason::RollupRefused
            );
            assert!(is_legal, "{reason}\n{context}");
        }
        let direct = spec.table("direct").unwrap();
        if !refusals.contains(&Reason::TableChangeRefused) {
            assert_eq!(self.bring_about(&direct, false).await, [], "{context}");
            // Rollups have their policies once rows have reached the present.
            if !table.wanted.as_ref().unwrap().rollups.is_empty() {
                for table in [table, &direct] {
                    self.test.sql(&insert_into(table, "now() - row * interval '5 hours'", 1)).await;
                    self.bring_about(table, false).await;
                }
            }
            self.compare(table).await;
        }
        let mut session = self.test.open().await;
        for table in [table, &direct] {
            session.delete_table(table, &self.test.pipeline, ALL).await.unwrap();
        }
        session.close().await;
    }

    /// What was edited is as what was made directly, but for what waits and what stays.
    async fn compare(&self, table: &Table) {
        let context = &self.context;
        let wanted = table.wanted.as_ref().unwrap();
        let (edited, direct) = (catalogue(self.test, "edited").await, catalogue(self.test, "direct").await);
        let rest = self.test.plan_generation(table, self.generation, self.is_approved).await;
        let unsettled = unsettled_rollups(table, &rest);
        let waits = rest
            .refusals
            .iter()
            .any(|refusal| matches!(refusal.reason, Reason::ApprovalRequired | Reason::RollupBehind));
        let may_differ = |line: &&String| {
            // How long rows stay is as before where a person has not approved the spec's time.
            waits && line.contains(" retention")
                || rollup_of(line).is_some_and(|name| unsettled.contains(name))
        };
        let missing: Vec<_> = direct.difference(&edited).filter(|line| !may_differ(line)).collect();
        assert_eq!(missing, [""; 0], "missing\n{context}");
        let left = |line: &&String| {
            let was_there = self.former.contains(*line);
            if let Some(name) = rollup_of(line) {
                let rollup = wanted.rollups.iter().find(|rollup| short(&rollup.name) == name);
                return rollup.is_none_or(|rollup| was_there && rollup.columnstore.is_none());
            }
            match was_there {
                true if line.starts_with("table columnstore") => wanted.columnstore.is_none(),
                true => !line.ends_with("NOT NULL"),
                false => false,
            }
        };
        let more = edited.difference(&direct).filter(|line| !may_differ(line) && !left(line));
        assert_eq!(more.collect::<Vec<_>>(), [""; 0], "too much\n{context}");
    }
}

/// The rollups of which another definition waits or is refused, and those that are made from them.
fn unsettled_rollups(table: &Table, rest: &TablePlan) -> BTreeSet<String> {
    let is_unsettled = |name: &SqlIdent| {
        let object = format!("rollup {}.{name}", table.schema);
        rest.held.iter().any(|change| change.object == object && change.field == "definition")
            || rest.refusals.iter().any(|refusal| {
                refusal.reason == Reason::RollupRefused && refusal.message.starts_with(&format!("{object}:"))
            })
    };
    let mut unsettled = BTreeSet::new();
    for rollup in &table.wanted.as_ref().unwrap().rollups {
        let waits_for = rollup.from.as_ref().is_some_and(|from| unsettled.contains(&short(from)));
        if waits_for || is_unsettled(&rollup.name) {
            unsettled.insert(short(&rollup.name));
        }
    }
    unsettled
}

/// The name that the spec has for a rollup.
fn short(name: &SqlIdent) -> String {
    name.as_str().split_once('_').unwrap().1.to_owned()
}

/// What a spec that no longer names it leaves as it is.
fn stays(line: &str) -> bool {
    ["table column ", "table index ", "table columnstore "].iter().any(|kind| line.starts_with(kind))
        || rollup_of(line).is_some() && line.contains(" columnstore ")
}
