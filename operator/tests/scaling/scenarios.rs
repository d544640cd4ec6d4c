//! The loads: 12 partitions, at most 12 replicas of 5,000 records a second each, and a lag that shall be drained in 30 s.

use std::{f64::consts::TAU, sync::LazyLock, time::Duration};

use operator::scale::policy::Settings;

use crate::world::Scenario;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

/// What came to a server in each minute of a day.
static RECORDED: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let lines = include_str!("nasa-http-1995-07-13.txt").lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).map(|requests| requests.parse().unwrap()).collect()
});

fn base(name: &'static str, seconds: u64, arrival: fn(u64) -> f64) -> Scenario {
    Scenario {
        name,
        seconds,
        partitions: 12,
        replica_rate: 5000.0,
        slow_start: 0.0,
        settings: Settings { min: 1, max: 12, target_drain: Duration::from_secs(30) },
        replicas: 1,
        arrival,
        active: 12,
        noise: 0.1,
        ceiling: |_| f64::INFINITY,
        tells_waits: true,
        stuck: |_| None,
        seed: 7,
    }
}

/// So much all the time, which needs three replicas.
pub fn steady() -> Scenario {
    Scenario { noise: 0.4, ..base("steady, ±40 %", 2 * HOUR, |_| 12_000.0) }
}

/// Twenty times as much for an hour.
pub fn step() -> Scenario {
    let arrival = |second| if (10 * MINUTE..70 * MINUTE).contains(&second) { 20_000.0 } else { 1_000.0 };
    base("step", 2 * HOUR, arrival)
}

/// More and more for an hour, and then so much.
pub fn ramp() -> Scenario {
    base("ramp", 2 * HOUR, |second| 1_000.0 + 39_000.0 * (second as f64 / HOUR as f64).min(1.0))
}

/// A day.
pub fn wave() -> Scenario {
    let arrival = |second| 16_000.0 - 14_000.0 * (TAU * second as f64 / (24 * HOUR) as f64).cos();
    base("daily wave", 24 * HOUR, arrival)
}

/// A day as it was, with a hundred messages in a second for each request in a minute: 9,300 on average, up to 40,900.
pub fn recorded() -> Scenario {
    base("recorded day", 24 * HOUR, |second| 100.0 * RECORDED[(second / MINUTE) as usize % RECORDED.len()])
}

/// All devices report in the first second of a minute.
pub fn minutely() -> Scenario {
    let arrival = |second| if second % MINUTE == 0 { 60_000.0 } else { 500.0 };
    base("burst each minute", 2 * HOUR, arrival)
}

/// Two minutes of much, each half hour.
pub fn bursts() -> Scenario {
    let arrival = |second| if second % (30 * MINUTE) < 2 * MINUTE { 25_000.0 } else { 2_000.0 };
    base("burst each half hour", 3 * HOUR, arrival)
}

/// One partition does not move for an hour.
pub fn stuck() -> Scenario {
    let stuck = |second| (10 * MINUTE..70 * MINUTE).contains(&second).then_some(5);
    Scenario { stuck, ..base("stuck partition", 2 * HOUR, |_| 4_000.0) }
}

/// Much waits at once, and new replicas take most of a minute to get going: as seen of pods with a fiftieth of a processor.
pub fn slow_start() -> Scenario {
    let arrival = |second| if second == MINUTE { 88_000.0 } else { 200.0 };
    let mut scenario = base("slow start", HOUR, arrival);
    (scenario.partitions, scenario.settings.max) = (6, 3);
    (scenario.replica_rate, scenario.slow_start) = (2_000.0, 45.0);
    scenario
}

/// Few keys: all comes into two of the partitions, and more than two replicas can do nothing about it.
pub fn few_keys() -> Scenario {
    let arrival = |second| if (10 * MINUTE..70 * MINUTE).contains(&second) { 12_000.0 } else { 2_000.0 };
    Scenario { active: 2, ..base("two busy partitions", 2 * HOUR, arrival) }
}

/// The database takes 6,000 rows a second, and more comes for an hour and a half.
pub fn slow_database() -> Scenario {
    let arrival = |second| if (10 * MINUTE..100 * MINUTE).contains(&second) { 8_000.0 } else { 2_000.0 };
    Scenario { ceiling: |_| 6_000.0, replicas: 2, ..base("slow database", 3 * HOUR, arrival) }
}

/// The database becomes slower than what comes, with enough replicas.
pub fn slower_database() -> Scenario {
    let ceiling = |second| if (30 * MINUTE..60 * MINUTE).contains(&second) { 6_000.0 } else { 40_000.0 };
    Scenario { ceiling, replicas: 3, ..base("database slow for a while", 2 * HOUR, |_| 9_000.0) }
}

/// Nothing for half an hour, and then as before.
pub fn idle() -> Scenario {
    let arrival = |second| if (10 * MINUTE..40 * MINUTE).contains(&second) { 0.0 } else { 3_000.0 };
    let mut scenario = base("idle, to zero and back", HOUR, arrival);
    scenario.settings.min = 0;
    scenario
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        steady(),
        step(),
        ramp(),
        wave(),
        recorded(),
        minutely(),
        bursts(),
        stuck(),
        few_keys(),
        slow_start(),
        slow_database(),
        slower_database(),
        idle(),
    ]
}
