//! The worker: moves the data of one IoTPipeline, from MQTT to Kafka (`bridge`) or from Kafka to
//! TimescaleDB (`process`).
//!
//! It has no Kubernetes client. What it shall do it reads from one file, `crds::worker::WorkerConfig`; how it
//! fares it answers over HTTP.

pub mod clock;
pub mod codec;
pub mod config;
pub mod failpoint;
pub mod headers;
pub mod health;
pub mod http;
pub mod key;
pub mod rejection;
pub mod run;
pub mod secrets;
pub mod shutdown;
pub mod sink;
pub mod source;
pub mod spool;
pub mod suspicion;
pub mod telemetry;
pub mod topology;
pub mod transform;
pub mod waits;
