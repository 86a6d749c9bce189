//! Models: GGUF files, architectures as data, one decoder over the flat batch, and the [`Runner`]
//! seam through which the engine drives them. candle appears in this module alone.

pub mod batch;
pub mod fake;
pub mod gguf;
pub mod runner;

pub use batch::{BLOCK, Batch, Span};
pub use runner::{Logits, Runner, RunnerError, RunnerSpec};
