//! Hypertables: what is there, what is to change, and the traits through which the operator reads and changes
//! a database. This file holds the vocabulary and does no I/O; `session`, `observe`, `effects` and `execute` do,
//! the rest is pure.

use std::{collections::BTreeMap, time::Duration};

use access::database::DatabaseAccess;
use crds::worker::PipelineId;
use futures::future::BoxFuture;
use jiff::Timestamp;

use crate::{
    change::{Change, Note, Refusal},
    kafka::TopicKey,
    pipeline::{SqlIdent, Table},
};

mod adoption;
mod bookkeeping;
mod chunks;
mod columnstore;
mod deletion;
mod effects;
mod error;
mod execute;
mod external;
mod grants;
mod index_builds;
mod jobs;
mod lag;
mod observe;
mod observed;
mod plan;
mod policy;
mod relation;
mod retention;
mod rights;
mod rollups;
mod session;
mod shelf;
mod sql;
#[cfg(test)]
mod test_support;

pub use chunks::{ChunkSizes, advise_chunk_interval};
pub use error::Error;
pub use jobs::{ObservedJob, ObservedJobs, ObservedScheduler, judge_policies};
pub use lag::lag;
pub use observed::{
    Edition, GrantObject, InstalledExtension, LackingRights, ObservedColumn, ObservedColumnstore,
    ObservedExtension, ObservedFeed, ObservedHypertable, ObservedIndex, ObservedPolicy, ObservedRelation,
    ObservedTable, ObservedWriter, Rights,
};
pub use plan::plan;
pub use retention::{
    ExpiredChunks, KnownRetention, Retention, check_interval, drop_is_due, expired_chunks,
    hypertables_with_expired_chunks, retentions_in_force,
};
pub use rollups::{
    FillProgress, ObservedAggregate, ObservedRefresh, ObservedRollup, ObservedView, RollupFill, RollupMarker,
    ViewKind, rollup_is_filling,
};
pub use session::DirectDatabases;
pub use sql::duration_text;

/// How long to wait before a unique index that rows contradict is tried again: that reads the whole table, and holds
/// writers up.
pub const ATTEMPT_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// Opens sessions. One implementation connects ([`DirectDatabases`]); tests write their own.
pub trait Databases: Send + Sync {
    /// Connects within 10 seconds.
    fn open<'a>(&'a self, access: &'a DatabaseAccess) -> BoxFuture<'a, Result<Box<dyn Session>, Error>>;
}

/// One session with one database, used for one reconciliation. Every statement has a deadline.
pub trait Session: Send {
    /// Reads everything that [`plan`] needs. With `topic`, the topic's marker too.
    fn observe<'a>(
        &'a mut self,
        table: &'a Table,
        topic: Option<&'a TopicKey>,
    ) -> BoxFuture<'a, Result<ObservedTable, Error>>;

    /// Makes all steps of the plan or none: one transaction, under a lock on the schema.
    fn apply<'a>(&'a mut self, table: &'a Table, plan: &'a TablePlan) -> BoxFuture<'a, Result<(), Error>>;

    /// Makes an index over the rows of the table, outside of any other transaction and under a lock that this session has
    /// on the table, so that two operators never do. One that was interrupted is dropped first. May take hours.
    fn build_index<'a>(
        &'a mut self,
        table: &'a Table,
        build: &'a IndexBuild,
    ) -> BoxFuture<'a, Result<Built, Error>>;

    /// Writes the marker that says that this pipeline is about to create the topic, or adopts it. Fails where another
    /// pipeline was first. Needs the bookkeeping tables, so [`Session::apply`] comes before.
    fn claim_topic<'a>(
        &'a mut self,
        schema: &'a SqlIdent,
        pipeline: &'a PipelineId,
        topic: &'a TopicKey,
        is_adopted: bool,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes the marker of a topic that was deleted, with the positions in it: they mean nothing in a topic
    /// that is created again.
    fn release_topic<'a>(
        &'a mut self,
        schema: &'a SqlIdent,
        pipeline: &'a PipelineId,
        topic: &'a TopicKey,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Retention of the Apache-2 edition, which has no policies: drops the chunks of a hypertable whose rows are all
    /// older than `drop_after`. Call it when [`drop_is_due`] says so, with what [`retentions_in_force`] says.
    fn drop_expired_chunks<'a>(
        &'a mut self,
        schema: &'a SqlIdent,
        hypertable: &'a str,
        drop_after: Duration,
    ) -> BoxFuture<'a, Result<Vec<Change>, Error>>;

    /// Goes on filling a new rollup with the rows that were there before it, for about 10 seconds.
    fn fill_rollup<'a>(
        &'a mut self,
        table: &'a Table,
        fill: &'a RollupFill,
    ) -> BoxFuture<'a, Result<FillProgress, Error>>;

    /// Up to where each partition has become rows of the table.
    fn positions<'a>(
        &'a mut self,
        table: &'a Table,
        topic: &'a TopicKey,
    ) -> BoxFuture<'a, Result<BTreeMap<i32, Position>, Error>>;

    /// What the last chunks of the table take, and what the server says of its memory. It looks at every chunk, so not at
    /// every look.
    fn chunk_sizes<'a>(&'a mut self, table: &'a Table) -> BoxFuture<'a, Result<ChunkSizes, Error>>;

    /// Drops the table with its positions and its marker, and its dead letters with theirs, as far as they are wanted gone
    /// and this pipeline created them; then the bookkeeping, if nothing else uses it. The schema stays. Deletes nothing and
    /// succeeds where there is no marker or another pipeline's.
    ///
    /// A table that stays has its positions: they say which records are rows of it. Of one that is somebody else's go this
    /// pipeline's feeds, and the dead letters only if nobody else feeds the table.
    fn delete_table<'a>(
        &'a mut self,
        table: &'a Table,
        pipeline: &'a PipelineId,
        wanted: TableDeletion,
    ) -> BoxFuture<'a, Result<Deleted, Error>>;

    /// Ends the session in good order: its connection may serve another one. That of a session that is dropped without it
    /// is closed.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What of a table shall go with its pipeline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableDeletion {
    /// The table, with its positions.
    pub table: bool,
    /// Its dead letters.
    pub dead_letters: bool,
}

/// What became of a [`TableDeletion`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Deleted {
    /// What is gone.
    pub changes: Vec<Change>,
    /// What stays because the pipeline adopted it, for a person.
    pub adopted: Vec<String>,
}

/// Up to where a partition has become rows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    /// The offset of the next record to take.
    pub next_offset: i64,
    /// The Kafka timestamp of the last record taken.
    pub last_timestamp: Option<Timestamp>,
}

/// What to do so that the table is as the spec says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TablePlan {
    /// The steps, in the order in which to make them.
    pub steps: Vec<TableStep>,
    /// The indexes to make after them, each apart.
    pub builds: Vec<IndexBuild>,
    /// The rollups to fill once that is done, each after the one that it is made from.
    pub fills: Vec<RollupFill>,
    /// What would delete data and waits for a person; each has a refusal too.
    pub held: Vec<Change>,
    /// What the spec asks for and is not done.
    pub refusals: Vec<Refusal>,
    /// What a person should know although nothing is wrong.
    pub notes: Vec<Note>,
    /// Whether there is more to plan once these steps are made: open a new session, observe and plan again.
    pub unfinished: bool,
    /// Whether the refusals stand before everything else, so that nothing was compared.
    pub is_refused: bool,
}

/// One step of a [`TablePlan`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableStep {
    /// What it changes, for logs, Events and messages; empty for the operator's own bookkeeping.
    pub changes: Vec<Change>,
    /// The SQL, one or more statements. Every name in it is quoted.
    pub sql: String,
}

/// An index over rows that are there. To read them all takes its time, so it is no step among others: what else is
/// locked would be locked as long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IndexBuild {
    /// The name of the index.
    pub index: String,
    /// What it changes, and the SQL: one statement.
    pub step: TableStep,
    /// How it is made.
    pub kind: BuildKind,
}

/// How an index over rows is made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BuildKind {
    /// Each chunk in a transaction of its own: who writes into one waits for no other, and who reads waits for none.
    PerChunk {
        /// The SQL for a server that lives in one process and cannot: it makes all in one transaction.
        whole: String,
    },
    /// All chunks at once, because whether it can be unique shows only in the end. Whoever writes waits.
    Unique {
        /// What to say where rows contradict it. Only the server knows, once it has looked at all of them.
        refusal: Refusal,
    },
    /// Not at all: what is left of it goes.
    Drop,
}

/// What became of an [`IndexBuild`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Built {
    /// It is there, or gone where that was wanted.
    Made,
    /// Rows contradict it.
    Contradicted,
    /// Another session makes an index of this table: an operator that was there before, or is still.
    Elsewhere,
    /// Somebody held a lock on the table or a chunk for longer than others shall wait behind it.
    Locked,
}
