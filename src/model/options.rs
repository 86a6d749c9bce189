//! How a model is to run: what whoever loads it may choose.

use super::quantize::Quantize;

/// How a model is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerOptions {
    /// Compute threads on the CPU; 0 = one for each core, or for each of `cpus`.
    pub threads: usize,
    /// Processors that the threads are bound to, one after the other; empty = to none.
    pub cpus: Vec<usize>,
    /// Positions that a sequence may have; capped by what the model was trained for. 0 = that, as far as
    /// `max_kv_bytes` hold it.
    pub n_ctx: usize,
    /// Sequences that may run at once; sizes the KV pool.
    pub n_parallel: usize,
    /// Rows in one batch.
    pub max_rows: usize,
    /// Upper bound of the KV pool and of states in bytes; one context and one sequence's state fit
    /// regardless. 0 = a quarter of what the weights leave of the machine's memory.
    pub max_kv_bytes: usize,
    pub device: DeviceChoice,
    /// Matrices in floats are brought to this type on the way into memory.
    pub quantize: Option<Quantize>,
    /// On the CPU, matrices are locked in memory as far as the system lets it.
    pub lock_weights: bool,
}

/// Where a model runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this build has support for one and one is there, else the CPU.
    #[default]
    Auto,
    /// Our kernels.
    Cpu,
    /// candle's portable CPU path: the oracle, for comparison.
    CandleCpu,
    /// The numbered GPU.
    Gpu(usize),
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            cpus: Vec::new(),
            n_ctx: 0,
            n_parallel: 16,
            max_rows: 512,
            max_kv_bytes: 0,
            device: DeviceChoice::Auto,
            quantize: None,
            lock_weights: false,
        }
    }
}
