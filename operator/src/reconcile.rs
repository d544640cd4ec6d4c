//! The story on one page.

pub mod validate;
