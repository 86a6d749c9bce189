//! Models: GGUF and safetensors files, architectures as data, one decoder over the flat batch, and the [`Runner`]
//! seam through which the engine drives them. candle appears in this module alone.

mod altup;
pub mod arch;
mod attention;
pub mod batch;
pub mod carried;
pub mod decoder;
pub mod error;
pub mod fake;
mod ffn;
mod gated;
pub mod gguf;
mod latent;
mod layer;
mod layer_inputs;
pub mod load;
mod loader;
pub mod memory;
mod moe;
pub mod ops;
pub mod options;
mod quantize;
mod recurrent;
pub mod reference;
mod rope;
pub mod runner;
pub mod safetensors;
pub mod spec;
pub mod threads;
pub mod weights;

pub use batch::{BLOCK, Batch, Span, SpanState, StateSave};
pub use error::ModelError;
pub use load::{check, estimate_bytes, load_runner, open};
pub use options::{DeviceChoice, RunnerOptions};
pub use quantize::Quantize;
pub use runner::{KvGrowth, Logits, Pooling, Purpose, Runner, RunnerError, RunnerSpec};
