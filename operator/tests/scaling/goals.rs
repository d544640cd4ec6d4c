//! What the policy promises, in every scenario and with much chance.

use std::time::Duration;

use crds::status::AutoscalingReason as Reason;
use operator::scale::policy::{Partition, Policy, Reading, Settings};

use crate::{
    rivals::{Keda, Numaflow},
    scenarios,
    world::{BuiltIn, Outcome, Scaler, Scenario, run},
};

fn built_in(scenario: &Scenario) -> (Outcome, BuiltIn) {
    let mut scaler = BuiltIn::new(scenario.settings, scenario.replicas);
    (run(scenario, &mut scaler), scaler)
}

fn said(scaler: &BuiltIn, reason: Reason) -> bool {
    scaler.decisions.iter().any(|decision| decision.reason == reason)
}

/// The second of the first change at or after `second`, and to how many.
fn next_change(outcome: &Outcome, second: usize) -> Option<(usize, i32)> {
    outcome.changes().into_iter().find(|(at, ..)| *at >= second).map(|(at, _, to)| (at, to))
}

/// Prints the table of docs/scaling.md.
#[test]
fn table() {
    println!(
        "| scenario | scaled by | changes of direction | seconds above target | replica-hours | most replicas |"
    );
    println!("|---|---|---|---|---|---|");
    for scenario in scenarios::all() {
        let scalers: [(&str, Box<dyn Scaler>); 3] = [
            ("BuiltIn", Box::new(BuiltIn::new(scenario.settings, scenario.replicas))),
            ("KEDA", Box::new(Keda::new(&scenario))),
            ("Numaflow", Box::new(Numaflow::new(&scenario))),
        ];
        for (name, mut scaler) in scalers {
            let outcome = run(&scenario, scaler.as_mut());
            let (turns, hours) = (outcome.turns(), outcome.replica_hours);
            let most = outcome.replicas.iter().max().unwrap();
            println!(
                "| {} | {name} | {turns} | {} | {hours:.1} | {most} |",
                scenario.name, outcome.late_seconds
            );
        }
    }
}

#[test]
fn there_are_never_more_than_partitions_nor_fewer_than_asked_for() {
    for mut scenario in scenarios::all() {
        for (partitions, min, max) in [(12, 1, 12), (12, 2, 5), (7, 1, 20), (1, 1, 4)] {
            (scenario.partitions, scenario.settings.min, scenario.settings.max) = (partitions, min, max);
            scenario.stuck = |_| None;
            let (outcome, _) = built_in(&scenario);
            let most = max.min(partitions as i32);
            // Those of the beginning are as many as there were.
            let outside = outcome.replicas.iter().skip(2).find(|replicas| !(min..=most).contains(replicas));
            assert_eq!(outside, None, "{}: {partitions} partitions, {min} to {max}", scenario.name);
        }
    }
}

#[test]
fn a_steady_hour_has_at_most_one_change_of_direction() {
    // The last one begins with a step down that has to be taken back.
    for seed in (1..=12).chain([25]) {
        for (load, noise) in [(2_300.0, 0.6), (9_700.0, 0.4), (14_800.0, 0.1), (29_000.0, 0.3)] {
            let arrival: fn(u64) -> f64 = match load as u64 {
                2_300 => |_| 2_300.0,
                9_700 => |_| 9_700.0,
                14_800 => |_| 14_800.0,
                _ => |_| 29_000.0,
            };
            let mut scenario = Scenario { seed, noise, arrival, seconds: 3 * 3600, ..scenarios::steady() };
            scenario.replicas = (seed % 12 + 1) as i32;
            let (outcome, _) = built_in(&scenario);
            let turns = outcome.most_turns_in_an_hour();
            assert!(turns <= 1, "{load} with seed {seed}: {:?}", outcome.changes());
            let last_late = outcome.last_late.unwrap_or(0);
            assert!(last_late < 300, "{load} with seed {seed}, late at {last_late}: {:?}", outcome.changes());
        }
    }
}

#[test]
fn a_step_is_answered_at_once_and_drained_in_time() {
    let (outcome, scaler) = built_in(&scenarios::step());
    let (at, to) = next_change(&outcome, 600).unwrap();
    assert!(at <= 603, "answered {} s after the step", at - 600);
    assert_eq!(to, 6, "one step to what is needed: 4 replicas' load and the lag");
    assert_eq!(outcome.late_seconds, 0);
    assert_eq!(outcome.turns(), 1, "up, and down once: {:?}", outcome.changes());
    let (down_at, least) = next_change(&outcome, 4200).unwrap();
    assert!((4500..4600).contains(&down_at) && least == 1, "{:?}", outcome.changes());
    assert!(said(&scaler, Reason::ScaledUp) && said(&scaler, Reason::ScaledDown));
}

#[test]
fn a_rising_load_is_followed_without_looking_back() {
    let (outcome, scaler) = built_in(&scenarios::ramp());
    assert_eq!((outcome.turns(), outcome.late_seconds), (0, 0));
    assert!(!said(&scaler, Reason::DatabaseIsTheLimit));
    let (outcome, _) = built_in(&scenarios::wave());
    assert_eq!((outcome.turns(), outcome.late_seconds), (1, 0));
}

#[test]
fn a_day_as_it_was_is_followed_and_nothing_waits_for_long() {
    let (outcome, _) = built_in(&scenarios::recorded());
    assert_eq!(outcome.late_seconds, 0);
    assert!(outcome.most_turns_in_an_hour() <= 4, "{:?}", outcome.changes());
    let of_keda = run(&scenarios::recorded(), &mut Keda::new(&scenarios::recorded())).turns();
    assert!(outcome.turns() * 4 < of_keda, "{} and {of_keda}", outcome.turns());
}

#[test]
fn a_burst_that_is_soon_done_starts_nothing() {
    let (outcome, scaler) = built_in(&scenarios::minutely());
    assert_eq!(outcome.changes(), []);
    assert_eq!(outcome.late_seconds, 0);
    assert!(!said(&scaler, Reason::ScaledUp));
}

#[test]
fn a_lag_that_is_done_before_others_would_help_starts_nothing() {
    let mut scenario = scenarios::minutely();
    scenario.settings.target_drain = Duration::from_secs(5);
    scenario.arrival = |second| if second % 60 == 0 { 25_000.0 } else { 500.0 };
    let (outcome, scaler) = built_in(&scenario);
    assert!(said(&scaler, Reason::RebalanceCostsMore));
    assert_eq!(outcome.changes(), []);
}

#[test]
fn a_stuck_partition_starts_nothing() {
    let (outcome, scaler) = built_in(&scenarios::stuck());
    assert_eq!(outcome.changes(), []);
    assert!(scaler.decisions.iter().any(|decision| decision.inputs.stuck == 1));
    assert!(!said(&scaler, Reason::ScaledUp));
}

#[test]
fn a_partition_that_was_stuck_before_the_operator_started_starts_nothing() {
    let settings = Settings { min: 1, max: 12, target_drain: Duration::from_secs(60) };
    let mut policy = Policy::new(1, Duration::ZERO);
    for second in 1..300 {
        // 300 a second come into each; the processor catches up with twice as many.
        let end = second * 300;
        let moving = Partition { end, position: end.min(second * 600 - 9_000), is_owned: true };
        let stuck = Partition { end, position: -500_000, is_owned: true };
        let partitions = (0..12).map(|index| (index, if index == 5 { stuck } else { moving })).collect();
        let reading = Reading { partitions, replicas: 1, ready: 1, ..Reading::default() };
        let decision = policy.decide(Duration::from_secs(second.unsigned_abs()), Some(&reading), &settings);
        assert_eq!(decision.desired, 1, "{second}: {decision:?}");
    }
}

#[test]
fn partitions_without_traffic_are_no_reason_for_more() {
    let (outcome, scaler) = built_in(&scenarios::few_keys());
    let tries = outcome.changes().iter().filter(|(_, from, to)| to > from && *to > 3).count();
    assert_eq!(tries, 1, "{:?}", outcome.changes());
    assert!(said(&scaler, Reason::NoGain) && !said(&scaler, Reason::DatabaseIsTheLimit));
    let half_an_hour_later = outcome.replicas[2400];
    assert!(half_an_hour_later <= 3, "{:?}", outcome.changes());

    // What two can do is done by two.
    let arrival = |second| if second > 600 { 8_000.0 } else { 2_000.0 };
    let (outcome, _) = built_in(&Scenario { arrival, ..scenarios::few_keys() });
    assert_eq!((outcome.late_seconds, outcome.turns()), (0, 0), "{:?}", outcome.changes());
}

#[test]
fn a_database_that_is_the_limit_gets_one_try() {
    let (outcome, scaler) = built_in(&scenarios::slow_database());
    // Two are needed for more than one replica's worth; four are the try.
    let tries = outcome.changes().iter().filter(|(_, from, to)| to > from && *to > 2).count();
    assert_eq!(tries, 1, "{:?}", outcome.changes());
    assert_eq!(outcome.replicas.iter().max(), Some(&4));
    let limited = scaler.decisions.iter().filter(|decision| decision.reason == Reason::DatabaseIsTheLimit);
    assert!(limited.count() > 3600, "it is said for as long as it is so");

    let (outcome, _) = built_in(&scenarios::slower_database());
    let tries =
        outcome.changes().iter().filter(|(at, from, to)| (1800..3600).contains(at) && to > from).count();
    assert!(tries <= 1, "{:?}", outcome.changes());
    let back = next_change(&outcome, 3600).unwrap();
    assert!(back.0 < 3610, "once the database is faster, the lag is drained: {:?}", outcome.changes());
}

#[test]
fn replicas_that_take_a_while_to_get_going_are_waited_for() {
    let scenario = scenarios::slow_start();
    let (outcome, scaler) = built_in(&scenario);
    assert!(!said(&scaler, Reason::DatabaseIsTheLimit), "{:?}", outcome.changes());
    let (at, to) = next_change(&outcome, 60).unwrap();
    assert!(at <= 63 && to == 3, "{:?}", outcome.changes());
    assert_eq!(outcome.turns(), 1, "up, and down once nothing waits: {:?}", outcome.changes());
}

#[test]
fn the_database_is_blamed_where_processors_wait_for_it_or_more_bring_nothing() {
    // Less than one and a half replicas' worth is taken, by the database or by something else.
    let limited = |ceiling, tells_waits, database| {
        let scenario = Scenario { ceiling, tells_waits, replicas: 1, ..scenarios::slow_database() };
        let mut scaler = BuiltIn::new(scenario.settings, scenario.replicas);
        // What the processors say of their waits, where it is not the database.
        let says = |reading: &Reading| Reading { waiting: reading.waiting.map(|_| 0.2), ..reading.clone() };
        struct Telling<'a>(&'a mut BuiltIn, Option<&'a dyn Fn(&Reading) -> Reading>);
        impl Scaler for Telling<'_> {
            fn decide(&mut self, second: u64, reading: &Reading) -> i32 {
                let told = self.1.map_or_else(|| reading.clone(), |says| says(reading));
                self.0.decide(second, &told)
            }
        }
        let outcome = run(&scenario, &mut Telling(&mut scaler, if database { None } else { Some(&says) }));
        let reasons = [Reason::DatabaseIsTheLimit, Reason::NoGain].map(|reason| said(&scaler, reason));
        (reasons, outcome)
    };
    let nothing_more: fn(u64) -> f64 = |_| 5_100.0;
    let a_third_more: fn(u64) -> f64 = |_| 6_600.0;
    assert_eq!(limited(nothing_more, true, true).0, [true, false]);
    assert_eq!(limited(nothing_more, true, false).0, [false, true], "the processors do not wait for it");
    assert_eq!(limited(nothing_more, false, true).0, [true, false], "they do not tell, but it is clear");
    let (reasons, outcome) = limited(a_third_more, true, false);
    assert_eq!(reasons, [false, true], "{:?}", outcome.changes());
    assert!(outcome.replicas.iter().max() <= Some(&12));
}

#[test]
fn a_partition_that_changes_hands_is_not_stuck() {
    let settings = Settings { min: 2, max: 2, target_drain: Duration::from_secs(30) };
    let mut policy = Policy::new(2, Duration::ZERO);
    let mut said = Vec::new();
    for second in 1..400_i64 {
        // All partitions change hands every 40 seconds: nobody has them for 12, and whoever then has them begins 11 later.
        let phase = second % 40;
        let position = second / 40 * 1_700 + (phase - 22).max(0) * 100;
        let partition = Partition { end: position + 3_000, position, is_owned: phase >= 12 };
        let partitions = (0..6).map(|index| (index, partition)).collect();
        let reading = Reading { partitions, replicas: 2, ready: 2, ..Reading::default() };
        let decision = policy.decide(Duration::from_secs(second.unsigned_abs()), Some(&reading), &settings);
        said.push((second, decision.reason, decision.inputs.stuck));
    }
    assert!(
        said.iter().all(|(_, reason, stuck)| *reason != Reason::PartitionsStuck && *stuck == 0),
        "{said:?}"
    );
}

#[test]
fn more_replicas_than_the_database_needs_go_again() {
    // 20,000 come, the database takes 11,000: two replicas and a bit.
    let mut scenario = scenarios::slow_database();
    (scenario.arrival, scenario.ceiling) =
        (|second| if second > 600 { 20_000.0 } else { 2_000.0 }, |_| 11_000.0);
    scenario.seconds = 3600;
    let (outcome, scaler) = built_in(&scenario);
    assert_eq!(outcome.replicas.last(), Some(&3), "{:?}", outcome.changes());
    assert_eq!(scaler.decisions.last().unwrap().reason, Reason::DatabaseIsTheLimit);
}

#[test]
fn without_messages_there_is_no_replica_and_with_the_first_one_there_is() {
    let (outcome, scaler) = built_in(&scenarios::idle());
    let (idle_at, none) = next_change(&outcome, 600).unwrap();
    assert!((900..=940).contains(&idle_at) && none == 0, "{:?}", outcome.changes());
    let (woken_at, some) = next_change(&outcome, 1000).unwrap();
    assert!(woken_at <= 2403 && some == 1, "{:?}", outcome.changes());
    assert!(said(&scaler, Reason::Idle) && said(&scaler, Reason::Woken));
}

#[test]
fn without_a_signal_everything_stays() {
    let settings = Settings { min: 1, max: 6, target_drain: Duration::from_secs(30) };
    let mut policy = Policy::new(3, Duration::ZERO);
    for second in 1..2000 {
        let decision = policy.decide(Duration::from_secs(second), None, &settings);
        assert_eq!((decision.desired, decision.reason), (3, Reason::SignalMissing));
    }
    // A database that takes nothing is no reason for more either, nor for fewer.
    for second in 2000..4000 {
        let waits = Partition { end: second * 1000, position: 0, is_owned: true };
        let partitions = (0..6).map(|index| (index, waits)).collect();
        let reading =
            Reading { partitions, replicas: 3, ready: 0, database_refuses: true, ..Reading::default() };
        let decision = policy.decide(Duration::from_secs(second as u64), Some(&reading), &settings);
        assert_eq!((decision.desired, decision.reason), (3, Reason::DatabaseIsTheLimit));
    }
}

#[test]
fn a_database_that_stands_still_is_no_reason_for_more() {
    let mut scenario = scenarios::steady();
    scenario.ceiling = |second| if (1800..2400).contains(&second) { 0.0 } else { f64::INFINITY };
    let (outcome, scaler) = built_in(&scenario);
    let during = outcome.changes().iter().filter(|(at, ..)| (1802..2400).contains(at)).count();
    assert_eq!(during, 0, "{:?}", outcome.changes());
    assert!(said(&scaler, Reason::PartitionsStuck));
}

#[test]
fn an_operator_that_starts_anew_changes_nothing_by_that() {
    let scenario = scenarios::step();
    let (outcome, _) = built_in(&scenario);
    // Another one takes over in the middle of the busy hour, with the replicas that there are.
    struct Restarted(BuiltIn, u64);
    impl Scaler for Restarted {
        fn decide(&mut self, second: u64, reading: &Reading) -> i32 {
            if second == self.1 {
                self.0.policy = Policy::new(reading.replicas, Duration::from_secs(second));
            }
            self.0.decide(second, reading)
        }
    }
    let mut restarted = Restarted(BuiltIn::new(scenario.settings, scenario.replicas), 2400);
    let with_restart = run(&scenario, &mut restarted);
    let at_once = with_restart.changes().into_iter().filter(|(at, ..)| (2400..2690).contains(at)).count();
    assert_eq!(at_once, 0, "{:?}", with_restart.changes());
    assert_eq!(with_restart.late_seconds, outcome.late_seconds);
}

#[test]
fn advice_stays_the_same_while_nobody_follows_it() {
    struct Advised(BuiltIn);
    impl Scaler for Advised {
        fn decide(&mut self, second: u64, reading: &Reading) -> i32 {
            let Advised(BuiltIn { policy, settings, decisions }) = self;
            decisions.push(policy.advise(Duration::from_secs(second), Some(reading), settings));
            reading.replicas
        }
    }
    let scenario = scenarios::step();
    let mut advised = Advised(BuiltIn::new(scenario.settings, 1));
    let outcome = run(&scenario, &mut advised);
    assert_eq!(outcome.changes(), []);
    let advice: Vec<i32> = advised.0.decisions.iter().map(|decision| decision.desired).collect();
    assert!(advice[..600].iter().all(|desired| *desired == 1));
    assert!(advice[605..4200].iter().all(|desired| *desired >= 6), "{:?}", &advice[600..660]);
    let changes = advice.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes <= 3, "{changes} changes: the lag grows, and so does the advice");
}
