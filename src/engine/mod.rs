//! The engine: token ids in, events out. One named OS thread owns runner, KV blocks and scheduler.

pub mod request;
pub mod batch;
pub mod block;
pub mod budget;
pub mod logits;
pub mod prefix;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
