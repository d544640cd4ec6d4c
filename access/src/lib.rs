//! How outside systems are reached: what a spec and its Secrets say, turned into the settings of a client. Operator
//! and worker connect with the same rules, so that what one of them can reach the other can too.
//!
//! No I/O: whoever holds the Secrets passes their values in.

pub mod database;
pub mod kafka;
pub mod tls;
