//! cli.

pub mod progress;
