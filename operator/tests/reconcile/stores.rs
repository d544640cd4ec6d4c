//! A Kafka and a database in memory, behind the operator's own traits. What they observe is what was made.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use access::{database::DatabaseAccess, kafka::KafkaAccess};
use crds::{names::dead_letter_table, worker::PipelineId};
use futures::{FutureExt, future::BoxFuture};
use operator::{
    change::Change,
    kafka::{
        self, ExistingTopic, ObservedTopic, TopicAction, TopicAdmin, TopicKey, TopicSetting, TopicStep,
        Watermarks,
    },
    pipeline::{Index, SortOrder, SqlIdent, Table, TopicName},
    timescale::{
        self, Built, ChunkSizes, Databases, Deleted, Edition, FillProgress, IndexBuild, InstalledExtension,
        KnownRetention, ObservedColumn, ObservedExtension, ObservedFeed, ObservedHypertable, ObservedIndex,
        ObservedJobs, ObservedRelation, ObservedRollup, ObservedTable, ObservedView, ObservedWriter,
        Position, Retention, Rights, RollupFill, Session, TableDeletion, TablePlan, ViewKind,
    },
};

use tokio::sync::Notify;

use crate::api_server::Log;

/// Kafka with at most one topic.
#[derive(Clone, Default)]
pub struct FakeKafka(Arc<Mutex<KafkaState>>, Log);

#[derive(Default)]
struct KafkaState {
    is_down: bool,
    topic: Option<ExistingTopic>,
    watermark_reads: u32,
    is_empty: bool,
}

/// A database with at most one pipeline's table.
#[derive(Clone, Default)]
pub struct FakeDatabases(Arc<Mutex<DatabaseState>>, Log);

#[derive(Default)]
struct DatabaseState {
    is_down: bool,
    table: Option<Table>,
    retention: Option<Retention>,
    dead_letter_retention: Option<Retention>,
    topic_marker: Option<PipelineId>,
    topic_adopted: bool,
    positions: BTreeMap<i32, Position>,
    chunk_bytes: u64,
    chunk_measurements: u32,
    indexes: Vec<Index>,
    is_unique: bool,
    has_repeats: bool,
    index_barrier: Option<Arc<Notify>>,
    is_locked: bool,
    views: Vec<ObservedRollup>,
}

impl FakeKafka {
    pub fn new(log: Log) -> Self {
        Self(Arc::default(), log)
    }

    pub fn set_down(&self, is_down: bool) {
        self.0.lock().unwrap().is_down = is_down;
    }

    /// Somebody else makes the topic, or gives it other settings.
    pub fn make_topic(&self, config: &[(&str, &str)]) {
        let setting = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), TopicSetting { value: (*value).to_owned(), set_on_topic: true })
        };
        let config = Some(config.iter().map(setting).collect());
        self.0.lock().unwrap().topic = Some(ExistingTopic { partitions: 12, replication_factor: 3, config });
    }

    /// Whether the topic holds no record.
    pub fn set_empty(&self, is_empty: bool) {
        self.0.lock().unwrap().is_empty = is_empty;
    }

    pub fn watermark_reads(&self) -> u32 {
        self.0.lock().unwrap().watermark_reads
    }

    fn ask<T>(&self, answer: impl FnOnce(&mut KafkaState) -> T) -> Result<T, kafka::Error> {
        let mut state = self.0.lock().unwrap();
        if state.is_down {
            return Err(kafka::Error::Unreachable {
                action: "ask".to_owned(),
                bootstrap_servers: "kafka:9092".to_owned(),
                cause: kafka::Cause::Silence,
            });
        }
        Ok(answer(&mut state))
    }
}

impl TopicAdmin for FakeKafka {
    fn observe<'a>(
        &'a self,
        _: &'a KafkaAccess,
        _: &'a TopicName,
    ) -> BoxFuture<'a, Result<ObservedTopic, kafka::Error>> {
        let observed = self.ask(|state| ObservedTopic {
            cluster_id: "kafka-1".to_owned(),
            topic: state.topic.clone(),
            is_empty: false,
        });
        async { observed }.boxed()
    }

    fn apply<'a>(
        &'a self,
        _: &'a KafkaAccess,
        topic: &'a TopicName,
        step: &'a TopicStep,
    ) -> BoxFuture<'a, Result<(), kafka::Error>> {
        let setting = |(name, value): (&String, &String)| {
            (name.clone(), TopicSetting { value: value.clone(), set_on_topic: true })
        };
        let (partitions, replication_factor, config) = match &step.action {
            TopicAction::Create { partitions, replication_factor, config } => {
                (partitions, replication_factor, config)
            }
            TopicAction::AddPartitions { total } => {
                self.1.lock().unwrap().push(format!("kafka: {topic} has {total} partitions"));
                let result = self.ask(|state| state.topic.as_mut().unwrap().partitions = *total);
                return async { result }.boxed();
            }
            TopicAction::AlterConfig { config } => {
                self.1.lock().unwrap().push(format!("kafka: {topic} has {config:?}"));
                let result = self.ask(|state| {
                    let settings = state.topic.as_mut().unwrap().config.as_mut().unwrap();
                    settings.extend(config.iter().map(setting));
                });
                return async { result }.boxed();
            }
        };
        let made = ExistingTopic {
            partitions: *partitions,
            replication_factor: *replication_factor,
            config: Some(config.iter().map(setting).collect()),
        };
        self.1.lock().unwrap().push(format!("kafka: {topic} created"));
        let result = self.ask(|state| state.topic = Some(made));
        async { result }.boxed()
    }

    fn delete<'a>(
        &'a self,
        _: &'a KafkaAccess,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<(), kafka::Error>> {
        self.1.lock().unwrap().push(format!("kafka: {topic} deleted"));
        let result = self.ask(|state| state.topic = None);
        async { result }.boxed()
    }

    fn delete_group<'a>(
        &'a self,
        _: &'a KafkaAccess,
        group: &'a str,
    ) -> BoxFuture<'a, Result<Option<Change>, kafka::Error>> {
        self.1.lock().unwrap().push(format!("kafka: group {group} deleted"));
        let result = self.ask(|_| Some(Change::new(format!("consumer group {group}"), "", group, "")));
        async { result }.boxed()
    }

    fn watermarks<'a>(
        &'a self,
        _: &'a KafkaAccess,
        _: &'a TopicName,
    ) -> BoxFuture<'a, Result<BTreeMap<i32, Watermarks>, kafka::Error>> {
        let result = self.ask(|state| {
            state.watermark_reads += 1;
            let low = if state.is_empty { 1234 } else { 0 };
            let empty = Watermarks::default();
            BTreeMap::from([(0, Watermarks { low, high: 1234 }), (1, empty), (2, empty)])
        });
        async { result }.boxed()
    }
}

impl FakeDatabases {
    pub fn new(log: Log) -> Self {
        Self(Arc::default(), log)
    }

    pub fn set_down(&self, is_down: bool) {
        self.0.lock().unwrap().is_down = is_down;
    }

    /// Whether rows share what would be their key.
    pub fn set_repeats(&self, has_repeats: bool) {
        self.0.lock().unwrap().has_repeats = has_repeats;
    }

    /// Indexes over rows are not made until this is notified.
    pub fn hold_indexes(&self) -> Arc<Notify> {
        Arc::clone(self.0.lock().unwrap().index_barrier.insert(Arc::default()))
    }

    /// Whether somebody holds a lock on the table.
    pub fn set_locked(&self, is_locked: bool) {
        self.0.lock().unwrap().is_locked = is_locked;
    }

    /// Everything before this offset of the first partition is rows.
    pub fn set_position(&self, next_offset: i64) {
        let position = Position { next_offset, last_timestamp: None };
        self.0.lock().unwrap().positions.insert(0, position);
    }

    /// So much is in each full chunk from now on. Answers how often chunks were measured.
    pub fn set_chunk_bytes(&self, bytes: u64) -> u32 {
        let mut state = self.0.lock().unwrap();
        state.chunk_bytes = bytes;
        state.chunk_measurements
    }

    /// Somebody writes another retention into the bookkeeping.
    pub fn set_retention(&self, days: u64) {
        let retention = Retention::For(Duration::from_secs(days * 86_400));
        self.0.lock().unwrap().retention = Some(retention);
    }

    /// Somebody makes a view of their own.
    pub fn put_view(&self, name: &str) {
        let view = ObservedView {
            kind: ViewKind::View,
            owned: true,
            columns: Vec::new(),
            readers: Vec::new(),
            dependents: Vec::new(),
        };
        let found = ObservedRollup { name: name.to_owned(), marker: None, view: Some(view) };
        self.0.lock().unwrap().views.push(found);
    }

    pub fn give_topic_to(&self, name: &str) {
        self.0.lock().unwrap().topic_marker.as_mut().unwrap().name = name.to_owned();
    }

    fn note(&self, entry: String) {
        self.1.lock().unwrap().push(format!("database: {entry}"));
    }
}

impl Databases for FakeDatabases {
    fn open<'a>(
        &'a self,
        _: &'a DatabaseAccess,
    ) -> BoxFuture<'a, Result<Box<dyn Session>, timescale::Error>> {
        let answer: Result<Box<dyn Session>, _> = if self.0.lock().unwrap().is_down {
            Err(timescale::Error::Unreachable {
                action: "connect".to_owned(),
                database: "timescaledb:5432/iot".to_owned(),
                explanation: "look whether it runs".to_owned(),
            })
        } else {
            Ok(Box::new(self.clone()))
        };
        async { answer }.boxed()
    }
}

impl Session for FakeDatabases {
    fn observe<'a>(
        &'a mut self,
        _: &'a Table,
        topic: Option<&'a TopicKey>,
    ) -> BoxFuture<'a, Result<ObservedTable, timescale::Error>> {
        let state = self.0.lock().unwrap();
        let mut observed = observed(state.table.as_ref(), state.topic_marker.clone());
        observed.topic_adopted = state.topic_adopted;
        observed.retention.applied = state.retention;
        observed.dead_letter_retention.applied = state.dead_letter_retention;
        observed.rollups.clone_from(&state.views);
        if let (true, Some(table), Some(relation)) = (state.is_unique, &state.table, &mut observed.table) {
            let unique_by = table.unique_by.iter().map(ToString::to_string).collect();
            relation.indexes.push(ObservedIndex {
                name: "key".to_owned(),
                is_valid: true,
                columns: Vec::new(),
                unique_by,
            });
        }
        if let Some(relation) = &mut observed.table {
            relation.indexes.extend(state.indexes.iter().map(|index| ObservedIndex {
                name: "index".to_owned(),
                is_valid: true,
                columns: index.columns.iter().map(|(name, order)| (name.to_string(), *order)).collect(),
                unique_by: Vec::new(),
            }));
        }
        let pipeline = observed.marker.clone();
        observed.feed = topic.map(|topic| ObservedFeed { topic: topic.clone(), pipeline });
        async { Ok(observed) }.boxed()
    }

    fn apply<'a>(
        &'a mut self,
        table: &'a Table,
        plan: &'a TablePlan,
    ) -> BoxFuture<'a, Result<(), timescale::Error>> {
        self.note(format!("{table} made"));
        let mut state = self.0.lock().unwrap();
        if plan.builds.is_empty() {
            state.is_unique = true;
            state.indexes = table.wanted.as_ref().unwrap().indexes.clone();
        }
        state.table = Some(table.clone());
        if plan.held.is_empty() {
            let retention =
                |drop_after: Option<Duration>| Some(drop_after.map_or(Retention::ForEver, Retention::For));
            state.retention = retention(table.wanted.as_ref().unwrap().drop_after);
            state.dead_letter_retention = retention(table.dead_letters_drop_after);
        }
        async { Ok(()) }.boxed()
    }

    fn build_index<'a>(
        &'a mut self,
        table: &'a Table,
        build: &'a IndexBuild,
    ) -> BoxFuture<'a, Result<Built, timescale::Error>> {
        async move {
            let barrier = self.0.lock().unwrap().index_barrier.clone();
            if let Some(barrier) = barrier {
                barrier.notified().await;
            }
            if self.0.lock().unwrap().is_locked {
                return Ok(Built::Locked);
            }
            self.note(format!("index {} made", build.index));
            let mut state = self.0.lock().unwrap();
            let built = if state.has_repeats { Built::Contradicted } else { Built::Made };
            state.is_unique = built == Built::Made;
            state.indexes = table.wanted.as_ref().unwrap().indexes.clone();
            state.table = Some(table.clone());
            Ok(built)
        }
        .boxed()
    }

    fn claim_topic<'a>(
        &'a mut self,
        _: &'a SqlIdent,
        pipeline: &'a PipelineId,
        topic: &'a TopicKey,
        is_adopted: bool,
    ) -> BoxFuture<'a, Result<(), timescale::Error>> {
        let verb = if is_adopted { "adopted" } else { "claimed" };
        self.note(format!("topic {} {verb}", topic.topic));
        let mut state = self.0.lock().unwrap();
        (state.topic_marker, state.topic_adopted) = (Some(pipeline.clone()), is_adopted);
        async { Ok(()) }.boxed()
    }

    fn release_topic<'a>(
        &'a mut self,
        _: &'a SqlIdent,
        _: &'a PipelineId,
        topic: &'a TopicKey,
    ) -> BoxFuture<'a, Result<(), timescale::Error>> {
        self.note(format!("topic {} released", topic.topic));
        self.0.lock().unwrap().topic_marker = None;
        async { Ok(()) }.boxed()
    }

    fn drop_expired_chunks<'a>(
        &'a mut self,
        _: &'a SqlIdent,
        hypertable: &'a str,
        drop_after: Duration,
    ) -> BoxFuture<'a, Result<Vec<Change>, timescale::Error>> {
        self.note(format!(
            "chunks of {hypertable} older than {} days dropped",
            drop_after.as_secs() / 86_400
        ));
        async { Ok(Vec::new()) }.boxed()
    }

    fn chunk_sizes<'a>(&'a mut self, _: &'a Table) -> BoxFuture<'a, Result<ChunkSizes, timescale::Error>> {
        let mut state = self.0.lock().unwrap();
        state.chunk_measurements += 1;
        let sizes = ChunkSizes {
            number: 100,
            last_full: vec![state.chunk_bytes; 3],
            shared_buffers: 4 << 30,
            effective_cache_size: 0,
        };
        async { Ok(sizes) }.boxed()
    }

    fn fill_rollup<'a>(
        &'a mut self,
        _: &'a Table,
        fill: &'a RollupFill,
    ) -> BoxFuture<'a, Result<FillProgress, timescale::Error>> {
        self.note(format!("rollup {} filled", fill.name));
        async { Ok(FillProgress::CaughtUp) }.boxed()
    }

    fn positions<'a>(
        &'a mut self,
        _: &'a Table,
        _: &'a TopicKey,
    ) -> BoxFuture<'a, Result<BTreeMap<i32, Position>, timescale::Error>> {
        let positions = self.0.lock().unwrap().positions.clone();
        async { Ok(positions) }.boxed()
    }

    fn delete_table<'a>(
        &'a mut self,
        table: &'a Table,
        _: &'a PipelineId,
        wanted: TableDeletion,
    ) -> BoxFuture<'a, Result<Deleted, timescale::Error>> {
        let mut deleted = Deleted::default();
        let tables =
            [(wanted.dead_letters, format!("{table}_dead_letters")), (wanted.table, table.to_string())];
        for (_, name) in tables.into_iter().filter(|(is_wanted, _)| *is_wanted) {
            self.note(format!("{name} deleted"));
            deleted.changes.push(Change::new(format!("table {name}"), "", name, ""));
        }
        if wanted.table {
            self.0.lock().unwrap().table = None;
        }
        async { Ok(deleted) }.boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

/// A database of the Apache-2 edition in which `table` was made as it was wanted then.
fn observed(table: Option<&Table>, topic_marker: Option<PipelineId>) -> ObservedTable {
    let pipeline = PipelineId {
        cluster_name: "test".to_owned(),
        namespace: "plant-7".to_owned(),
        name: "line".to_owned(),
    };
    let column = |name: &str, sql_type: &str, nullable: bool| ObservedColumn {
        name: name.to_owned(),
        sql_type: sql_type.to_owned(),
        nullable,
        has_default: false,
        is_generated: false,
    };
    let relation = |time_column: &str, chunk_interval: Duration, columns, indexes| ObservedRelation {
        is_table: true,
        owned: true,
        hypertable: Some(ObservedHypertable {
            time_column: time_column.to_owned(),
            chunk_interval: Some(chunk_interval),
            has_chunks: true,
        }),
        columns,
        indexes,
        retention: None,
        columnstore: None,
        columnstore_policy: None,
    };
    ObservedTable {
        jobs: ObservedJobs::default(),
        server_version: "17.5".to_owned(),
        database: "iot".to_owned(),
        role: "app".to_owned(),
        extension: ObservedExtension {
            available: true,
            trusted: true,
            installed: Some(InstalledExtension {
                version: "2.19.3".to_owned(),
                schema: "public".to_owned(),
                edition: Edition::Apache2,
            }),
        },
        rights: Rights {
            superuser: false,
            create_in_database: true,
            create_in_schema: true,
            ..Rights::default()
        },
        schema_exists: table.is_some(),
        bookkeeping_version: if table.is_some() { 5 } else { 0 },
        marker: table.map(|_| pipeline.clone()),
        dead_letter_marker: table.map(|_| pipeline),
        retention: KnownRetention::default(),
        dead_letter_retention: KnownRetention::default(),
        topic_marker,
        topic_adopted: false,
        feed: None,
        writer: ObservedWriter { exists: true, lacks: Vec::new() },
        table: table.map(|table| {
            let columns = table
                .columns
                .iter()
                .map(|one| column(one.name.as_str(), one.column_type.sql(), one.nullable))
                .collect();
            relation(
                table.time_column.as_str(),
                table.wanted.as_ref().unwrap().chunk_interval,
                columns,
                Vec::new(),
            )
        }),
        dead_letters: table.map(|table| {
            let columns = [
                ("time", "timestamp with time zone", false),
                ("reason", "text", false),
                ("stage", "text", false),
                ("error", "text", false),
                ("topic", "text", false),
                ("partition", "integer", false),
                ("offset", "bigint", false),
                ("key", "bytea", true),
                ("headers", "jsonb", true),
                ("payload", "bytea", true),
                ("payload_bytes", "bigint", false),
                ("payload_sha256", "bytea", false),
            ];
            let index = ObservedIndex {
                name: dead_letter_table(table.name.as_str()),
                is_valid: true,
                columns: vec![("time".to_owned(), SortOrder::Descending)],
                unique_by: Vec::new(),
            };
            relation(
                "time",
                Duration::from_secs(7 * 86_400),
                columns.map(|(name, sql_type, nullable)| column(name, sql_type, nullable)).into(),
                vec![index],
            )
        }),
        rollups: Vec::new(),
    }
}
