//! TimescaleDB: rows, dead letters and positions, written in one transaction for each batch.
//!
//! [`intake`] runs on the thread of the source: it makes rows and fills a batch. [`writer`] runs on a thread of
//! its own and copies the batch before. The rest is theirs: what a batch is, the statements, the connection.

pub mod arrays;
pub mod batch;
pub mod breaker;
pub mod connect;
pub mod encode;
pub mod failure;
pub mod intake;
pub mod limit;
pub mod metrics;
pub mod positions;
pub mod readiness;
pub mod repeats;
pub mod rows;
pub mod statements;
pub mod transaction;
pub mod unmapped;
pub mod writer;
