//! What there is of a pipeline in Kafka and in the database. Reads only.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crds::{
    pipeline::{Management, Mode},
    status::LagStatus,
    worker::RoleConfig,
};
use futures::future;
use jiff::Timestamp;
use kube::runtime::reflector::Store;

use crate::{
    change::Note,
    context::Context,
    error::Error,
    kafka::{self, ObservedTopic},
    memory::{PipelineKey, key_of},
    pipeline::{Pipeline, Topic},
    timescale::{self, ObservedRelation, ObservedTable, Session},
};

/// How often the lag is read for the status.
const LAG_PERIOD: Duration = Duration::from_secs(60);

/// How often chunks are measured; they become full more slowly.
const CHUNKS_PERIOD: Duration = Duration::from_secs(3600);

/// What there is in Kafka and in the database.
pub struct Stores {
    /// The topic, or why it could not be looked at.
    pub topic: Result<ObservedTopic, kafka::Error>,
    /// Another pipeline that manages the topic too, and came first.
    pub topic_manager: Option<PipelineKey>,
    /// The table, or why it could not be looked at.
    pub table: Result<ObservedTable, timescale::Error>,
    /// How far the table is behind, as it was read within the last minute or so.
    pub lag: Option<LagStatus>,
    /// What a person should know of the table's chunk interval, as it was measured within the last hour or so.
    pub chunk_advice: Option<Note>,
    /// When expired chunks were last dropped, by the hypertable's name.
    pub chunks_dropped_at: BTreeMap<String, Timestamp>,
}

/// Looks at the topic and at the table, and now and then at the lag between them. Gives back the connection to the
/// database too, for `apply`.
pub async fn fetch_stores(pipeline: &Pipeline, context: &Context) -> (Stores, Option<Box<dyn Session>>) {
    let remembered = context.memory.recall(&pipeline.key());
    let (topic, session) =
        future::join(fetch_topic(pipeline, context), context.databases.open(&pipeline.database)).await;
    let topic_key = topic.as_ref().ok().map(|observed| observed.key(&pipeline.topic.name));
    let (table, mut session) = match session {
        Ok(mut session) => match session.observe(&pipeline.table, topic_key.as_ref()).await {
            Ok(table) => (Ok(table), Some(session)),
            Err(error) => (Err(error), None),
        },
        Err(error) => (Err(error), None),
    };
    let topic_manager = topic_key.zip(table.as_ref().ok()).and_then(|(topic, table)| {
        context.memory.update(&pipeline.key(), |remembered| remembered.topic_is_known = true);
        if pipeline.mode == Mode::Observe {
            // It takes no topic from others, nor leaves its own to them.
            context.memory.other_manager(&pipeline.key(), &topic)
        } else if pipeline.topic.wanted.is_some() && table.topic_marker.as_ref() == Some(&pipeline.id) {
            context.memory.claim_topic(&pipeline.key(), &topic)
        } else {
            let manager = context.memory.disclaim_topic(&pipeline.key(), &topic);
            let would_adopt = table.topic_marker.is_none()
                && pipeline.topic.wanted.as_ref().is_some_and(|wanted| wanted.adopt);
            manager.or_else(|| would_adopt.then(|| unknown_manager(pipeline, context)).flatten())
        }
    });
    let chunk_advice = match remembered.chunk_advice {
        Some((measured_at, generation, advice))
            if generation == pipeline.generation && measured_at.elapsed() < CHUNKS_PERIOD =>
        {
            advice
        }
        before => {
            let before = before.and_then(|(_, _, advice)| advice);
            fetch_chunk_advice(pipeline, context, &table, before, session.as_deref_mut()).await
        }
    };
    let mut stores = Stores {
        topic,
        topic_manager,
        table,
        lag: None,
        chunk_advice,
        chunks_dropped_at: remembered.chunks_dropped_at,
    };
    stores.lag = match remembered.lag {
        // A topic that is to grow waits for the moment at which there is none, and whoever scales for the positions.
        Some((read_at, lag))
            if read_at.elapsed() < LAG_PERIOD
                && stores.ordered_growth(pipeline).is_none()
                && !context.scaling.lacks_positions(&pipeline.key()) =>
        {
            Some(lag)
        }
        _ => fetch_lag(pipeline, context, &stores, session.as_deref_mut()).await,
    };
    (stores, session)
}

/// Another pipeline that says that it manages this topic and was not looked at since the operator started: whether it has marked
/// the topic as its own may be noted in another database.
fn unknown_manager(pipeline: &Pipeline, context: &Context) -> Option<PipelineKey> {
    let pipelines = context.watched.get()?.iter().flat_map(Store::state);
    pipelines
        .filter(|object| {
            let key = key_of(object.as_ref());
            key != pipeline.key() && !context.memory.recall(&key).topic_is_known
        })
        .find_map(|object| {
            let object = object.unpack().0.ok()?;
            let topic = &object.spec.kafka.topic;
            let says_so = object.spec.mode == Mode::Enforce
                && topic.management == Management::Managed
                && topic.name == pipeline.topic.name.as_str();
            says_so.then(|| key_of(&object))
        })
}

/// Where something would delete records, it matters whether there are any.
async fn fetch_topic(pipeline: &Pipeline, context: &Context) -> Result<ObservedTopic, kafka::Error> {
    let Topic { kafka, name, .. } = &pipeline.topic;
    let mut observed = context.kafka.observe(kafka, name).await?;
    if kafka::deletes_records(&pipeline.topic, &observed) {
        let watermarks = context.kafka.watermarks(kafka, name).await;
        observed.is_empty = watermarks
            .is_ok_and(|partitions| partitions.values().all(|partition| partition.low == partition.high));
    }
    Ok(observed)
}

/// The lag; `None` where it cannot be told now, which is tried again next time.
async fn fetch_lag(
    pipeline: &Pipeline,
    context: &Context,
    stores: &Stores,
    session: Option<&mut (dyn Session + '_)>,
) -> Option<LagStatus> {
    let (topic, table) = (stores.topic.as_ref().ok()?, stores.table.as_ref().ok()?);
    let session = session?;
    let RoleConfig::Processor(processor) = &pipeline.processor.config.role else { return None };
    if topic.topic.is_none() || !table.is_hypertable() || table.bookkeeping_version == 0 {
        return None;
    }
    let topic_key = topic.key(&pipeline.topic.name);
    let watermarks = context.kafka.watermarks(&pipeline.topic.kafka, &pipeline.topic.name).await;
    let positions = session.positions(&pipeline.table, &topic_key).await;
    let (watermarks, positions) = match (watermarks, positions) {
        (Ok(watermarks), Ok(positions)) => (watermarks, positions),
        (watermarks, positions) => {
            tracing::warn!(
                namespace = pipeline.id.namespace,
                pipeline = pipeline.id.name,
                kafka = watermarks.err().map(|error| error.to_string()),
                database = positions.err().map(|error| error.to_string()),
                "The lag could not be read"
            );
            return None;
        }
    };
    let offsets = positions.iter().map(|(partition, position)| (*partition, position.next_offset)).collect();
    context.scaling.note_positions(&pipeline.key(), offsets);
    let lag = timescale::lag(&watermarks, &positions, &processor.start_from, Timestamp::now());
    context.memory.update(&pipeline.key(), |remembered| remembered.lag = Some((Instant::now(), lag.clone())));
    Some(lag)
}

async fn fetch_chunk_advice(
    pipeline: &Pipeline,
    context: &Context,
    table: &Result<ObservedTable, timescale::Error>,
    before: Option<Note>,
    session: Option<&mut (dyn Session + '_)>,
) -> Option<Note> {
    let relation = table.as_ref().ok().and_then(|observed| observed.table.as_ref());
    let has_chunks = relation.is_some_and(ObservedRelation::has_chunks);
    let session = session.filter(|_| has_chunks && pipeline.table.wanted.is_some())?;
    let advice = match session.chunk_sizes(&pipeline.table).await {
        Ok(sizes) => timescale::advise_chunk_interval(&pipeline.table, &sizes, before.is_some()),
        Err(error) => {
            tracing::warn!(
                namespace = pipeline.id.namespace,
                pipeline = pipeline.id.name,
                database = error.to_string(),
                "The chunks could not be measured"
            );
            return before;
        }
    };
    let now = (Instant::now(), pipeline.generation, advice.clone());
    context.memory.update(&pipeline.key(), |remembered| remembered.chunk_advice = Some(now));
    advice
}

impl Stores {
    /// How many partitions the topic has and shall have, where it is this pipeline's, is to grow, and the order of a key
    /// must be kept.
    pub fn ordered_growth(&self, pipeline: &Pipeline) -> Option<(i32, i32)> {
        let (topic, table) = (self.topic.as_ref().ok()?, self.table.as_ref().ok()?);
        let wanted = pipeline.topic.wanted.as_ref()?;
        let is_marked = match &table.topic_marker {
            Some(owner) => *owner == pipeline.id,
            None => wanted.adopt,
        };
        let is_ours = is_marked && self.topic_manager.is_none();
        let allow_reorder = wanted.allow_reorder;
        topic.growth(&pipeline.topic).filter(|_| is_ours && !allow_reorder)
    }

    /// Why one of them could not be looked at, if so.
    pub fn into_failure(self) -> Option<Error> {
        let database = self.table.err().map(|source| Error::Database { source });
        database.or(self.topic.err().map(|source| Error::Kafka { source }))
    }
}
