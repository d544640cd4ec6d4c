//! Between which numbers the decision is free. Pure.

use super::{Settings, snap::most as most_useful};

/// Between which numbers the decision is free.
pub(super) struct Bounds {
    /// Never fewer, but for none.
    pub least: i32,
    /// Never more.
    pub most: i32,
    /// How many partitions the topic has.
    pub partitions: usize,
}

impl Bounds {
    pub fn new(settings: &Settings, partitions: usize) -> Self {
        let most = most_useful(settings.max.max(1), partitions);
        let least = settings.min.max(1).min(i32::try_from(partitions).unwrap_or(i32::MAX));
        Self { least, most: most.max(least), partitions }
    }

    pub fn clamp(&self, replicas: i32) -> i32 {
        replicas.clamp(self.least, self.most)
    }

    pub fn why_no_fewer(&self) -> String {
        format!("there shall be {} at least", self.least)
    }
}
