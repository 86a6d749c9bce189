//! The engine: token ids in, events out. One named OS thread owns runner, KV blocks and scheduler.

pub mod request;

#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    pub running: usize,
    pub waiting: usize,
}
pub struct Engine;
