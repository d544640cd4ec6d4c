//! The operator's Kafka half against a real broker: `make test` says where it is and how to come in.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod connections;
mod harness;
mod rights;
mod topics;
