//! Fourth step: makes the plan true. Decides nothing but what failed; what fails stops only what needs it.
//!
//! Stores before workers: first the table with its bookkeeping, then the topic, whose marker is written there
//! before it is created, then the workers that expect both.

mod indexes;
mod workers;

use std::{mem, time::Duration};

use crds::{IoTPipeline, IoTPipelineStatus, status::Reason};
use jiff::Timestamp;

pub use indexes::IndexBuilds;
pub use workers::{WorkerOutcome, removal_of};
use workers::{apply_worker, remove_orphans, remove_stranded};

use super::{fetch::Stores, plan::Plan, sessions::noted_sessions, write};
use crate::{
    change::{Change, Note, Refusal},
    context::Context,
    error::Error,
    kafka::{self, TopicKey, TopicPlan},
    pipeline::Pipeline,
    telemetry::chain,
    timescale::{self, FillProgress, IndexBuild, RollupFill, Session, TablePlan},
};

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was changed outside Kubernetes, and what was undone in it of what somebody did by hand.
    pub changes: Vec<Change>,
    /// Why the table is not as the spec says; empty where it is.
    pub table_problems: Vec<Refusal>,
    /// What a person should know of the table although it is as the spec says, as far as it can be.
    pub table_notes: Vec<Note>,
    /// Why the topic is not as the spec says; empty where it is.
    pub topic_problems: Vec<Refusal>,
    /// The bridge; `None` where the pipeline has none.
    pub bridge: Option<WorkerOutcome>,
    /// The processor.
    pub processor: WorkerOutcome,
    /// The status with the number of sessions that was noted in it beforehand, where there had to be.
    pub noted: Option<IoTPipelineStatus>,
    /// How many sessions the broker may have of bridges that share their subscriptions.
    pub sessions: Option<i32>,
    /// Whether a step has only made room for the next: look again at once.
    pub unfinished: bool,
    /// Whether bridges are waited for: look again soon, and later and later.
    pub bridges_are_changing: bool,
    /// What the spec asks for and was not done; `None` where that is not known.
    pub pending: Option<Vec<Change>>,
    /// What of topic and table waits for approval, all else of them being done; `None` where something failed or is not
    /// known.
    pub held: Option<Vec<Change>>,
    /// What failed and shall be tried again; the first one where there are several.
    pub failure: Option<Error>,
}

/// Makes the plan true as far as possible.
///
/// # Errors
/// Fails, and does nothing else, where the finalizers or the number of sessions cannot be written: nothing is created that
/// could not be cleaned up.
pub async fn apply(
    plan: Plan,
    pipeline: &Pipeline,
    object: &IoTPipeline,
    stores: &Stores,
    mut session: Option<Box<dyn Session>>,
    context: &Context,
) -> Result<Outcome, Error> {
    if let Some(finalizers) = &plan.finalizers {
        write::write_finalizers(context, &object.metadata, finalizers).await?;
    }
    let noted = match plan.sessions.as_ref().filter(|plan| plan.meanwhile > noted_sessions(object)) {
        Some(sessions) => Some(write::note_sessions(context, object, sessions.meanwhile).await?),
        None => None,
    };
    let mut outcome = Outcome {
        noted,
        pending: plan.held(),
        unfinished: plan.table.as_ref().is_some_and(|table| table.unfinished)
            // Messages wait.
            || plan.bridge.as_ref().is_some_and(|bridge| bridge.hold.is_some()),
        ..Outcome::default()
    };
    let fills = plan.table.as_ref().map(|table| table.fills.clone()).unwrap_or_default();
    let builds =
        apply_table(plan.table, pipeline, stores, context, session.as_deref_mut(), &mut outcome).await;
    fill_rollups(fills, pipeline, session.as_deref_mut(), &mut outcome).await;
    for (hypertable, drop_after) in plan.drop_expired_chunks {
        let session = session.as_deref_mut();
        drop_expired_chunks(hypertable, drop_after, pipeline, context, session, &mut outcome).await;
    }
    apply_topic(plan.topic, pipeline, stores, context, session.as_deref_mut(), &mut outcome).await;
    if let Some(session) = session {
        session.close().await;
    }
    if let Some(builds) = builds {
        indexes::build_indexes(builds, pipeline, context, &mut outcome).await;
    }

    let (topic_fits, table_fits) = (outcome.topic_fits(), outcome.table_fits());
    if let Some(bridge) = plan.bridge {
        let bridge = apply_worker(bridge, topic_fits, pipeline, context, &mut outcome).await;
        outcome.sessions = plan.sessions.as_ref().and_then(|sessions| sessions.after(bridge.is_current));
        outcome.bridge = Some(bridge);
    }
    outcome.bridges_are_changing = plan.sessions.is_some_and(|sessions| sessions.are_changing);
    outcome.processor =
        apply_worker(plan.processor, topic_fits && table_fits, pipeline, context, &mut outcome).await;
    remove_stranded(&plan.stranded, context, &mut outcome).await;
    remove_orphans(&plan.orphans, pipeline, context, &mut outcome).await;
    Ok(outcome)
}

impl Outcome {
    /// Whether workers may rely on the topic. A change of it that is refused for good (fewer partitions) or waits (more of
    /// them, a shorter retention) leaves a topic that serves as before; everything else may be another pipeline's topic, or none.
    pub fn topic_fits(&self) -> bool {
        let serves = [Reason::TopicChangeRefused, Reason::TopicGrowing, Reason::ApprovalRequired];
        self.topic_problems.iter().all(|problem| serves.contains(&problem.reason))
    }

    /// Whether pods of one of the workers start, or all of them start anew, by what was written.
    pub fn starts_workers_anew(&self) -> bool {
        self.bridge.iter().chain([&self.processor]).any(|worker| worker.starts_anew)
    }

    /// Whether workers may rely on the table. A change that waits leaves one that serves as before, and what is made of its
    /// rows is nothing to those who write them.
    pub fn table_fits(&self) -> bool {
        let serves = [Reason::ApprovalRequired, Reason::RollupBehind, Reason::RollupRefused];
        self.table_problems.iter().all(|problem| serves.contains(&problem.reason))
    }

    /// Notes a failure by which the table is not as the spec says.
    fn fail_table(&mut self, source: timescale::Error) {
        self.table_problems.push(Refusal { reason: source.reason(), message: chain(&source) });
        self.fail(Error::Database { source });
    }

    /// Notes a failure; the first one is what the reconciliation ends with.
    fn fail(&mut self, error: Error) {
        if self.failure.is_some() {
            tracing::warn!(error = %chain(&error), "A further step failed");
        }
        self.failure.get_or_insert(error);
    }
}

/// Answers the indexes that are to be made now that everything else of the table is; `None` where it is not.
async fn apply_table(
    plan: Option<TablePlan>,
    pipeline: &Pipeline,
    stores: &Stores,
    context: &Context,
    session: Option<&mut (dyn Session + '_)>,
    outcome: &mut Outcome,
) -> Option<Vec<IndexBuild>> {
    let (Some(mut plan), Some(session)) = (plan, session) else {
        outcome.table_problems.extend(table_is_unknown(stores));
        return None;
    };
    let mut is_done = !plan.unfinished && !plan.is_refused;
    if plan.unfinished {
        outcome.table_problems.push(progressing("the database is being prepared"));
    }
    indexes::postpone_contradicted(&mut plan, pipeline, context);
    let mut builds = Some(mem::take(&mut plan.builds));
    if !plan.steps.is_empty() {
        match session.apply(&pipeline.table, &plan).await {
            Ok(()) => outcome.changes.extend(plan.steps.into_iter().flat_map(|step| step.changes)),
            Err(source) => {
                outcome.fail_table(source);
                is_done = false;
                // They may be of columns that are missing.
                builds = None;
            }
        }
    }
    outcome.held = is_done.then_some(plan.held);
    outcome.table_problems.extend(plan.refusals);
    outcome.table_notes.extend(plan.notes);
    builds
}

/// Goes on filling rollups, the first one first; looks again at once as long as there is more to do.
async fn fill_rollups(
    fills: Vec<RollupFill>,
    pipeline: &Pipeline,
    session: Option<&mut (dyn Session + '_)>,
    outcome: &mut Outcome,
) {
    // What could not be changed is tried again first.
    let Some(session) = session.filter(|_| outcome.failure.is_none()) else { return };
    for fill in fills {
        match session.fill_rollup(&pipeline.table, &fill).await {
            // Next comes its policy.
            Ok(FillProgress::Filled) => outcome.unfinished = true,
            // What is made from it has to wait.
            Ok(FillProgress::CaughtUp) => return,
            Ok(FillProgress::Unfinished) => {
                outcome.unfinished = true;
                outcome.table_notes.push(timescale::rollup_is_filling(&pipeline.table, &fill));
                return;
            }
            Err(source) => return outcome.fail_table(source),
        }
    }
}

async fn drop_expired_chunks(
    hypertable: String,
    drop_after: Duration,
    pipeline: &Pipeline,
    context: &Context,
    session: Option<&mut (dyn Session + '_)>,
    outcome: &mut Outcome,
) {
    let Some(session) = session else { return };
    match session.drop_expired_chunks(&pipeline.table.schema, &hypertable, drop_after).await {
        Ok(changes) => {
            context.memory.update(&pipeline.key(), |remembered| {
                remembered.chunks_dropped_at.insert(hypertable, Timestamp::now())
            });
            outcome.changes.extend(changes);
        }
        Err(source) => outcome.fail_table(source),
    }
}

async fn apply_topic(
    plan: Option<TopicPlan>,
    pipeline: &Pipeline,
    stores: &Stores,
    context: &Context,
    session: Option<&mut (dyn Session + '_)>,
    outcome: &mut Outcome,
) {
    // Known again once all of this is done.
    let mut held = outcome.held.take();
    let (plan, observed) = match (plan, &stores.topic) {
        (Some(plan), Ok(observed)) => (plan, observed),
        _ => {
            outcome.topic_problems.push(topic_is_unknown(pipeline, stores));
            return;
        }
    };
    if plan.claim {
        if !outcome.table_fits() {
            let waits = "waits for the table: its schema takes the note of whose topic this is";
            outcome.topic_problems.push(Refusal { reason: Reason::Pending, message: waits.to_owned() });
            return;
        }
        let key = observed.key(&pipeline.topic.name);
        if let Some(manager) = context.memory.claim_topic(&pipeline.key(), &key) {
            outcome.topic_problems.push(kafka::managed_by_another(&pipeline.topic, &manager));
            return;
        }
        if let Err(source) = claim_topic(pipeline, &key, plan.adoption.is_some(), session).await {
            outcome.topic_problems.push(Refusal { reason: source.reason(), message: chain(&source) });
            outcome.fail(Error::Database { source });
            return;
        }
        outcome.changes.extend(plan.adoption);
    }
    for step in plan.steps {
        match context.kafka.apply(&pipeline.topic.kafka, &pipeline.topic.name, &step).await {
            Ok(()) => outcome.changes.extend(step.changes),
            Err(source) => {
                outcome.topic_problems.push(Refusal { reason: source.reason(), message: chain(&source) });
                outcome.fail(Error::Kafka { source });
                held = None;
                break;
            }
        }
    }
    outcome.held = held.map(|held| [held, plan.held].concat());
    outcome.topic_problems.extend(plan.refusals);
}

async fn claim_topic(
    pipeline: &Pipeline,
    topic: &TopicKey,
    is_adopted: bool,
    session: Option<&mut (dyn Session + '_)>,
) -> Result<(), timescale::Error> {
    match session {
        Some(session) => session.claim_topic(&pipeline.table.schema, &pipeline.id, topic, is_adopted).await,
        // Without a session there was no plan that claims.
        None => Ok(()),
    }
}

fn progressing(message: &str) -> Refusal {
    Refusal { reason: Reason::Progressing, message: message.to_owned() }
}

/// Why nothing is known of the table.
pub fn table_is_unknown(stores: &Stores) -> Option<Refusal> {
    stores.table.as_ref().err().map(|error| Refusal { reason: error.reason(), message: chain(error) })
}

/// Why the topic cannot be planned.
pub fn topic_is_unknown(pipeline: &Pipeline, stores: &Stores) -> Refusal {
    if let Err(error) = &stores.topic {
        return Refusal { reason: error.reason(), message: chain(error) };
    }
    Refusal {
        reason: stores.table.as_ref().err().map_or(Reason::Pending, timescale::Error::reason),
        message: format!(
            "which pipeline created topic {} is written in the database, and that cannot be read now; the topic is \
             left as it is",
            pipeline.topic.name
        ),
    }
}
