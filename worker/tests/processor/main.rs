//! The processor as a process, between a real Kafka and a real TimescaleDB: each record becomes its rows once,
//! whatever stops whom.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod faults;
mod harness;
mod positions;
mod rows;
