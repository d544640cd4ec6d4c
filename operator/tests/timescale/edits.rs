//! Whatever a spec was edited through, the table ends as the last edit alone would have made it, or the operator says
//! which part of it is refused.
//!
//! The sequences are random. `IOTPIPELINE_TEST_SEED` makes those of an earlier run again: it is printed.

use std::{collections::BTreeSet, fmt::Write as _, io::Write as _};

use crds::status::Reason;
use operator::{
    change::Approvals,
    pipeline::Table,
    timescale::{BuildKind, Built, Edition, IndexBuild, plan},
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{
    spec::{Edit, EditableSpec, edits},
    support::{ALL, Test, unique},
};

const SEQUENCES: usize = 100;

/// The longest sequence.
const MAX_EDITS: usize = 8;

/// One edit, and whether a person approves what it would delete.
type Step = (Edit, bool);

pub async fn any_sequence_ends_where_its_last_spec_alone_does(test: &Test) {
    let seed = std::env::var("IOTPIPELINE_TEST_SEED").map_or_else(|_| unique(), |seed| seed.parse().unwrap());
    // Not by the macro, whose output is kept from whoever runs the tests.
    let mut output = std::io::stderr();
    writeln!(output, "edits: edition={} IOTPIPELINE_TEST_SEED={seed}", test.edition).unwrap();
    let mut runner = runner(seed);
    let sequences =
        proptest::collection::vec((proptest::sample::select(edits()), any::<bool>()), 1..=MAX_EDITS);
    let mut refused = 0;
    for number in 0..SEQUENCES {
        let steps = sequences.new_tree(&mut runner).unwrap().current();
        let told = tell(&steps);
        let context = format!("sequence {number} of seed {seed}:\n{told}");
        refused += usize::from(!Sequence::new(test, context).run(&steps).await);
    }
    writeln!(output, "edits: edition={} sequences={SEQUENCES} refused={refused}", test.edition).unwrap();
    assert!(refused < SEQUENCES / 2, "most sequences shall end where nothing is refused: {refused}");
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
    /// What the columns and indexes of all specs so far are in the catalogue.
    former: BTreeSet<String>,
    /// For whoever finds it failed.
    context: String,
}

impl<'a> Sequence<'a> {
    fn new(test: &'a Test, context: String) -> Self {
        Self { test, generation: 0, former: BTreeSet::new(), context }
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
            if matches!(edit, Edit::Rows(_)) && refusals.is_empty() {
                self.test.sql(&edit.insert_into(&table)).await;
            }
        }
        self.end(&spec, &table, &refusals).await;
        refusals.is_empty()
    }

    /// Plans and applies. What is refused.
    async fn bring_about(&mut self, table: &Table, is_approved: bool) -> Vec<Reason> {
        self.generation += 1;
        let mut approvals = Approvals::new(self.generation, None, &[]);
        let observed = self.test.observe(table).await;
        let mut planned = plan(table, &self.test.pipeline, &observed, &approvals);
        if is_approved && !planned.held.is_empty() {
            let hashes: Vec<_> = planned.held.iter().map(|change| approvals.hash(change)).collect();
            approvals = Approvals::new(self.generation, Some(&hashes.join(",")), &[]);
            planned = plan(table, &self.test.pipeline, &observed, &approvals);
            assert_eq!(planned.held, [], "{}", self.context);
        }
        let mut session = self.test.open().await;
        let context = &self.context;
        session
            .apply(table, &planned)
            .await
            .unwrap_or_else(|error| panic!("{error}: {planned:?}\n{context}"));
        let mut refusals: Vec<_> = planned.refusals.iter().map(|refusal| refusal.reason).collect();
        for build in &planned.builds {
            match session.build_index(table, build).await {
                Ok(Built::Contradicted) => refusals.push(refusal_of(build).unwrap()),
                built => assert_eq!(built.unwrap(), Built::Made, "{context}"),
            }
        }
        session.close().await;
        let catalogue = self.catalogue("edited").await;
        self.former.extend(catalogue.into_iter().filter(|line| stays(line)));
        refusals
    }

    async fn end(mut self, spec: &EditableSpec, table: &Table, refusals: &[Reason]) {
        let context = &self.context;
        // The next look finds nothing to do, and the same refusals.
        let observed = self.test.observe(table).await;
        let approvals = Approvals::new(self.generation, None, &[]);
        let rest = plan(table, &self.test.pipeline, &observed, &approvals);
        assert_eq!(rest.steps, [], "{context}");
        let builds = rest.builds.iter().filter_map(refusal_of);
        let still: Vec<_> = rest.refusals.iter().map(|refusal| refusal.reason).chain(builds).collect();
        assert_eq!(still, refusals, "{context}");
        for reason in refusals {
            assert!(
                matches!(reason, Reason::TableChangeRefused | Reason::ApprovalRequired),
                "{reason}\n{context}"
            );
        }

        let direct = spec.table("direct").unwrap();
        let is_held = refusals.contains(&Reason::ApprovalRequired);
        if !refusals.contains(&Reason::TableChangeRefused) {
            let former = self.former.clone();
            assert_eq!(self.bring_about(&direct, false).await, []);
            let (edited, direct) = (self.catalogue("edited").await, self.catalogue("direct").await);
            let context = &self.context;
            // How long rows stay is as before where a person has not approved the spec's time.
            let may_differ = |line: &&String| is_held && line.contains(" retention");
            let missing: Vec<_> = direct.difference(&edited).filter(|line| !may_differ(line)).collect();
            assert_eq!(missing, [""; 0], "missing\n{context}");
            let has_columnstore = table.wanted.as_ref().unwrap().columnstore.is_some();
            let left = |line: &&String| match former.contains(*line) {
                true if line.starts_with("table columnstore") => !has_columnstore,
                true => !line.ends_with("NOT NULL"),
                false => false,
            };
            let more = edited.difference(&direct).filter(|line| !may_differ(line) && !left(line));
            assert_eq!(more.collect::<Vec<_>>(), [""; 0], "too much\n{context}");
        }
        let mut session = self.test.open().await;
        for table in [table, &direct] {
            session.delete_table(table, &self.test.pipeline, ALL).await.unwrap();
        }
        session.close().await;
    }

    /// What the database itself knows of the table and its dead letters, one line for each thing.
    async fn catalogue(&self, table: &str) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for (kind, name) in [("table", table.to_owned()), ("dead letters", format!("{table}_dead_letters"))] {
            lines.extend(
                self.test
                    .texts(&catalogue_of(kind, self.test.schema.as_str(), &name, self.test.edition))
                    .await,
            );
        }
        lines
    }
}

/// What is said where rows contradict the index.
fn refusal_of(build: &IndexBuild) -> Option<Reason> {
    match &build.kind {
        BuildKind::PerChunk { .. } => None,
        BuildKind::Unique { refusal } => Some(refusal.reason),
    }
}

/// What a spec that no longer names it leaves as it is.
fn stays(line: &str) -> bool {
    ["table column ", "table index ", "table columnstore "].iter().any(|kind| line.starts_with(kind))
}

fn catalogue_of(kind: &str, schema: &str, name: &str, edition: Edition) -> String {
    let columnstore = match edition {
        Edition::Apache2 => "",
        Edition::Community => {
            "UNION ALL SELECT concat('columnstore ', segmentby, ' ', orderby, ' ', orderby_desc, ' ', orderby_nullsfirst) \
               FROM _timescaledb_catalog.compression_settings, wanted WHERE relid = oid "
        }
    };
    format!(
        "WITH wanted AS (SELECT '{schema}.{name}'::regclass AS oid) \
         SELECT '{kind} ' || line FROM ( \
           SELECT concat('column ', attname, ' ', format_type(atttypid, atttypmod), \
               ' ' || pg_get_expr(adbin, adrelid), CASE WHEN attnotnull THEN ' NOT NULL' END) AS line \
             FROM wanted JOIN pg_attribute ON attrelid = oid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
             WHERE attnum > 0 AND NOT attisdropped \
           UNION ALL SELECT 'index ' || replace(pg_get_indexdef(indexrelid), '{name}', 'it') \
             FROM pg_index, wanted WHERE indrelid = oid \
           UNION ALL SELECT concat('dimension ', column_name, ' ', time_interval) FROM timescaledb_information.dimensions \
             WHERE hypertable_schema = '{schema}' AND hypertable_name = '{name}' \
           UNION ALL SELECT concat('policy ', replace(proc_name, 'policy_', ''), ' every ', schedule_interval, ' ', scheduled, ' ', \
               config - 'hypertable_id') FROM timescaledb_information.jobs \
             WHERE hypertable_schema = '{schema}' AND hypertable_name = '{name}' \
           UNION ALL SELECT concat('retention noted ', drop_after_seconds) FROM {schema}._iotpipeline_tables \
             WHERE table_name = '{name}' {columnstore}) AS catalogue (line)"
    )
}
