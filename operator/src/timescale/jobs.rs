//! Whether the server runs the policies of the pipeline's hypertables, and whether they do what they shall. Pure.
//!
//! It is told by symptoms: a setting that looks low harms nobody as long as every policy runs in time. What is said stays
//! the same as long as the trouble does, but for the number of failures, of which one digit is told.

use std::time::Duration;

use crds::{names::dead_letter_table, status::Reason, worker::PipelineId};
use jiff::Timestamp;

use super::{Edition, ObservedTable, sql::identifier};
use crate::{
    change::{Refusal, coarse_number},
    pipeline::Table,
};

#[cfg(test)]
mod tests;

/// How late a policy may begin before something must be wrong with the server; its scheduler is started anew within a
/// minute.
pub(super) const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How much of an error's text is passed on, in bytes.
const MAX_ERROR_BYTES: usize = 512;

/// How TimescaleDB begins the error of a job for which there was no background worker.
const NOT_STARTED: &str = "failed to start job";

/// What the server says of its policies; only the Community edition has any.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedJobs {
    /// What runs them.
    pub scheduler: ObservedScheduler,
    /// Those of the pipeline's hypertables.
    pub jobs: Vec<ObservedJob>,
}

/// What runs the policies of a database.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedScheduler {
    /// Whether there is one now.
    pub runs: bool,
    /// Whether the server has been up for so long that there should be one.
    pub is_due: bool,
    /// `timescaledb.restoring`: then it runs nothing.
    pub restoring: bool,
    /// `timescaledb.max_background_workers`; `None` where the server's loader is missing, which starts them.
    pub max_background_workers: Option<i32>,
    /// `max_worker_processes`, of which these are a part.
    pub max_worker_processes: i32,
}

/// A policy as a job of the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedJob {
    /// The number under which the server knows it.
    pub id: i32,
    /// The table or continuous aggregate that it is for.
    pub hypertable: String,
    /// The function that it runs, such as `policy_retention`.
    pub procedure: String,
    /// Whether it runs at all, rather than being paused.
    pub scheduled: bool,
    /// Whether it was ever begun.
    pub was_begun: bool,
    /// Since when it should have begun, where that is longer ago than it may be.
    pub overdue_since: Option<Timestamp>,
    /// Whether its last run failed.
    pub failed: bool,
    /// When it succeeded last.
    pub last_success: Option<Timestamp>,
    /// How often it failed, in all.
    pub failures: i64,
    /// What the server says of the last failure, if it does.
    pub error: Option<String>,
}

/// What is wrong with the policies; `None` where nothing is known of them. An answer without problems comes with a few
/// words on how they are.
pub fn judge_policies(
    table: &Table,
    pipeline: &PipelineId,
    observed: &ObservedTable,
) -> Option<Result<&'static str, Vec<Refusal>>> {
    if observed.edition()? == Edition::Apache2 {
        return Some(Ok("the Apache-2 edition has no policies; the operator itself drops expired chunks"));
    }
    let dead_letters = dead_letter_table(table.name.as_str());
    let is_ours = |job: &&ObservedJob| {
        job.hypertable != dead_letters || observed.dead_letter_marker.as_ref() == Some(pipeline)
    };
    let ObservedJobs { scheduler, jobs } = &observed.jobs;
    let jobs: Vec<_> = jobs.iter().filter(is_ours).filter(|job| job.scheduled).collect();
    if jobs.is_empty() {
        return Some(Ok("there are no policies"));
    }
    let waiting: Vec<_> = jobs.iter().copied().filter(|job| job.waits(scheduler)).collect();
    let mut problems = Vec::new();
    if !waiting.is_empty() {
        problems.push(not_running(table, observed, &waiting));
    }
    let failing = jobs.iter().filter(|job| job.failed && !waiting.contains(job));
    problems.extend(failing.map(|job| job.failing(table, observed)));
    Some(if problems.is_empty() { Ok("every policy runs, and succeeded last") } else { Err(problems) })
}

impl ObservedJob {
    /// Whether the server does not come to run it.
    fn waits(&self, scheduler: &ObservedScheduler) -> bool {
        let was_not_started =
            self.failed && self.error.as_ref().is_some_and(|error| error.starts_with(NOT_STARTED));
        let waits_for_the_first_time = !self.was_begun && !scheduler.runs && scheduler.is_due;
        was_not_started || waits_for_the_first_time || self.overdue_since.is_some()
    }

    fn failing(&self, table: &Table, observed: &ObservedTable) -> Refusal {
        let since = match self.last_success {
            Some(success) => format!("it succeeded last at {success}"),
            None => "it has never succeeded".to_owned(),
        };
        let failures = coarse_number(self.failures, 1);
        let often = match failures {
            ..=1 => "failed once".to_owned(),
            2..=9 => format!("failed {failures} times"),
            _ => format!("failed about {failures} times"),
        };
        let error = self.error.as_deref().map(harmless).map_or_else(
            || "the server's log says why".to_owned(),
            |error| format!("the last error is: {error}"),
        );
        Refusal {
            reason: Reason::PolicyFailing,
            message: format!(
                "the {} fails: {since} and {often}; {error}. {}. Mend what the error names; the policy is tried again by \
                 itself, and at once by: CALL {}.run_job({});",
                self.name(table),
                self.consequence(),
                functions_of(observed),
                self.id,
            ),
        }
    }

    fn name(&self, table: &Table) -> String {
        let what = match self.procedure.as_str() {
            "policy_retention" => "retention policy",
            "policy_compression" => "columnstore policy",
            "policy_refresh_continuous_aggregate" => "refresh policy",
            other => other,
        };
        format!("{what} of {}.{}", table.schema, self.hypertable)
    }

    fn consequence(&self) -> &'static str {
        match self.procedure.as_str() {
            "policy_retention" => "Until it succeeds, expired rows stay and the disk fills",
            "policy_compression" => "Until it succeeds, chunks stay in the rowstore and the disk fills",
            "policy_refresh_continuous_aggregate" => "Until it succeeds, the rollup falls behind",
            _ => "Until it succeeds, what it is for is not done",
        }
    }
}

fn not_running(table: &Table, observed: &ObservedTable, waiting: &[&ObservedJob]) -> Refusal {
    let names: Vec<_> = waiting.iter().map(|job| job.name(table)).collect();
    let since = waiting.iter().filter_map(|job| job.overdue_since).min();
    let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
    Refusal {
        reason: Reason::PoliciesNotRunning,
        message: format!(
            "database {} does not run its policies{since}, so expired rows stay, chunks stay in the rowstore and the disk \
             fills: {}. {}",
            observed.database,
            names.join(", "),
            what_to_do(&observed.jobs.scheduler, functions_of(observed)),
        ),
    }
}

/// Why no background worker runs the policies, and the setting to change.
fn what_to_do(scheduler: &ObservedScheduler, functions: String) -> String {
    let processes = scheduler.max_worker_processes;
    match scheduler.max_background_workers {
        _ if scheduler.restoring => format!(
            "timescaledb.restoring is on, as while a backup is restored; once that is done, run: SELECT \
             {functions}.timescaledb_post_restore();"
        ),
        None => "TimescaleDB's loader, which starts them, does not run on this server: add timescaledb to \
                 shared_preload_libraries and restart the server"
            .to_owned(),
        Some(workers) if workers < 2 => format!(
            "timescaledb.max_background_workers is {workers}: set it to 1, and 1 more for each database with TimescaleDB, \
             and 1 for each policy that may run at once; then restart the server"
        ),
        Some(workers) => {
            let restart = if scheduler.runs {
                ""
            } else {
                ". Where somebody has stopped them, run as a superuser in this database: SELECT \
                 _timescaledb_functions.start_background_workers();"
            };
            format!(
                "Too few background workers: timescaledb.max_background_workers is {workers} and max_worker_processes \
                 {processes}. The first takes 1, and 1 for each database with TimescaleDB, and 1 for each policy that may \
                 run at once; the second 3 more than that and max_parallel_workers. Raise them and restart the server{restart}"
            )
        }
    }
}

fn functions_of(observed: &ObservedTable) -> String {
    observed.extension.installed.as_ref().map(|extension| identifier(&extension.schema)).unwrap_or_default()
}

/// An error's text as it can stand in a condition.
fn harmless(error: &str) -> String {
    let text = error.trim_end_matches('.').replace(char::is_control, " ");
    text[..text.floor_char_boundary(MAX_ERROR_BYTES)].to_owned()
}
