//! The processor: Kafka → program → TimescaleDB, each record once.
//!
//! Two threads: this one polls Kafka, runs the program and fills a batch; the writer's copies the batch before.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use crds::worker::{KafkaConfig, PipelineId, ProcessorConfig};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
};
use snafu::{ResultExt, Snafu};
use tokio::{runtime, sync::mpsc::unbounded_channel};

use crate::{
    run::Context,
    secrets,
    sink::timescale::{
        connect::Connector,
        encode::RowEncoder,
        intake::Intake,
        metrics::ProcessorMetrics,
        readiness::Readiness,
        statements::Statements,
        writer::{PositionMirror, Writer},
    },
    source::kafka::{
        Source, assignment::Assignment, context::SourceContext, create_consumer, offsets::KafkaOffsets,
    },
    transform::Transform,
};

/// Why the processor ended before it was asked to.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The program of the configuration does not compile, though the operator compiled it before.
    #[snafu(display("failed to compile the program"))]
    Compile {
        /// What is wrong with it.
        source: program::CompileError,
    },
    /// A certificate or the password for Kafka is not mounted.
    #[snafu(display("failed to read the Secrets for Kafka"))]
    Secrets {
        /// Which.
        source: secrets::Error,
    },
    /// The Kafka client refuses its settings.
    #[snafu(display("failed to set up the Kafka consumer"))]
    Consumer {
        /// Which, and why.
        source: KafkaError,
    },
    /// The writer's thread or its runtime could not be started.
    #[snafu(display("failed to start the writer"))]
    Start {
        /// Why not.
        source: std::io::Error,
    },
    /// The writer's thread panicked.
    #[snafu(display("the writer crashed"))]
    Crashed,
}

/// Processes until `context.shutdown` is requested; blocks the calling thread.
pub fn run(
    pipeline: PipelineId,
    kafka: KafkaConfig,
    config: ProcessorConfig,
    context: Context,
) -> Result<(), Error> {
    let program = config.program.as_deref().map(program::compile).transpose().context(CompileSnafu)?;
    let transform = Transform { codec: config.codec, program };
    let encoder = RowEncoder::new(&config.table, config.accept_time);
    let assignment = Arc::new(Assignment::default());
    let readiness = Arc::new(Readiness::new(context.health.clone()));
    let metrics = ProcessorMetrics::new(&context.metrics);

    let access = context.secrets.kafka(&kafka).context(SecretsSnafu)?;
    let consumer = create_consumer(
        &access,
        &config.consumer_group,
        SourceContext {
            assignment: Arc::clone(&assignment),
            readiness: Arc::clone(&readiness),
            metrics: metrics.clone(),
            topic: kafka.topic.clone(),
        },
    )
    .context(ConsumerSnafu)?;
    let consumer = Arc::new(consumer);

    let writer = Writer {
        connector: Connector {
            secrets: context.secrets.clone(),
            tls: config.database_tls,
            namespace: pipeline.namespace,
        },
        statements: Statements::new(&config.table),
        table: config.table.name,
        topic_name: kafka.topic.clone(),
        topic: Box::new(KafkaOffsets { consumer: Arc::clone(&consumer), topic: kafka.topic.clone(), access }),
        mirror: Box::new(GroupOffsets { consumer: Arc::clone(&consumer), topic: kafka.topic }),
        start_from: config.start_from,
        assignment,
        readiness,
        metrics,
        shutdown: context.shutdown.clone(),
    };
    let (full_sender, full_receiver) = unbounded_channel();
    let (empty_sender, empty_receiver) = mpsc::channel();
    let writer_runtime = runtime::Builder::new_current_thread().enable_all().build().context(StartSnafu)?;
    let writer_thread = thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || writer_runtime.block_on(writer.run(full_receiver, empty_sender)))
        .context(StartSnafu)?;

    let mut intake = Intake::new(transform, encoder, full_sender, empty_receiver);
    let source = Source { consumer, health: context.health, shutdown: context.shutdown };
    let result = source.run(&mut intake).context(ConsumerSnafu);
    // Ends the writer after the transaction it is in. Dropping the consumer then leaves the group.
    drop(intake);
    writer_thread.join().map_err(|_| Error::Crashed)?;
    result
}

/// Shows positions as the offsets of the consumer group, for lag tools. Nothing reads them back.
struct GroupOffsets {
    consumer: Arc<BaseConsumer<SourceContext>>,
    topic: String,
}

impl PositionMirror for GroupOffsets {
    fn show(&self, positions: &[(i32, i64)]) {
        let mut offsets = TopicPartitionList::new();
        let added = positions
            .iter()
            .try_for_each(|(partition, offset)| {
                offsets.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))
            })
            .and_then(|()| self.consumer.commit(&offsets, CommitMode::Async));
        if let Err(error) = added {
            tracing::debug!(%error, "Failed to show the positions to Kafka");
        }
    }
}
