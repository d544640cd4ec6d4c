//! What must hold whatever happens, in whatever order: each part beside a model that is too simple to be wrong.

// Helpers outside of test functions fail by panicking too.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod batch;
mod positions;
mod spool;
mod window;
