//! How many rows a batch may have: fewer where the database cannot take so many at once. No I/O.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::batch::MAX_ROWS;

/// After so many batches in a row larger ones are tried again.
const SETTLED: usize = 64;

/// What source and sink agree on.
#[derive(Debug)]
pub struct RowLimit {
    rows: AtomicUsize,
    /// Batches that passed since it was changed.
    passed: AtomicUsize,
}

impl Default for RowLimit {
    fn default() -> Self {
        Self { rows: AtomicUsize::new(MAX_ROWS), passed: AtomicUsize::new(0) }
    }
}

impl RowLimit {
    /// How many rows a batch may have.
    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// A batch of so many rows is too large. `false` where it cannot be made smaller.
    pub fn halve(&self, rows: usize) -> bool {
        self.passed.store(0, Ordering::Relaxed);
        self.rows.store((rows / 2).max(1), Ordering::Relaxed);
        rows > 1
    }

    /// A batch has passed.
    pub fn passed(&self) {
        let rows = self.rows();
        if rows < MAX_ROWS && self.passed.fetch_add(1, Ordering::Relaxed) + 1 >= SETTLED {
            self.passed.store(0, Ordering::Relaxed);
            self.rows.store((2 * rows).min(MAX_ROWS), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_down_to_one_row_and_grows_again_when_batches_pass() {
        let limit = RowLimit::default();
        assert!(limit.halve(5_000));
        assert_eq!(limit.rows(), 2_500);
        assert!(limit.halve(2));
        assert_eq!((limit.rows(), limit.halve(1)), (1, false));
        (0..SETTLED - 1).for_each(|_| limit.passed());
        assert_eq!(limit.rows(), 1);
        limit.passed();
        assert_eq!(limit.rows(), 2);
        (0..100 * SETTLED).for_each(|_| limit.passed());
        assert_eq!(limit.rows(), MAX_ROWS);
    }
}
