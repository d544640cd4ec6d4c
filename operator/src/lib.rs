//! The IoTPipeline operator: makes true what an `IoTPipeline` says, and keeps it true.
//!
//! `reconcile` is the story on one page; read it first.

pub mod change;
pub mod kafka;
pub mod pipeline;
pub mod timescale;
