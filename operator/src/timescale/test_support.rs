//! A table, and a database in which it is as wanted, for the tests of the pure parts.

use std::time::Duration;

use crds::{pipeline::ColumnType, status::Reason, worker::PipelineId};

use super::{
    Edition, InstalledExtension, KnownRetention, ObservedColumn, ObservedExtension, ObservedFeed,
    ObservedHypertable, ObservedIndex, ObservedJobs, ObservedPolicy, ObservedRelation, ObservedTable,
    ObservedWriter, Retention, Rights, TablePlan, bookkeeping, relation::WantedRelation,
};
use crate::{
    kafka::TopicKey,
    pipeline::{Column, Index, SortOrder, SqlIdent, Table, TopicName, WantedTable},
};

pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn ident(name: &str) -> SqlIdent {
    SqlIdent::parse(name).unwrap()
}

pub(super) fn wanted() -> Table {
    let column = |name, column_type, nullable| Column { name: ident(name), column_type, nullable };
    Table {
        schema: ident("plant_7"),
        name: ident("line"),
        columns: vec![
            column("time", ColumnType::Timestamptz, false),
            column("device", ColumnType::Text, false),
            column("temperature", ColumnType::DoublePrecision, true),
        ],
        time_column: ident("time"),
        unique_by: Vec::new(),
        writer: "app".into(),
        dead_letters_drop_after: None,
        wanted: Some(WantedTable {
            chunk_interval: DAY,
            indexes: vec![Index {
                columns: vec![
                    (ident("device"), SortOrder::Ascending),
                    (ident("time"), SortOrder::Descending),
                ],
            }],
            drop_after: Some(90 * DAY),
            columnstore: None,
            adopt: false,
            rollups: Vec::new(),
        }),
    }
}

pub(super) fn target(table: &Table) -> WantedRelation {
    WantedRelation::target(table, table.wanted.as_ref().unwrap())
}

pub(super) fn pipeline(name: &str) -> PipelineId {
    PipelineId { cluster_name: "c".into(), namespace: "plant-7".into(), name: name.into() }
}

pub(super) fn topic() -> TopicKey {
    TopicKey { cluster_id: "k1".into(), topic: TopicName::parse("plant-7.line").unwrap() }
}

/// A database with the extension and nothing else.
pub(super) fn empty(edition: Edition) -> ObservedTable {
    ObservedTable {
        server_version: "17.5".into(),
        database: "iot".into(),
        role: "app".into(),
        extension: ObservedExtension {
            available: true,
            trusted: true,
            installed: Some(InstalledExtension {
                version: "2.19.3".into(),
                schema: "public".into(),
                edition,
            }),
        },
        rights: Rights {
            superuser: false,
            create_in_database: true,
            create_in_schema: true,
            ..Rights::default()
        },
        schema_exists: false,
        bookkeeping_version: 0,
        marker: None,
        dead_letter_marker: None,
        retention: KnownRetention::default(),
        dead_letter_retention: KnownRetention::default(),
        topic_marker: None,
        topic_adopted: false,
        feed: Some(ObservedFeed { topic: topic(), pipeline: None }),
        writer: ObservedWriter { exists: true, lacks: Vec::new() },
        table: None,
        dead_letters: None,
        jobs: ObservedJobs::default(),
        rollups: Vec::new(),
    }
}

/// The hypertable as a plan makes it, with rows in it.
pub(super) fn relation(wanted: &WantedRelation) -> ObservedRelation {
    let columns = wanted.columns.iter().map(|column| ObservedColumn {
        name: column.name.clone(),
        sql_type: column.sql_type.into(),
        nullable: column.nullable,
        has_default: column.default.is_some(),
        is_generated: false,
    });
    let index = |columns: &Vec<_>| ObservedIndex {
        name: "i".into(),
        is_valid: true,
        columns: columns.clone(),
        unique_by: Vec::new(),
    };
    ObservedRelation {
        is_table: true,
        owned: true,
        hypertable: Some(ObservedHypertable {
            time_column: wanted.time_column.clone(),
            chunk_interval: Some(wanted.chunk_interval),
            has_chunks: true,
        }),
        columns: columns.collect(),
        indexes: wanted.indexes.iter().map(index).collect(),
        retention: None,
        columnstore: None,
        columnstore_policy: None,
    }
}

pub(super) fn as_wanted() -> ObservedTable {
    let mut table = relation(&target(&wanted()));
    table.retention = Some(ObservedPolicy {
        after: Some(90 * DAY),
        check_interval: Duration::from_secs(3600),
        scheduled: true,
    });
    ObservedTable {
        schema_exists: true,
        bookkeeping_version: bookkeeping::CURRENT_VERSION,
        marker: Some(pipeline("line")),
        dead_letter_marker: Some(pipeline("line")),
        retention: KnownRetention { applied: Some(Retention::For(90 * DAY)), expired: None },
        dead_letter_retention: KnownRetention { applied: Some(Retention::ForEver), expired: None },
        feed: Some(ObservedFeed { topic: topic(), pipeline: Some(pipeline("line")) }),
        table: Some(table),
        dead_letters: Some(relation(&WantedRelation::dead_letters(&wanted()))),
        ..empty(Edition::Community)
    }
}

pub(super) fn table_of(observed: &mut ObservedTable) -> &mut ObservedRelation {
    observed.table.as_mut().unwrap()
}

pub(super) fn sql(plan: &TablePlan) -> String {
    assert_eq!(plan.refusals, []);
    let builds = plan.builds.iter().map(|build| &build.step);
    plan.steps.iter().chain(builds).map(|step| step.sql.as_str()).collect()
}

pub(super) fn only_refusal(plan: &TablePlan) -> (Reason, &str) {
    assert_eq!((plan.steps.len(), plan.builds.len(), plan.refusals.len()), (0, 0, 1), "{plan:?}");
    (plan.refusals[0].reason, &plan.refusals[0].message)
}
