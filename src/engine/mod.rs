//! The engine: token ids in, events out. One named OS thread owns runner, KV blocks and scheduler.

pub mod request;
pub use request::{Sampling, Timings, Usage};

#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    pub running: usize,
    pub waiting: usize,
    pub jobs_submitted: u64,
    pub jobs_failed: u64,
    pub prompt_tokens: u64,
    pub prefix_hit_tokens: u64,
    pub generated_tokens: u64,
    pub kv_usage: f64,
}
pub struct Engine;
