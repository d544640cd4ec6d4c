//! The proof of scaling, in parts: what each of them does to a pipeline on the local cluster, and the figures that it
//! comes to.

mod looks;
pub mod step;

use std::fmt;

/// What a part of the proof came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Its figures, by name.
    pub named: Vec<(&'static str, String)>,
    /// Messages that should be rows and are not.
    pub lost: u64,
    /// Rows that should not be there, or not so often.
    pub duplicated: u64,
}

impl Figures {
    /// Takes in what another part came to.
    pub fn add(&mut self, other: Self) {
        self.named.extend(other.named);
        self.lost += other.lost;
        self.duplicated += other.duplicated;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, figure) in &self.named {
            write!(formatter, "{name}={figure} ")?;
        }
        write!(formatter, "lost={} duplicated={}", self.lost, self.duplicated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parts_came_to_is_one_line() {
        let mut whole =
            Figures { named: vec![("reaction_s", "2.1".to_owned())], lost: 1, ..Figures::default() };
        whole.add(Figures { named: vec![("idle_writes", "0".to_owned())], lost: 1, duplicated: 3 });
        assert_eq!(whole.to_string(), "reaction_s=2.1 idle_writes=0 lost=2 duplicated=3");
    }
}
