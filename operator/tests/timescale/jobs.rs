//! How the server runs policies. The Community server of the tests has no scheduler, so what a scheduler notes of its runs
//! is written by the tests, into the server's own tables; it is read through the server's own views.

use crds::status::Reason;
use operator::{
    pipeline::Table,
    timescale::{Edition, ObservedJobs, judge_policies},
};

use super::{
    rollup_support::by_hour,
    support::{DAY, Test, wanted},
};

pub async fn policies_are_watched(test: &Test) {
    let mut table = test.table("readings");
    wanted(&mut table).drop_after = Some(90 * DAY);
    table.dead_letters_drop_after = Some(7 * DAY);
    test.bring_about(&table).await;
    let judge = async || {
        let observed = test.observe(&table).await;
        let judged = judge_policies(&table, &test.pipeline, &observed).unwrap();
        (observed.jobs, judged)
    };
    let (ObservedJobs { scheduler, jobs }, judged) = judge().await;
    if test.edition == Edition::Apache2 {
        assert_eq!(jobs, []);
        assert!(judged.unwrap().contains("the operator itself drops expired chunks"));
        return;
    }
    let [rows, dead_letters] = jobs.as_slice() else { panic!("{jobs:?}") };
    assert_eq!((rows.hypertable.as_str(), rows.procedure.as_str()), ("readings", "policy_retention"));
    assert_eq!(dead_letters.hypertable, "readings_dead_letters");
    assert!(jobs.iter().all(|job| job.scheduled && !job.was_begun && !job.failed), "{jobs:?}");
    assert_eq!((scheduler.runs, scheduler.max_background_workers), (false, None));

    for job in &jobs {
        ran(test, job.id, true, "1 hour").await;
    }
    assert_eq!(judge().await.1, Ok("every policy runs, and succeeded last"));

    // The time of the next run has come a moment ago, or long ago.
    ran(test, rows.id, true, "-1 minute").await;
    assert_eq!(judge().await.1, Ok("every policy runs, and succeeded last"));
    ran(test, rows.id, true, "-1 hour").await;
    let [late] = &judge().await.1.unwrap_err()[..] else { panic!() };
    assert_eq!(late.reason, Reason::PoliciesNotRunning);
    assert!(late.message.contains(&format!("retention policy of {table}. TimescaleDB's loader")), "{late:?}");
    // While it runs, its next time is unknown.
    ran(test, rows.id, true, "-infinity").await;
    assert_eq!(judge().await.1, Ok("every policy runs, and succeeded last"));

    ran(test, dead_letters.id, false, "5 minutes").await;
    test.sql(&format!(
        "INSERT INTO _timescaledb_internal.bgw_job_stat_history (job_id, pid, execution_start, execution_finish, succeeded, data)
           VALUES ({id}, 1, now() - interval '1 day', now() - interval '1 day', false, '{{\"error_data\": {{\"message\": \"the first\"}}}}'),
                  ({id}, 1, now(), now(), false, '{{\"error_data\": {{\"message\": \"it is locked\", \"hint\": \"Wait.\"}}}}')",
        id = dead_letters.id
    ))
    .await;
    let [failing] = &judge().await.1.unwrap_err()[..] else { panic!() };
    assert_eq!(failing.reason, Reason::PolicyFailing);
    assert!(failing.message.contains("_dead_letters fails: it succeeded last at 2026-01-01T00:00:00Z and failed about 40 times; the last error is: it is locked. Wait. "), "{failing:?}");
    assert!(
        failing.message.contains(&format!("CALL \"public\".run_job({});", dead_letters.id)),
        "{failing:?}"
    );
    let again = judge_policies(&table, &test.pipeline, &test.observe(&table).await).unwrap();
    assert_eq!(again, Err(vec![failing.clone()]), "the same as before");

    a_rollups_policies_are_watched(test, &mut table).await;
}

/// A rollup whose refresh fails or does not run falls behind.
async fn a_rollups_policies_are_watched(test: &Test, table: &mut Table) {
    wanted(table).rollups = vec![by_hour()];
    test.sql(&format!("INSERT INTO {table} (time, device) VALUES (now(), 'd1')")).await;
    test.bring_about(table).await;
    let judge = async || {
        let observed = test.observe(table).await;
        (judge_policies(table, &test.pipeline, &observed).unwrap(), observed.jobs.jobs)
    };
    let (_, jobs) = judge().await;
    let mut of_rollup: Vec<_> = jobs.iter().filter(|job| job.hypertable == "by_hour").collect();
    of_rollup.sort_by(|one, other| one.procedure.cmp(&other.procedure));
    let procedures: Vec<_> = of_rollup.iter().map(|job| job.procedure.as_str()).collect();
    assert_eq!(procedures, ["policy_compression", "policy_refresh_continuous_aggregate", "policy_retention"]);
    for job in &jobs {
        ran(test, job.id, true, "1 hour").await;
    }
    assert_eq!(judge().await.0, Ok("every policy runs, and succeeded last"));

    let refresh = of_rollup[1];
    ran(test, refresh.id, false, "5 minutes").await;
    let [failing] = &judge().await.0.unwrap_err()[..] else { panic!() };
    assert_eq!(failing.reason, Reason::PolicyFailing);
    let name = format!("refresh policy of {}.by_hour", test.schema);
    assert!(failing.message.starts_with(&format!("the {name} fails: ")), "{failing:?}");
    assert!(failing.message.contains("Until it succeeds, the rollup falls behind"), "{failing:?}");

    ran(test, refresh.id, true, "-1 hour").await;
    let [late] = &judge().await.0.unwrap_err()[..] else { panic!() };
    assert_eq!(late.reason, Reason::PoliciesNotRunning);
    assert!(late.message.contains(&name), "{late:?}");
}

/// Notes a run as the scheduler does.
async fn ran(test: &Test, job: i32, succeeded: bool, next: &str) {
    let next =
        if next == "-infinity" { "'-infinity'".to_owned() } else { format!("now() + interval '{next}'") };
    test.sql(&format!(
        "DELETE FROM _timescaledb_internal.bgw_job_stat WHERE job_id = {job};
         INSERT INTO _timescaledb_internal.bgw_job_stat (job_id, last_start, last_finish, next_start, last_successful_finish, \
           last_run_success, total_runs, total_duration, total_duration_failures, total_successes, total_failures, \
           total_crashes, consecutive_failures, consecutive_crashes) \
         VALUES ({job}, now(), now(), {next}, '2026-01-01T00:00:00Z', {succeeded}, 50, '1s', '0s', 3, 47, 0, 0, 0)"
    ))
    .await;
}
