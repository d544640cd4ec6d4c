//! What a device says next: which of its messages are late, repeated or malformed. Pure.

use jiff::{SignedDuration, Timestamp};

use super::{
    message::{Kind, Message},
    random::Random,
    signal::Device,
};

/// Which part of all messages is not as it should be, each from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Read minutes to hours before.
    pub late: f64,
    /// Sent twice.
    pub repeated: f64,
    /// Of no use: broken, of a wrong type, without a device or with a clock that stands in 1970.
    pub malformed: f64,
}

/// The endless story of one device.
#[derive(Clone, Debug)]
pub struct Script {
    device: Device,
    shares: Shares,
    dice: Random,
    next_seq: i64,
    last_good: Option<Message>,
}

/// A late reading is at least a minute and at most six hours old.
const LATE_SECONDS: (f64, f64) = (60.0, 6.0 * 3_600.0);

impl Shares {
    /// Every message is as it should be.
    pub const NONE: Self = Self { late: 0.0, repeated: 0.0, malformed: 0.0 };
}

impl Script {
    /// The story of the device with this number in the fleet with this seed.
    pub fn new(seed: u64, number: usize, shares: Shares) -> Self {
        let dice = Random::derived(!seed, number as u64);
        Self { device: Device::new(seed, number), shares, dice, next_seq: 1, last_good: None }
    }

    /// The production line of the device.
    pub fn line(&self) -> &str {
        &self.device.line
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device.name
    }

    /// What it says at `now`.
    pub fn next(&mut self, now: Timestamp) -> Message {
        let kind = self.choose_kind();
        if let (Kind::Repeated, Some(last)) = (kind, self.last_good.take()) {
            return Message { kind, ..last };
        }
        let age = match kind {
            Kind::Late => self.dice.between(LATE_SECONDS.0, LATE_SECONDS.1),
            _ => 0.0,
        };
        let time = now.saturating_sub(SignedDuration::from_millis((age * 1_000.0) as i64)).unwrap_or(now);
        let reading = self.device.read(self.next_seq, to_the_millisecond(time));
        self.next_seq += 1;
        let kind = if kind == Kind::Repeated { Kind::OnTime } else { kind };
        let message = Message::new(kind, reading);
        self.last_good = (!kind.is_malformed()).then(|| message.clone());
        message
    }

    fn choose_kind(&mut self) -> Kind {
        let Shares { late, repeated, malformed } = self.shares;
        let (roll, way) = (self.dice.unit(), self.dice.next());
        match roll {
            roll if roll < malformed => {
                const WAYS: [Kind; 4] =
                    [Kind::BrokenJson, Kind::WrongType, Kind::MissingDevice, Kind::ClockNotSet];
                WAYS[(way % 4) as usize]
            }
            roll if roll < malformed + repeated => Kind::Repeated,
            roll if roll < malformed + repeated + late => Kind::Late,
            _ => Kind::OnTime,
        }
    }
}

/// Devices and databases keep milliseconds alike.
pub fn to_the_millisecond(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(shares: Shares, length: i64) -> Vec<Message> {
        let mut script = Script::new(9, 3, shares);
        (0..length)
            .map(|second| script.next(Timestamp::from_second(1_780_000_000 + second).unwrap()))
            .collect()
    }

    #[test]
    fn each_kind_has_its_share() {
        let messages = story(Shares { late: 0.05, repeated: 0.03, malformed: 0.02 }, 20_000);
        let share =
            |wanted: fn(Kind) -> bool| messages.iter().filter(|m| wanted(m.kind)).count() as f64 / 20_000.0;
        assert!((share(|kind| kind == Kind::Late) - 0.05).abs() < 0.01);
        assert!((share(|kind| kind == Kind::Repeated) - 0.03).abs() < 0.01);
        assert!((share(Kind::is_malformed) - 0.02).abs() < 0.01);
        for kind in Kind::ALL {
            assert!(messages.iter().any(|message| message.kind == kind), "{kind:?}");
        }
    }

    #[test]
    fn a_repeated_message_is_the_one_before_and_readings_are_numbered_without_gaps() {
        let messages = story(Shares { late: 0.05, repeated: 0.2, malformed: 0.05 }, 2_000);
        let mut expected_seq = 1;
        for (index, message) in messages.iter().enumerate() {
            if message.kind == Kind::Repeated {
                assert_eq!(message.payload, messages[index - 1].payload);
            } else {
                assert_eq!(message.reading.seq, expected_seq);
                expected_seq += 1;
            }
        }
    }

    #[test]
    fn late_means_a_minute_to_six_hours() {
        for (second, message) in
            story(Shares { late: 1.0, repeated: 0.0, malformed: 0.0 }, 500).iter().enumerate()
        {
            let age = 1_780_000_000 + second as i64 - message.reading.time.as_second();
            assert!((60..=21_601).contains(&age), "{age}");
        }
    }
}
