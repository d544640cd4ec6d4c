use super::*;
use crate::timescale::test_support::{as_wanted, empty, pipeline, wanted};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A server that runs everything in time.
fn healthy() -> ObservedJobs {
    ObservedJobs {
        scheduler: ObservedScheduler {
            runs: true,
            is_due: true,
            restoring: false,
            max_background_workers: Some(16),
            max_worker_processes: 8,
        },
        jobs: vec![job(1000, "policy_retention", "line"), job(1001, "policy_compression", "line")],
    }
}

fn job(id: i32, procedure: &str, hypertable: &str) -> ObservedJob {
    ObservedJob {
        id,
        hypertable: hypertable.into(),
        procedure: procedure.into(),
        scheduled: true,
        was_begun: true,
        overdue_since: None,
        failed: false,
        last_success: Some(at(0)),
        failures: 0,
        error: None,
    }
}

fn judge(change: impl FnOnce(&mut ObservedJobs)) -> String {
    let mut observed = ObservedTable { jobs: healthy(), ..as_wanted() };
    change(&mut observed.jobs);
    tell(judge_policies(&wanted(), &pipeline("line"), &observed))
}

fn tell(judged: Option<Result<&'static str, Vec<Refusal>>>) -> String {
    match judged {
        None => "unknown".to_owned(),
        Some(Ok(how)) => how.to_owned(),
        Some(Err(problems)) => {
            let told: Vec<_> =
                problems.iter().map(|one| format!("{}: {}", one.reason, one.message)).collect();
            told.join("\n")
        }
    }
}

#[test]
fn policies_that_run_are_healthy() {
    assert_eq!(judge(|_| {}), "every policy runs, and succeeded last");
    assert_eq!(judge(|jobs| jobs.jobs.clear()), "there are no policies");
    // The plan sees to a policy that somebody has paused.
    assert_eq!(
        judge(|jobs| jobs.jobs.iter_mut().for_each(|job| (job.scheduled, job.failed) = (false, true))),
        "there are no policies"
    );
    let apache2 = judge_policies(&wanted(), &pipeline("line"), &empty(Edition::Apache2));
    assert!(tell(apache2).contains("the operator itself drops expired chunks"));
    let mut unprepared = empty(Edition::Community);
    unprepared.extension.installed = None;
    assert_eq!(tell(judge_policies(&wanted(), &pipeline("line"), &unprepared)), "unknown");
}

#[test]
fn a_policy_that_fails_is_told_with_its_error() {
    let failing = |change: fn(&mut ObservedJob)| {
        judge(|jobs| {
            let job = &mut jobs.jobs[0];
            (job.failed, job.failures) = (true, 1);
            job.error = Some("permission denied for table line.\nDETAIL: no".into());
            change(job);
        })
    };
    let told = [
        failing(|_| {}),
        failing(|job| (job.last_success, job.failures, job.error) = (None, 7, None)),
        failing(|job| (job.procedure, job.failures) = ("policy_compression".into(), 47)),
        failing(|job| {
            (job.procedure, job.hypertable) = ("policy_refresh_continuous_aggregate".into(), "hourly".into())
        }),
        failing(|job| job.procedure = "policy_reorder".into()),
    ];
    insta::assert_snapshot!(told.join("\n"));
    // The next failure says nothing new, and another pipeline's dead letters are its to tell.
    assert_eq!(failing(|job| job.failures = 41), failing(|job| job.failures = 49));
    let mut theirs = ObservedTable { jobs: healthy(), ..as_wanted() };
    theirs.jobs.jobs[0] = ObservedJob { failed: true, ..job(1000, "policy_retention", "line_dead_letters") };
    assert!(tell(judge_policies(&wanted(), &pipeline("line"), &theirs)).contains("line_dead_letters fails"));
    theirs.dead_letter_marker = Some(pipeline("other"));
    assert!(tell(judge_policies(&wanted(), &pipeline("line"), &theirs)).contains("every policy runs"));
}

#[test]
fn a_server_that_does_not_run_policies_is_told_with_the_setting() {
    let new = |jobs: &mut ObservedJobs| jobs.jobs.iter_mut().for_each(|job| job.was_begun = false);
    let without_scheduler = |change: fn(&mut ObservedScheduler)| {
        judge(|jobs| {
            new(jobs);
            jobs.scheduler.runs = false;
            change(&mut jobs.scheduler);
        })
    };
    let told = [
        without_scheduler(|_| {}),
        without_scheduler(|scheduler| scheduler.max_background_workers = Some(0)),
        without_scheduler(|scheduler| scheduler.max_background_workers = None),
        without_scheduler(|scheduler| scheduler.restoring = true),
        judge(|jobs| jobs.jobs[1].overdue_since = Some(at(60))),
        judge(|jobs| {
            jobs.jobs[0].failed = true;
            jobs.jobs[0].error =
                Some("failed to start job. Job 1000 (\"Retention Policy [1000]\") failed to start".into());
        }),
    ];
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_moment_without_a_scheduler_is_no_trouble() {
    assert!(judge(|jobs| jobs.scheduler.runs = false).starts_with("every policy runs"));
    let just_started = judge(|jobs| {
        jobs.jobs[0].was_begun = false;
        (jobs.scheduler.runs, jobs.scheduler.is_due) = (false, false);
    });
    assert!(just_started.starts_with("every policy runs"), "{just_started}");
    // A new policy is begun within seconds.
    assert!(judge(|jobs| jobs.jobs[0].was_begun = false).starts_with("every policy runs"));
}
