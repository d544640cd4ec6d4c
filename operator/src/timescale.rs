//! Hypertables.
