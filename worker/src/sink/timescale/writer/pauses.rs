//! How long to wait between two attempts to write. Pure, but for the chance in it.

use std::time::Duration;

use crate::clock;

/// The first and the longest pause between two attempts during an outage.
const OUTAGE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The pause between two attempts while a person must change something.
pub(super) const MISCONFIGURED_PAUSE: Duration = Duration::from_secs(10);

/// Doubles with every attempt up to a limit; the jitter keeps workers from coming back all at once.
pub(super) fn outage_pause(attempts: u32) -> Duration {
    let (first, longest) = OUTAGE_PAUSES;
    let pause = first.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(longest);
    let jitter = f64::from(clock::now_micros().unsigned_abs() as u32 % 1000) / 1000.0;
    pause.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_vary_by_half() {
        for (attempts, longest) in [(1, 100), (2, 200), (4, 800), (20, 5_000), (u32::MAX, 5_000)] {
            let pause = outage_pause(attempts).as_millis();
            assert!((longest / 2..=longest).contains(&pause), "{attempts}: {pause}");
        }
    }
}
