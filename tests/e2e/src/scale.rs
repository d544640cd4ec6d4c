//! The proof of scaling, in parts: what each of them does to a pipeline on the local cluster, and the figures that it
//! comes to.

pub mod bridges;
mod hands;
pub mod hpa;
mod looks;
pub mod step;

use std::{fmt, time::Duration};

/// What parts of the proof came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How fast the processors followed a step of the load.
    pub followed: Option<Followed>,
    /// Messages that should be rows and are not.
    pub lost: u64,
    /// Rows that should not be there, or not so often.
    pub duplicated: u64,
    /// All else, by name.
    pub others: Vec<(&'static str, String)>,
}

/// How fast the processors followed a step of the load.
#[derive(Clone, Copy, Debug)]
pub struct Followed {
    /// From the lag to another number of processors.
    pub reaction: Duration,
    /// From the beginning of the step until the lag was gone.
    pub drained: Duration,
}

impl Figures {
    /// Takes in what another part came to.
    pub fn add(&mut self, other: Self) {
        self.followed = self.followed.or(other.followed);
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.others.extend(other.others);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Followed { reaction, drained }) = self.followed {
            let (reaction, drained) = (reaction.as_secs_f64(), drained.as_secs_f64());
            write!(formatter, "reaction_s={reaction:.1} drained_s={drained:.1} ")?;
        }
        write!(formatter, "lost={} duplicated={}", self.lost, self.duplicated)?;
        self.others.iter().try_for_each(|(name, figure)| write!(formatter, " {name}={figure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parts_came_to_is_one_line() {
        let followed = Followed { reaction: Duration::from_millis(2_140), drained: Duration::from_secs(70) };
        let mut whole = Figures { followed: Some(followed), lost: 1, ..Figures::default() };
        let others = vec![("idle_writes", "0".to_owned())];
        whole.add(Figures { lost: 1, duplicated: 3, others, ..Figures::default() });
        assert_eq!(whole.to_string(), "reaction_s=2.1 drained_s=70.0 lost=2 duplicated=3 idle_writes=0");
    }
}
