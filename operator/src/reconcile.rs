//! The story on one page: what happens whenever something may have changed.
//!
//! fetch → validate → plan → apply → status. Of these only `fetch` reads the world, and only `apply` and `cleanup`
//! change it; `validate`, `plan` and `status` are synchronous functions without clients. What a program is worth, another process says
//! before `validate`. Where the spec says
//! `mode: Observe`, `observe` stands in the place of `apply`: it only says what would be done.

pub mod announce;
pub mod apply;
pub mod cleanup;
pub mod drift;
pub mod event;
pub mod fetch;
pub mod health;
pub mod observe;
pub mod plan;
pub mod report;
pub mod rollout;
pub mod sessions;
pub mod status;
pub mod validate;
pub mod write;

use std::time::{Duration, Instant};

use crds::{IoTPipeline, IoTPipelineStatus, names::APPROVE_ANNOTATION, pipeline::Mode, status::Reason};
use jiff::Timestamp;
use kube::{Resource, ResourceExt, core::DeserializeGuard, runtime::controller::Action};
use snafu::ResultExt;

use self::{
    apply::Outcome,
    fetch::{Workers, fetch_secrets, fetch_stores, fetch_workers},
    status::Assessment,
    validate::{Invalid, Secrets, validate},
};
use crate::{
    change::{Approvals, Change},
    compiler::{Source, Verdict},
    context::Context,
    error::{BuildSnafu, Error, JudgeSnafu, ReadPipelineSnafu, ValidateSnafu},
    memory::{about, key_of},
    pipeline::Pipeline,
    rollouts::Stage,
};

/// When to look again where something is on its way: what workers report sends no events.
const SETTLING: Duration = Duration::from_secs(10);

/// When to look again at first for bridges that leave: each holds its pod, and those that stay may wait for it.
const BRIDGES_CHANGING: Duration = Duration::from_secs(2);

/// Bridges that leave are looked at again after one of so many parts of the time that it has taken so far: an end may be seen as
/// late as that.
const LATENESS: u32 = 8;

/// When to look again for a Secret that is missing: its appearance sends no event.
const SECRET_WAIT: Duration = Duration::from_secs(15);

/// When to go on where one step made room for the next.
const NEXT_STEP: Duration = Duration::from_secs(1);

/// Makes one pipeline true and reports on it.
///
/// # Errors
/// Whatever could be done was done and reported nevertheless; the rest is tried again after a while.
pub async fn reconcile(object: &DeserializeGuard<IoTPipeline>, context: &Context) -> Result<Action, Error> {
    let key = key_of(object);
    if object.meta().deletion_timestamp.is_some() {
        context.scaling.forget(&key);
        context.rollouts.forget(&key);
        return cleanup::clean_up(object, context).await;
    }
    let object = match &object.0 {
        Ok(object) => object,
        Err(unreadable) => {
            context.rollouts.forget(&key);
            let error = Err(unreadable.clone()).context(ReadPipelineSnafu);
            announce::announce_unreadable(object, unreadable, context).await;
            return error;
        }
    };
    let secrets = fetch_secrets(object, context).await?;
    let (verdict, workers) =
        futures::try_join!(judge_program(object, context), fetch_workers(object, context))?;
    match validate_apart(object, secrets, verdict, context).await? {
        Ok(mut pipeline) => {
            context.scaling.follow(&mut pipeline, object, &workers);
            keep(object, &pipeline, &workers, context).await
        }
        Err(invalid) => {
            context.rollouts.forget(&key);
            refuse(object, &invalid, &workers, context).await
        }
    }
}

/// What the compiler says of the program, if there is one, or said before.
async fn judge_program(object: &IoTPipeline, context: &Context) -> Result<Option<Verdict>, Error> {
    let Some(source) = Source::of(&object.spec) else { return Ok(None) };
    let program = source.fingerprint();
    let verdict = match context.memory.verdict_on(program) {
        Some(before) => before,
        None => context.compiler.judge(source).await.context(JudgeSnafu)?,
    };
    let remembered = verdict.is_final.then(|| (program, verdict.clone()));
    context.memory.update(&key_of(object), |of_pipeline| of_pipeline.verdict = remembered);
    Ok(Some(verdict))
}

/// Validates on a thread of its own: a bug there must not end the operator.
async fn validate_apart(
    object: &IoTPipeline,
    secrets: Secrets,
    verdict: Option<Verdict>,
    context: &Context,
) -> Result<Result<Pipeline, Invalid>, Error> {
    let (object, settings) = (object.clone(), context.settings.clone());
    let validation =
        tokio::task::spawn_blocking(move || validate(&object, &secrets, verdict.as_ref(), &settings));
    validation.await.context(ValidateSnafu)
}

/// Makes a valid pipeline true.
async fn keep(
    object: &IoTPipeline,
    pipeline: &Pipeline,
    workers: &Workers,
    context: &Context,
) -> Result<Action, Error> {
    let (stores, session) = fetch_stores(pipeline, context).await;
    let now = Timestamp::now();
    let approvals = approvals(object, pipeline);
    let settings = &context.workers;
    let mut plan =
        plan::plan(pipeline, object, &approvals, workers, &stores, settings, now).context(BuildSnafu)?;
    let outcome = match pipeline.mode {
        Mode::Enforce => {
            let stage = plan.stage(pipeline, workers);
            let is_admitted = context.rollouts.admit(&pipeline.key(), stage, Instant::now());
            if !is_admitted {
                plan.postpone_renewal();
            }
            let outcome = apply::apply(plan, pipeline, object, &stores, session, context).await?;
            if is_admitted && matches!(stage, Stage::Outdated { .. }) && !outcome.starts_workers_anew() {
                // Its stores are not ready for it. Others need not wait for that.
                context.rollouts.forget(&pipeline.key());
            }
            outcome
        }
        Mode::Observe => {
            context.rollouts.forget(&pipeline.key());
            if let Some(session) = session {
                session.close().await;
            }
            observe::observe(plan, pipeline, workers, &stores)
        }
    };
    let decision = context.scaling.decision(&pipeline.key());
    let bridge_decision = context.scaling.bridge_decision(&pipeline.key());
    let assessment = Assessment::Applied {
        pipeline,
        stores: &stores,
        outcome: &outcome,
        approvals: &approvals,
        decision: decision.as_ref(),
        bridge_decision: bridge_decision.as_ref(),
    };
    let status = status::status(object, workers, &assessment, now);
    report_status(object, &status, outcome.noted.as_ref(), &outcome.changes, context).await?;
    let changing_for = bridges_changing_for(&outcome, pipeline, context);
    let pause = if is_settled(&status) { context.resync } else { SETTLING };
    match outcome.failure.or(stores.into_failure()) {
        Some(failure) => Err(failure),
        None if outcome.unfinished => Ok(Action::requeue(NEXT_STEP)),
        None => Ok(rest(pipeline, about(pause_while_changing(changing_for, pause)), context)),
    }
}

/// For how long the number of bridges has been on its way, as far as is remembered; `None` where it is not.
fn bridges_changing_for(outcome: &Outcome, pipeline: &Pipeline, context: &Context) -> Option<Duration> {
    let now = Instant::now();
    context.memory.update(&pipeline.key(), |remembered| {
        let since = remembered.bridges_changing_since.unwrap_or(now);
        remembered.bridges_changing_since = outcome.bridges_are_changing.then_some(since);
        remembered.bridges_changing_since.map(|since| now - since)
    })
}

/// How long to wait where there would otherwise be this pause. Soon at first and ever later: a spool may take hours, and a
/// bridge that the broker refuses a day.
fn pause_while_changing(so_long: Option<Duration>, pause: Duration) -> Duration {
    so_long.map_or(pause, |so_long| (so_long / LATENESS).max(BRIDGES_CHANGING).min(pause))
}

/// Nothing is to be done for so long, unless something happens.
fn rest(pipeline: &Pipeline, pause: Duration, context: &Context) -> Action {
    let rests_until = Some((Instant::now() + pause, pipeline.generation));
    context.memory.update(&pipeline.key(), |remembered| remembered.rests_until = rests_until);
    Action::requeue(pause)
}

/// What a person lets through, and what of it is used.
fn approvals(object: &IoTPipeline, pipeline: &Pipeline) -> Approvals {
    let annotation = object.annotations().get(APPROVE_ANNOTATION).map(String::as_str);
    let used = object.status.as_ref().map(|status| status.used_approvals.as_slice());
    Approvals::new(pipeline.generation, annotation, used.unwrap_or_default())
}

/// Leaves everything as it is, but for the number of processors where that follows the load, and says why; again after a while,
/// should somebody change what it says.
async fn refuse(
    object: &IoTPipeline,
    invalid: &Invalid,
    workers: &Workers,
    context: &Context,
) -> Result<Action, Error> {
    if let Some(scaling) = context.scaling.keep_following(object, workers) {
        write::scale(context, &object.namespace().unwrap_or_default(), &scaling).await?;
    }
    let status = status::status(object, workers, &Assessment::Refused(invalid), Timestamp::now());
    report_status(object, &status, None, &[], context).await?;
    match invalid.reason {
        Reason::SecretMissing | Reason::SecretInvalid => Ok(Action::requeue(about(SECRET_WAIT))),
        _ => Ok(Action::requeue(about(context.resync))),
    }
}

/// Publishes what is new and writes the status, if it is another one than was `noted` meanwhile, or before.
async fn report_status(
    object: &IoTPipeline,
    status: &IoTPipelineStatus,
    noted: Option<&IoTPipelineStatus>,
    changes: &[Change],
    context: &Context,
) -> Result<(), Error> {
    let previous = object.status.clone().unwrap_or_default();
    for event in announce::events(&previous, status, changes) {
        write::publish(context, object, event).await;
    }
    if status != noted.unwrap_or(&previous) {
        write::write_status(context, object, status).await?;
    }
    Ok(())
}

/// Whether only a change of the spec or of the world can make a difference: nothing is on its way.
fn is_settled(status: &IoTPipelineStatus) -> bool {
    status::ready(status).is_some_and(|ready| !status::is_transient(&ready.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_that_change_for_long_are_looked_at_less_often() {
        let pause = |seconds: Option<u64>| {
            pause_while_changing(seconds.map(Duration::from_secs), Duration::from_secs(60)).as_secs()
        };
        assert_eq!(pause(None), 60);
        assert_eq!([0, 10, 80, 7200].map(|seconds| pause(Some(seconds))), [2, 2, 10, 60]);
    }
}
