//! What the end-to-end tests, the demo, the benchmark and the proofs of delivery and of scaling are made of: a simulated fleet of devices, and a harness
//! around a real cluster with Kafka, TimescaleDB and Mosquitto.

pub mod backends;
pub mod bench;
pub mod cluster;
pub mod community;
pub mod database;
pub mod disk;
pub mod faults;
pub mod fleet;
pub mod kafka;
pub mod manifest;
pub mod many;
pub mod mqtt;
pub mod pods;
pub mod release;
pub mod report;
pub mod scale;
pub mod scenario;
pub mod volume;
pub mod wait;

/// The result of a step of a scenario; its error says what was tried, in words.
pub type Result<T, E = snafu::Whatever> = std::result::Result<T, E>;
