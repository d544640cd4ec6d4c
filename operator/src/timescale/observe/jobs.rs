//! Reads how the server runs the policies of some hypertables. I/O.

use jiff::Timestamp;
use sqlx::{PgConnection, Row};

use crate::timescale::{
    ObservedJob, ObservedJobs, ObservedScheduler, execute::statement, jobs::PATIENCE, sql::interval,
};

/// The jobs of these hypertables, or continuous aggregates, of the schema. By views that every role may read.
pub(super) async fn read_jobs(
    connection: &mut PgConnection,
    schema: &str,
    hypertables: Vec<String>,
) -> sqlx::Result<ObservedJobs> {
    // A run that is on its way begins at minus infinity next. What a role that has no part in it may not see is its state.
    let rows = statement(format!(
        "SELECT DISTINCT ON (job_id) job_id, jobs.hypertable_name::text AS hypertable, proc_name::text AS procedure, scheduled, \
           last_run_started_at IS NOT NULL AS was_begun, \
           CASE WHEN scheduled AND job_status <> 'Running' AND isfinite(job_stats.next_start) \
             AND job_stats.next_start < now() - {} THEN extract(epoch FROM job_stats.next_start)::bigint END AS overdue_since, \
           coalesce(last_run_status = 'Failed', false) AS failed, \
           CASE WHEN isfinite(last_successful_finish) THEN extract(epoch FROM last_successful_finish)::bigint END \
             AS last_success, \
           coalesce(total_failures, 0) AS failures \
         FROM timescaledb_information.jobs JOIN timescaledb_information.job_stats USING (job_id) \
         WHERE jobs.hypertable_schema = $1 AND jobs.hypertable_name = ANY($2) ORDER BY job_id",
        interval(PATIENCE)
    ))
    .bind(schema.to_owned())
    .bind(hypertables)
    .fetch_all(&mut *connection)
    .await?;
    let mut jobs = Vec::new();
    for row in rows {
        let mut job = ObservedJob {
            id: row.try_get("job_id")?,
            hypertable: row.try_get("hypertable")?,
            procedure: row.try_get("procedure")?,
            scheduled: row.try_get("scheduled")?,
            was_begun: row.try_get("was_begun")?,
            overdue_since: row.try_get::<Option<i64>, _>("overdue_since")?.and_then(timestamp),
            failed: row.try_get("failed")?,
            last_success: row.try_get::<Option<i64>, _>("last_success")?.and_then(timestamp),
            failures: row.try_get("failures")?,
            error: None,
        };
        if job.failed {
            job.error = read_error(connection, job.id).await?;
        }
        jobs.push(job);
    }
    Ok(ObservedJobs { scheduler: read_scheduler(connection).await?, jobs })
}

async fn read_error(connection: &mut PgConnection, job: i32) -> sqlx::Result<Option<String>> {
    let error = statement(
        "SELECT err_message FROM timescaledb_information.job_errors WHERE job_id = $1 \
         ORDER BY finish_time DESC NULLS FIRST LIMIT 1",
    )
    .bind(job)
    .fetch_optional(connection)
    .await?;
    error.map_or(Ok(None), |row| row.try_get(0))
}

async fn read_scheduler(connection: &mut PgConnection) -> sqlx::Result<ObservedScheduler> {
    let row = statement(format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name = 'TimescaleDB Background Worker Scheduler') AS runs, \
           pg_postmaster_start_time() < now() - {} AS is_due, \
           coalesce(current_setting('timescaledb.restoring', true)::boolean, false) AS restoring, \
           current_setting('timescaledb.max_background_workers', true)::int4 AS max_background_workers, \
           current_setting('max_worker_processes')::int4 AS max_worker_processes",
        interval(PATIENCE)
    ))
    .fetch_one(connection)
    .await?;
    Ok(ObservedScheduler {
        runs: row.try_get("runs")?,
        is_due: row.try_get("is_due")?,
        restoring: row.try_get("restoring")?,
        max_background_workers: row.try_get("max_background_workers")?,
        max_worker_processes: row.try_get("max_worker_processes")?,
    })
}

fn timestamp(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}
