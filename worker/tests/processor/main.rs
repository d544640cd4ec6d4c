//! The processor as a process, between a real Kafka and a real TimescaleDB: each record becomes its rows once,
//! whatever stops whom.

mod faults;
mod harness;
mod positions;
mod rows;
