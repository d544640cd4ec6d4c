//! The processor as a process, between a real Kafka and a real TimescaleDB: each record becomes its rows once,
//! whatever stops whom.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod bad_input;
mod database_access;
mod faults;
mod harness;
mod kafka_access;
mod natural_key;
#[cfg(feature = "failpoints")]
mod poison;
mod pooler;
mod positions;
mod rows;
