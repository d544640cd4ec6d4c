//! The processor: Kafka → program → TimescaleDB, each record once.
//!
//! Two threads: this one polls Kafka, runs the program and fills a batch; the writer's copies the batch before.
//!
//! A Kafka client keeps the certificates and the password that it was made with. Where the Secrets have changed, the
//! clients go, after the transaction they are in, and others with the new ones go on at the stored positions.

use std::{
    cell::Cell,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use access::kafka::KafkaAccess;
use crds::worker::{KafkaConfig, PipelineId, ProcessorConfig, WorkerProblem};
use program::TopicWriter;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
};
use snafu::{ResultExt, Snafu};
use tokio::{runtime, sync::mpsc::unbounded_channel};

use crate::{
    health::problem,
    run::Context,
    shutdown,
    sink::timescale::{
        breaker::Breaker,
        connect::Connector,
        encode::RowEncoder,
        intake::{Batches, Intake},
        limit::RowLimit,
        metrics::ProcessorMetrics,
        readiness::Readiness,
        repeats::Repeats,
        statements::Statements,
        unmapped::UnmappedCounter,
        writer::{PositionMirror, Writer},
    },
    source::kafka::{
        Source, assignment::Assignment, context::SourceContext, create_consumer, offsets::KafkaOffsets,
    },
    suspicion::Suspicion,
    telemetry::chain,
    transform::Transform,
    waits::Waits,
};

/// How often to look whether the clients are to be replaced.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The pause before clients are made again that could not be made.
const RETRY: Duration = Duration::from_secs(5);

/// How often a wait says that the worker is alive.
const TURN: Duration = Duration::from_millis(50);

/// Why the processor ended before it was asked to.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The program of the configuration does not compile, though the operator compiled it before.
    #[snafu(display("failed to compile the program"))]
    Compile {
        /// What is wrong with it.
        source: program::CompileError,
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
    let topic_writer = if config.has_bridge { TopicWriter::Bridge } else { TopicWriter::Others };
    let program = config.program.as_deref().map(|source| program::compile(source, topic_writer));
    let transform = Transform { codec: config.codec, program: program.transpose().context(CompileSnafu)? };
    let connector = Connector {
        secrets: context.secrets.clone(),
        tls: config.database_tls,
        namespace: pipeline.namespace,
    };
    let readiness = Arc::new(Readiness::new(context.health.clone()));
    let metrics = ProcessorMetrics::new(&context.metrics);
    let unmapped = Arc::new(UnmappedCounter::new(context.health.clone()));
    Processor { kafka, config, context, transform, connector, readiness, metrics, unmapped }.run()
}

/// What stays while clients come and go.
struct Processor {
    kafka: KafkaConfig,
    config: ProcessorConfig,
    context: Context,
    transform: Transform,
    connector: Connector,
    readiness: Arc<Readiness>,
    metrics: ProcessorMetrics,
    unmapped: Arc<UnmappedCounter>,
}

impl Processor {
    fn run(&self) -> Result<(), Error> {
        let mut suspicion = Suspicion::open(&self.context.state);
        while !self.context.shutdown.is_requested() {
            let access = match self.context.secrets.kafka(&self.kafka) {
                Ok(access) => access,
                Err(error) => {
                    self.wait(problem("SecretInvalid", chain(&error)));
                    continue;
                }
            };
            let outcome;
            (outcome, suspicion) = self.process(access, suspicion)?;
            if let Err(error) = outcome {
                self.wait(refused_settings(&error));
            }
        }
        suspicion.end();
        Ok(())
    }

    /// Processes with one consumer and one writer until these are to go. The inner error is that of a Kafka client
    /// which refuses its settings.
    fn process(
        &self,
        access: KafkaAccess,
        suspicion: Suspicion,
    ) -> Result<(Result<(), KafkaError>, Suspicion), Error> {
        self.readiness.rejoin();
        let assignment = Arc::new(Assignment::default());
        let source_context = SourceContext::new(
            Arc::clone(&assignment),
            Arc::clone(&self.readiness),
            self.metrics.clone(),
            &self.kafka,
        );
        let consumer = match create_consumer(&access, &self.config.consumer_group, source_context) {
            Ok(consumer) => Arc::new(consumer),
            Err(error) => return Ok((Err(error), suspicion)),
        };
        let (end, ended) = shutdown::channel();
        let limit = Arc::new(RowLimit::default());
        let waits = Arc::new(Waits::default());
        self.context.health.set_waits(Arc::clone(&waits));
        let repeats = Repeats::new(self.transform.clone(), &self.config.table);
        let keeps_messages = !self.config.table.unique_by.is_empty() && repeats.need_messages();
        let writer = Writer {
            connector: self.connector.clone(),
            statements: Statements::new(&self.config.table),
            repeats,
            table: self.config.table.name.clone(),
            topic_name: self.kafka.topic.clone(),
            topic: Box::new(KafkaOffsets {
                consumer: Arc::clone(&consumer),
                topic: self.kafka.topic.clone(),
                access: access.clone(),
            }),
            mirror: Box::new(GroupOffsets {
                consumer: Arc::clone(&consumer),
                topic: self.kafka.topic.clone(),
            }),
            start_from: self.config.start_from.clone(),
            on_offset_lost: self.config.on_offset_lost,
            assignment,
            limit: Arc::clone(&limit),
            readiness: Arc::clone(&self.readiness),
            metrics: self.metrics.clone(),
            unmapped: Arc::clone(&self.unmapped),
            waits,
            shutdown: ended,
        };
        let (full_sender, full_receiver) = unbounded_channel();
        let (empty_sender, empty_receiver) = mpsc::channel();
        let writer_runtime =
            runtime::Builder::new_current_thread().enable_all().build().context(StartSnafu)?;
        let writer_thread = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || writer_runtime.block_on(writer.run(full_receiver, empty_sender)))
            .context(StartSnafu)?;

        let encoder = RowEncoder::new(&self.config.table, self.config.accept_time.clone());
        let breaker = Breaker::new(self.config.max_rejected_percent);
        let mut intake = Intake::new(
            self.transform.clone(),
            encoder,
            breaker,
            suspicion,
            Arc::clone(&self.readiness),
            keeps_messages,
            Batches { full: full_sender, empty: empty_receiver, limit },
        );
        let is_over = self.is_over(access, Arc::clone(&consumer));
        let source = Source { consumer, health: self.context.health.clone(), is_over };
        let result = source.run(&mut intake);
        // Ends the writer after the transaction it is in. Dropping the consumer then leaves the group.
        end.request();
        let suspicion = intake.end();
        self.join(writer_thread)?;
        Ok((result, suspicion))
    }

    /// Tells when the worker stops, when the Secrets are other ones than `access` was made of, and when Kafka refuses
    /// what it may allow by now or has not been there for long.
    fn is_over(
        &self,
        access: KafkaAccess,
        consumer: Arc<BaseConsumer<SourceContext>>,
    ) -> Box<dyn Fn() -> bool> {
        let Context { shutdown, secrets, .. } = self.context.clone();
        let kafka = self.kafka.clone();
        let looked = Cell::new(Instant::now());
        Box::new(move || {
            if shutdown.is_requested() {
                return true;
            }
            if looked.get().elapsed() < LOOK_AGAIN {
                return false;
            }
            looked.set(Instant::now());
            // A Secret that cannot be read now does not end a connection that works.
            let is_rotated = secrets.kafka(&kafka).is_ok_and(|current| current != access);
            if is_rotated {
                tracing::info!("The Secrets for Kafka have changed; connecting anew");
            }
            let is_cut_off = consumer.context().is_cut_off();
            if is_cut_off {
                tracing::info!("Kafka has not been there for long; trying with a new client");
            }
            is_rotated || is_cut_off || consumer.context().is_refused()
        })
    }

    fn join(&self, writer: JoinHandle<()>) -> Result<(), Error> {
        while !writer.is_finished() {
            self.context.health.turned();
            thread::sleep(TURN);
        }
        writer.join().map_err(|_| Error::Crashed)
    }

    fn wait(&self, problem: WorkerProblem) {
        self.context.health.set_not_ready(problem);
        let begun = Instant::now();
        while begun.elapsed() < RETRY && !self.context.shutdown.is_requested() {
            self.context.health.turned();
            thread::sleep(TURN);
        }
    }
}

/// Names the setting and never its value, which may be a secret.
fn refused_settings(error: &KafkaError) -> WorkerProblem {
    let what = match error {
        KafkaError::ClientConfig(_, _, setting, _) => setting.clone(),
        KafkaError::ClientCreation(what) => what.clone(),
        _ => "a setting".to_owned(),
    };
    problem("KafkaConfigInvalid", format!("The Kafka client refuses its settings: {what}. Check spec.kafka."))
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
