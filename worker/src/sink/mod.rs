//! Where data goes: one module for each system.

pub mod kafka;
pub mod spool;
pub mod timescale;
