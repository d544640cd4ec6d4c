//! Part of `apply`: indexes over rows that are there. One that takes long is made while reconciliations go on: they look
//! whether it is there yet, and wait for nothing else.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crds::status::Reason;
use tokio::task::JoinHandle;

use super::Outcome;
use crate::{
    change::{Note, Refusal},
    context::Context,
    error::Error,
    memory::{Locked, PipelineKey},
    pipeline::Pipeline,
    telemetry::chain,
    timescale::{self, ATTEMPT_INTERVAL, BuildKind, Built, IndexBuild, TablePlan},
};

/// What is said of an index that waits for a lock.
const IS_LOCKED: &str =
    "another session holds a lock on the table or a chunk, perhaps a backup or a migration";

/// How long a reconciliation waits for an index. Most are there by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// The indexes that are being made, one a pipeline. All of it can be lost: a build goes on at the server, and whoever
/// comes next finds its lock, its index, or what it left.
#[derive(Debug)]
pub struct IndexBuilds {
    patience: Duration,
    running: Mutex<HashMap<PipelineKey, Running>>,
}

#[derive(Debug)]
struct Running {
    build: IndexBuild,
    task: JoinHandle<Result<Built, timescale::Error>>,
}

impl Default for IndexBuilds {
    fn default() -> Self {
        Self::with_patience(PATIENCE)
    }
}

impl IndexBuilds {
    /// Reconciliations wait so long for an index before they go on without it.
    pub fn with_patience(patience: Duration) -> Self {
        Self { patience, running: Mutex::default() }
    }

    /// Forgets the build of a pipeline. The server ends it by itself.
    pub fn forget(&self, key: &PipelineKey) {
        if let Some(running) = self.lock().remove(key) {
            running.task.abort();
        }
    }

    fn take(&self, key: &PipelineKey) -> Option<Running> {
        self.lock().remove(key)
    }

    fn keep(&self, key: PipelineKey, running: Running) {
        self.lock().insert(key, running);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PipelineKey, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the rows contradicted a while ago is not tried again yet: it reads them all, and holds writers up.
pub fn postpone_contradicted(plan: &mut TablePlan, pipeline: &Pipeline, context: &Context) {
    let contradicted = context.memory.recall(&pipeline.key()).contradicted;
    if contradicted.is_some_and(|(then, generation)| {
        generation == pipeline.generation && then.elapsed() < ATTEMPT_INTERVAL
    }) {
        for build in mem::take(&mut plan.builds) {
            match build.kind {
                BuildKind::Unique { refusal } => plan.refusals.push(refusal),
                BuildKind::PerChunk { .. } | BuildKind::Drop => plan.builds.push(build),
            }
        }
    }
}

/// Makes the indexes one after the other, as far as that is done soon.
pub async fn build_indexes(
    mut builds: Vec<IndexBuild>,
    pipeline: &Pipeline,
    context: &Context,
    outcome: &mut Outcome,
) {
    let mut running = context.builds.take(&pipeline.key());
    if let Some(other) = running.take_if(|running| !builds.contains(&running.build)) {
        end(other, context, outcome).await;
    }
    // The one that is being made comes first, whatever the spec has before it by now.
    builds.sort_by_key(|build| running.as_ref().is_none_or(|running| running.build != *build));
    let mut builds = builds.into_iter();
    let locked = context.memory.recall(&pipeline.key()).locked;
    let is_postponed = locked.is_some_and(|locked| locked.holds(pipeline.generation, Instant::now()));
    for build in builds.by_ref() {
        if is_postponed {
            tell_waiting(build, IS_LOCKED, outcome);
            break;
        }
        let mut running = running
            .take_if(|running| running.build == build)
            .unwrap_or_else(|| start(build.clone(), pipeline, context));
        match tokio::time::timeout(context.builds.patience, &mut running.task).await {
            Err(_) => {
                context.builds.keep(pipeline.key(), running);
                tell_waiting(build, "it takes its time over rows that are there", outcome);
                break;
            }
            Ok(Ok(Ok(Built::Made))) => {
                context.memory.update(&pipeline.key(), |remembered| remembered.locked = None);
                outcome.changes.extend(build.step.changes);
            }
            Ok(Ok(Ok(Built::Elsewhere))) => {
                tell_waiting(build, "another session makes an index of the table", outcome);
                break;
            }
            Ok(Ok(Ok(Built::Locked))) => {
                context.memory.update(&pipeline.key(), |remembered| {
                    let locked = Locked::again(remembered.locked, pipeline.generation, Instant::now());
                    remembered.locked = Some(locked);
                });
                tell_waiting(build, IS_LOCKED, outcome);
                break;
            }
            Ok(Ok(Ok(Built::Contradicted))) => {
                if let BuildKind::Unique { refusal } = build.kind {
                    let now = Some((Instant::now(), pipeline.generation));
                    context.memory.update(&pipeline.key(), |remembered| remembered.contradicted = now);
                    outcome.table_problems.push(refusal);
                }
            }
            Ok(Ok(Err(source))) => {
                outcome.fail_table(source);
                break;
            }
            Ok(Err(source)) => {
                let source = Error::BuildIndex { index: build.index, source };
                let message = chain(&source);
                outcome.table_problems.push(Refusal { reason: Reason::ReconcileFailed, message });
                outcome.fail(source);
                break;
            }
        }
    }
    for build in builds {
        tell_waiting(build, "others come before it", outcome);
    }
}

/// In a task of its own, with a session of its own.
fn start(build: IndexBuild, pipeline: &Pipeline, context: &Context) -> Running {
    let (databases, database) = (Arc::clone(&context.databases), pipeline.database.clone());
    let (table, wanted) = (pipeline.table.clone(), build.clone());
    let task = tokio::spawn(async move {
        let mut session = databases.open(&database).await?;
        let built = session.build_index(&table, &wanted).await;
        session.close().await;
        built
    });
    Running { build, task }
}

/// What is not to be made any more has just been made, or the spec has changed: then the server ends it by itself.
async fn end(mut running: Running, context: &Context, outcome: &mut Outcome) {
    match tokio::time::timeout(context.builds.patience, &mut running.task).await {
        Ok(Ok(Ok(Built::Made))) => outcome.changes.extend(running.build.step.changes),
        Ok(_) => {}
        Err(_) => running.task.abort(),
    }
}

/// Without an index that only makes reading faster, the table serves; without one that the workers' own statements
/// need, it does not.
fn tell_waiting(build: IndexBuild, why: &str, outcome: &mut Outcome) {
    let reason = Reason::IndexBuilding;
    let index = &build.index;
    match build.kind {
        BuildKind::PerChunk { .. } => {
            outcome
                .table_notes
                .push(Note { reason, message: format!("index {index} is not made yet: {why}") });
        }
        BuildKind::Unique { .. } => {
            let message = format!("index {index} is not made yet: {why}");
            outcome.table_problems.push(Refusal { reason, message });
        }
        BuildKind::Drop => {
            let message = format!(
                "index {index}, which did not come to its end and is no longer wanted, is not dropped yet: {why}"
            );
            outcome.table_notes.push(Note { reason, message });
        }
    }
    if let Some(pending) = &mut outcome.pending {
        pending.extend(build.step.changes);
    }
}
