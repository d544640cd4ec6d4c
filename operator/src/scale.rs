//! How many processors there shall be.

pub mod policy;
