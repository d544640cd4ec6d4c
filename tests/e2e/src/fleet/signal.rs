//! Believable signals: what a device reads at a time. The same for the same seed. Pure.

use std::f64::consts::TAU;

use jiff::Timestamp;
use serde_json::json;

use super::{message::Reading, random::Random};

const TYPES: [&str; 6] = ["press", "oven", "pump", "robot", "lathe", "conveyor"];
const LINES: usize = 8;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// One device and its character: no two run equally warm or rough.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name, such as `press-017`.
    pub name: String,
    /// The production line it belongs to, such as `line-3`.
    pub line: String,
    firmware: &'static str,
    mean_temp_f: f64,
    daily_swing_f: f64,
    mean_vibration: f64,
    battery_days: f64,
    battery_age_seconds: f64,
    noise: Random,
}

impl Device {
    /// The device with this number in the fleet with this seed.
    pub fn new(seed: u64, number: usize) -> Self {
        let mut random = Random::derived(seed, number as u64);
        Self {
            name: format!("{}-{number:03}", TYPES[number % TYPES.len()]),
            line: format!("line-{}", number % LINES + 1),
            firmware: ["2.4.1", "2.4.1", "2.5.0"][number % 3],
            mean_temp_f: 88.0 + 9.0 * random.normal(),
            daily_swing_f: random.between(3.0, 11.0),
            mean_vibration: random.between(0.15, 0.60),
            battery_days: random.between(20.0, 45.0),
            battery_age_seconds: random.between(0.0, 20.0 * SECONDS_PER_DAY),
            noise: random,
        }
    }

    /// What it reads at `time`, as its reading number `seq`.
    pub fn read(&mut self, seq: i64, time: Timestamp) -> Reading {
        let seconds = time.as_millisecond() as f64 / 1_000.0;
        // The hall is warmest at three in the afternoon.
        let of_day = (seconds % SECONDS_PER_DAY) / SECONDS_PER_DAY;
        let wave = ((of_day - 9.0 / 24.0) * TAU).sin();
        let temp_f = self.mean_temp_f + self.daily_swing_f * wave + 0.4 * self.noise.normal();
        // Work comes in shifts of 40 seconds: on for 30, off for 10.
        let is_running = (seconds / 10.0 + self.battery_days) % 4.0 < 3.0;
        let vibration =
            if is_running { self.mean_vibration } else { 0.02 } * (1.0 + 0.08 * self.noise.normal());
        let charge_seconds = self.battery_days * SECONDS_PER_DAY;
        let battery = 1.0 - 0.8 * ((seconds + self.battery_age_seconds) % charge_seconds) / charge_seconds;
        let details = json!({
            "firmware": self.firmware,
            "state": if is_running { "running" } else { "idle" },
            "rssi": -55 - (self.noise.next() % 20) as i64,
        });
        Reading {
            device: self.name.clone(),
            seq,
            time,
            temp_f: rounded(temp_f, 100.0),
            vibration: Some(rounded(vibration.max(0.0), 1_000.0)),
            battery: Some(rounded(battery, 10_000.0)),
            details: details.as_object().cloned().unwrap_or_default(),
        }
    }
}

/// Sensors have a resolution: `parts` of one unit.
pub fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day_of(device: &mut Device) -> Vec<Reading> {
        (0..1440)
            .map(|minute| device.read(minute, Timestamp::from_second(1_780_272_000 + minute * 60).unwrap()))
            .collect()
    }

    #[test]
    fn a_device_is_warmer_in_the_afternoon_than_at_night() {
        for number in 0..20 {
            let day = day_of(&mut Device::new(1, number));
            let mean =
                |readings: &[Reading]| readings.iter().map(|r| r.temp_f).sum::<f64>() / readings.len() as f64;
            let (night, afternoon) = (mean(&day[2 * 60..4 * 60]), mean(&day[14 * 60..16 * 60]));
            assert!(afternoon > night + 4.0, "{number}: {night} {afternoon}");
        }
    }

    #[test]
    fn readings_stay_within_what_a_sensor_can_say() {
        for number in 0..50 {
            for reading in day_of(&mut Device::new(2, number)) {
                assert!((20.0..160.0).contains(&reading.temp_f), "{reading:?}");
                assert!((0.0..2.0).contains(&reading.vibration.unwrap()), "{reading:?}");
                assert!((0.2..=1.0).contains(&reading.battery.unwrap()), "{reading:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_fleet() {
        assert_eq!(day_of(&mut Device::new(3, 5)), day_of(&mut Device::new(3, 5)));
        assert_ne!(day_of(&mut Device::new(3, 5)), day_of(&mut Device::new(4, 5)));
        assert_ne!(day_of(&mut Device::new(3, 5)), day_of(&mut Device::new(3, 11)));
    }
}
