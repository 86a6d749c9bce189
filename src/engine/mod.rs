//! The engine: token ids in, events out. One named OS thread owns runner, KV blocks and scheduler.

pub mod request;
