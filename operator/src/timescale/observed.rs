//! What a database has: what `observe` reads, and the plans are made from. Pure.

use std::{fmt, time::Duration};

use crds::worker::PipelineId;

use super::{KnownRetention, ObservedJobs, ObservedRollup};
use crate::{kafka::TopicKey, pipeline::SortOrder};

/// What the database says of a table and of everything around it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedTable {
    /// The PostgreSQL server's version, such as `17.5`.
    pub server_version: String,
    /// The database's name.
    pub database: String,
    /// The role that the session has.
    pub role: String,
    /// The TimescaleDB extension.
    pub extension: ObservedExtension,
    /// What the role may do.
    pub rights: Rights,
    /// Whether the schema exists.
    pub schema_exists: bool,
    /// The version of the bookkeeping tables; 0 where there are none.
    pub bookkeeping_version: i32,
    /// The pipeline that created the table.
    pub marker: Option<PipelineId>,
    /// The pipeline that created its dead letters, and keeps them.
    pub dead_letter_marker: Option<PipelineId>,
    /// How long its rows stay.
    pub retention: KnownRetention,
    /// How long its dead letters stay.
    pub dead_letter_retention: KnownRetention,
    /// The pipeline that created the topic, if it was asked for.
    pub topic_marker: Option<PipelineId>,
    /// Whether that pipeline adopted it.
    pub topic_adopted: bool,
    /// The topic that was asked for, and who writes into the table from it.
    pub feed: Option<ObservedFeed>,
    /// What the workers' role may do.
    pub writer: ObservedWriter,
    /// The table, or whatever has its name.
    pub table: Option<ObservedRelation>,
    /// The table of dead letters, or whatever has its name.
    pub dead_letters: Option<ObservedRelation>,
    /// How the server runs their policies.
    pub jobs: ObservedJobs,
    /// The rollups that the spec names, and those that were made for the table once.
    pub rollups: Vec<ObservedRollup>,
}

/// A topic and who writes into the table from it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedFeed {
    /// The topic.
    pub topic: TopicKey,
    /// The pipeline; `None` where there is none.
    pub pipeline: Option<PipelineId>,
}

/// What the workers' role may do, as far as workers need it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedWriter {
    /// Whether there is such a role.
    pub exists: bool,
    /// The rights it lacks on what is there.
    pub lacks: Vec<LackingRights>,
}

/// Rights that the workers' role lacks on one thing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LackingRights {
    /// The thing.
    pub object: GrantObject,
    /// Such as `INSERT`.
    pub privileges: Vec<&'static str>,
    /// Whether the operator's role may grant them.
    pub is_grantable: bool,
}

/// The things that workers need rights on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GrantObject {
    /// The table's schema.
    Schema,
    /// The table.
    Table,
    /// Its dead letters.
    DeadLetters,
    /// Its positions.
    Positions,
}

/// The TimescaleDB extension as the server has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedExtension {
    /// Whether the server's packages have it and its library is preloaded.
    pub available: bool,
    /// Whether a role without superuser may create it, given CREATE on the database; asked only where it is not installed.
    pub trusted: bool,
    /// What is installed in this database.
    pub installed: Option<InstalledExtension>,
}

/// The TimescaleDB extension in a database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InstalledExtension {
    /// Its version, such as `2.19.3`.
    pub version: String,
    /// The schema of its functions, usually `public`.
    pub schema: String,
    /// Its edition.
    pub edition: Edition,
}

/// The edition of TimescaleDB, told by `timescaledb.license`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Edition {
    /// With policies, columnstore and continuous aggregates.
    Community,
    /// Hypertables only.
    Apache2,
}

/// What the role may do, as far as it matters here. A superuser may do everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rights {
    /// The role is a superuser.
    pub superuser: bool,
    /// CREATE on the database: schemas and trusted extensions.
    pub create_in_database: bool,
    /// USAGE and CREATE on the schema; `true` where it does not exist.
    pub create_in_schema: bool,
    /// The bookkeeping tables on which it lacks one of SELECT, INSERT, UPDATE and DELETE.
    pub unusable_bookkeeping: Vec<String>,
    /// The bookkeeping tables that it does not own, neither by itself nor as a member of the owner.
    pub foreign_bookkeeping: Vec<String>,
}

/// A table, or something else with its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedRelation {
    /// Whether it is an ordinary table, rather than a view or a sequence.
    pub is_table: bool,
    /// Whether the role owns it, by itself or as a member of the owner.
    pub owned: bool,
    /// The hypertable, if it is one.
    pub hypertable: Option<ObservedHypertable>,
    /// Its columns in order.
    pub columns: Vec<ObservedColumn>,
    /// Its indexes.
    pub indexes: Vec<ObservedIndex>,
    /// Its native retention policy, if any.
    pub retention: Option<ObservedPolicy>,
    /// How its chunks go into the columnstore, where that is enabled.
    pub columnstore: Option<ObservedColumnstore>,
    /// The policy that sends them there, if any.
    pub columnstore_policy: Option<ObservedPolicy>,
}

/// What makes a table a hypertable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedHypertable {
    /// The column of its first dimension.
    pub time_column: String,
    /// The span of time of a new chunk; `None` where the dimension is not one of time.
    pub chunk_interval: Option<Duration>,
    /// Whether it has chunks, and so in all likelihood rows.
    pub has_chunks: bool,
}

/// A column as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedColumn {
    /// Its name.
    pub name: String,
    /// Its type as `format_type` spells it.
    pub sql_type: String,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// Whether it fills itself where a row does not name it.
    pub has_default: bool,
    /// Whether it is computed from others, so that no row may name it.
    pub is_generated: bool,
}

/// An index as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedIndex {
    /// Its name.
    pub name: String,
    /// Whether it can be used; otherwise it is being made, or that was interrupted.
    pub is_valid: bool,
    /// Its columns in order; empty where it is not a plain B-tree over whole columns (partial, over an
    /// expression, with another order of NULLs).
    pub columns: Vec<(String, SortOrder)>,
    /// The columns of which no two rows may have the same values, in order; empty where it does not see to that for
    /// every row at once (not unique, not valid, partial, over an expression, deferrable).
    pub unique_by: Vec<String>,
}

/// A policy of TimescaleDB: it looks now and then for chunks whose rows are all old enough.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedPolicy {
    /// How old that is; `None` where the policy counts otherwise.
    pub after: Option<Duration>,
    /// How often it looks.
    pub check_interval: Duration,
    /// Whether it runs at all.
    pub scheduled: bool,
}

/// The settings of a columnstore, which hold for chunks that go there from now on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedColumnstore {
    /// The columns that are the same in all rows of a segment.
    pub segment_by: Vec<String>,
    /// The order of the rows of a segment, each column with its direction; `None` where its NULLs are not where that
    /// direction has them by itself.
    pub order_by: Vec<(String, Option<SortOrder>)>,
}

impl ObservedTable {
    /// The edition, where the extension is installed.
    pub fn edition(&self) -> Option<Edition> {
        self.extension.installed.as_ref().map(|extension| extension.edition)
    }

    /// Whether the table is there to be written to, whatever is still to change about it.
    pub fn is_hypertable(&self) -> bool {
        self.table.as_ref().is_some_and(|table| table.hypertable.is_some())
    }
}

impl ObservedRelation {
    /// Whether it is a hypertable with chunks, and so in all likelihood with rows.
    pub fn has_chunks(&self) -> bool {
        self.hypertable.as_ref().is_some_and(|hypertable| hypertable.has_chunks)
    }
}

impl fmt::Display for Edition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Community => "Community",
            Self::Apache2 => "Apache2",
        })
    }
}
