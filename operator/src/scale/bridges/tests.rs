use super::*;

const SETTINGS: Settings = Settings { min: 1, max: 4, target_rate: 10_000 };

/// Bridges that carry what comes; a change of their number takes 5 seconds.
struct World {
    policy: Policy,
    settings: Settings,
    seconds: u64,
    received: Vec<u64>,
    /// Until when bridges come or leave.
    changing_until: u64,
    answers: bool,
}

impl World {
    fn with(bridges: usize) -> Self {
        Self {
            policy: Policy::new(i32::try_from(bridges).unwrap()),
            settings: SETTINGS,
            seconds: 0,
            received: vec![0; bridges],
            changing_until: 0,
            answers: true,
        }
    }

    fn second(&mut self, rate: u64) -> Decision {
        self.seconds += 1;
        let bridges = self.received.len();
        for received in &mut self.received {
            *received += rate / bridges as u64;
        }
        let reading = Reading {
            received: self
                .received
                .iter()
                .enumerate()
                .map(|(ordinal, n)| (ordinal.to_string(), *n))
                .collect(),
            replicas: i32::try_from(bridges).unwrap(),
            is_settled: self.seconds >= self.changing_until,
        };
        let now = Duration::from_secs(self.seconds);
        let decision = self.policy.decide(now, Some(&reading).filter(|_| self.answers), &self.settings);
        let desired = usize::try_from(decision.desired).unwrap();
        if self.seconds >= self.changing_until && desired != bridges {
            self.received.resize(desired, 0);
            self.changing_until = self.seconds + 5;
        }
        decision
    }

    /// So many seconds at one rate; the last decision.
    fn run(&mut self, seconds: u64, rate: u64) -> Decision {
        (0..seconds).map(|_| self.second(rate)).last().unwrap()
    }
}

fn said(decision: &Decision) -> (i32, Reason) {
    (decision.desired, decision.reason)
}

#[test]
fn a_step_up_is_followed_at_once_and_a_step_down_after_ten_minutes() {
    let mut world = World::with(1);
    assert_eq!(said(&world.run(20, 6_000)), (1, Reason::Measuring));
    let steady = world.run(30, 6_000);
    assert_eq!(said(&steady), (1, Reason::AsNeeded));
    assert!((steady.rate.unwrap() - 6_000.0).abs() < 1.0);
    // It takes a window until the whole of it is seen, and some seconds until the second one is there.
    assert_eq!(world.run(16, 27_000).reason, Reason::ScaledUp);
    assert_eq!(said(&world.run(120, 27_000)), (3, Reason::AsNeeded));
    // 9000 * 1.25 is more than one carries.
    assert_eq!(said(&world.run(580, 9_000)), (3, Reason::Stabilizing));
    assert_eq!(world.run(60, 9_000).desired, 2);
    assert_eq!(said(&world.run(60, 9_000)), (2, Reason::AsNeeded));
}

#[test]
fn while_a_change_is_on_its_way_there_is_no_other() {
    let mut world = World::with(1);
    world.run(40, 5_000);
    world.changing_until = 1_000;
    assert_eq!(said(&world.run(60, 30_000)), (1, Reason::CoolingDown));
    world.changing_until = 0;
    assert_eq!(said(&world.run(60, 30_000)), (1, Reason::Measuring), "as long again");
    assert_eq!(said(&world.run(20, 30_000)), (3, Reason::ScaledUp));
}

#[test]
fn a_change_that_does_not_end_is_said_to_be_waited_for() {
    let mut world = World::with(1);
    world.run(40, 6_000);
    assert_eq!(said(&world.run(16, 17_000)), (2, Reason::ScaledUp));
    world.changing_until = 1_000;
    assert_eq!(said(&world.run(30, 17_000)), (2, Reason::ScaledUp));
    assert_eq!(said(&world.run(60, 17_000)), (2, Reason::CoolingDown));
}

#[test]
fn what_has_waited_for_bridges_that_were_away_calls_for_no_others() {
    let mut world = World::with(2);
    world.run(60, 16_000);
    world.changing_until = 360;
    world.run(300, 0);
    assert_eq!(said(&world.run(200, 90_000)), (2, Reason::Measuring));
    assert_eq!(world.run(300, 16_000).desired, 2);
}

#[test]
fn noise_around_a_threshold_does_not_flap() {
    for around in [8_000, 10_000, 16_000, 20_000, 30_000] {
        let mut world = World::with(1);
        let mut random = 7_u64;
        let (mut desired, mut direction, mut turns) = (1, 0, 0);
        for _ in 0..3_600 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // ±40 %, each second another.
            let rate = around * (600 + (random >> 33) % 800) / 1_000;
            let decision = world.second(rate);
            let step = (decision.desired - desired).signum();
            if step != 0 && direction != 0 && step != direction {
                turns += 1;
            }
            direction = if step == 0 { direction } else { step };
            desired = decision.desired;
        }
        assert!(turns <= 1, "{turns} changes of direction around {around}");
    }
}

#[test]
fn a_restart_of_a_bridge_resets_its_counter_and_what_it_catches_up_with_does_not_count() {
    let mut world = World::with(2);
    world.run(60, 16_000);
    world.received[1] = 0;
    assert_eq!(said(&world.second(16_000)), (2, Reason::CoolingDown));
    // What the broker kept meanwhile.
    for _ in 0..5 {
        assert_eq!(world.second(90_000).desired, 2);
    }
    let after = world.run(60, 16_000);
    assert_eq!(said(&after), (2, Reason::AsNeeded));
    assert!((after.rate.unwrap() - 16_000.0).abs() < 1.0, "{after:?}");
}

#[test]
fn without_a_signal_everything_stays_and_a_single_miss_costs_nothing() {
    let mut world = World::with(1);
    world.run(60, 6_000);
    world.answers = false;
    assert_eq!(said(&world.run(2, 6_000)), (1, Reason::SignalMissing));
    world.answers = true;
    assert_eq!(said(&world.second(6_000)), (1, Reason::AsNeeded));
    world.answers = false;
    assert_eq!(said(&world.run(900, 40_000)), (1, Reason::SignalMissing));
}

#[test]
fn the_bounds_hold() {
    let mut world = World::with(1);
    assert_eq!(said(&world.run(200, 90_000)), (4, Reason::AtMaximum));
    world.settings.max = 2;
    assert_eq!(world.second(90_000).desired, 2);
    world.settings = Settings { min: 3, ..SETTINGS };
    world.run(60, 1_000);
    let least = world.run(1_200, 1_000);
    assert_eq!(said(&least), (3, Reason::AtMinimum));
    assert!(least.message.contains("minReplicas is 3"), "{}", least.message);
}

#[test]
fn nothing_is_made_fewer_by_what_was_enough_before_a_gap() {
    let mut world = World::with(2);
    world.run(500, 1_000);
    world.answers = false;
    world.run(300, 1_000);
    world.answers = true;
    assert_eq!(said(&world.run(300, 1_000)), (2, Reason::Stabilizing));
    assert_eq!(world.run(400, 1_000).desired, 1);
}
