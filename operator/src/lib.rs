//! The IoTPipeline operator: makes true what an `IoTPipeline` says, and keeps it true.
//!
//! `reconcile` is the story on one page; read it first.

pub mod args;
pub mod build;
pub mod change;
pub mod compiler;
pub mod context;
pub mod controller;
pub mod error;
pub mod kafka;
pub mod kubernetes;
pub mod lease;
pub mod memory;
pub mod outage;
pub mod packed;
pub mod pipeline;
pub mod probe;
pub mod rbac;
pub mod reconcile;
pub mod rollouts;
pub mod run;
pub mod scale;
pub mod telemetry;
#[cfg(test)]
mod test_support;
pub mod timescale;
