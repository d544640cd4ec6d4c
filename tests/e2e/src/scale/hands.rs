//! Whether two hands turn the same wheel: what an autoscaler writes, and what the operator makes of it. Pure.

use std::time::Duration;

/// What is seen at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Hands {
    /// When, since the looking began.
    pub at: Duration,
    /// How many processors the autoscaler wrote into the spec.
    pub wanted: i32,
    /// How many the Deployment asks for.
    pub had: i32,
    /// Whether the pipeline is Ready.
    pub is_ready: bool,
}

/// The longest time for which what there was was not what was wanted.
pub fn longest_apart(seen: &[Hands]) -> Duration {
    let (mut longest, mut since) = (Duration::ZERO, None);
    for hands in seen {
        if hands.wanted == hands.had {
            since = None;
        } else {
            longest = longest.max(hands.at - *since.get_or_insert(hands.at));
        }
    }
    longest
}

/// How often a number was another one than before.
pub fn changes(seen: &[Hands], number: impl Fn(&Hands) -> i32) -> usize {
    seen.windows(2).filter(|pair| number(&pair[0]) != number(&pair[1])).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: &[(i32, i32)]) -> Vec<Hands> {
        let hands = |(second, (wanted, had)): (u64, &(i32, i32))| Hands {
            at: Duration::from_secs(second),
            wanted: *wanted,
            had: *had,
            is_ready: true,
        };
        (0..).zip(numbers).map(hands).collect()
    }

    #[test]
    fn what_is_copied_late_or_fought_over_shows() {
        let copied = seen(&[(1, 1), (3, 1), (3, 1), (3, 3), (2, 3), (2, 2)]);
        assert_eq!(longest_apart(&copied), Duration::from_secs(1));
        assert_eq!((changes(&copied, |one| one.wanted), changes(&copied, |one| one.had)), (2, 2));
        let fought = seen(&[(1, 1), (3, 3), (3, 1), (3, 3), (3, 1)]);
        assert_eq!((changes(&fought, |one| one.wanted), changes(&fought, |one| one.had)), (1, 4));
    }
}
