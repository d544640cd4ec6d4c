//! Where data comes from: one module for each system.

pub mod kafka;
pub mod mqtt;
