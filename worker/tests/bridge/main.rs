//! The bridge as a process, between a real MQTT broker and a real Kafka.

// Helpers outside of test functions fail by panicking too.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod delivery;
mod secured;
mod sessions;
mod shared;
mod sizes;
mod spool;
mod support;
