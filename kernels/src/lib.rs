//! CPU kernels of Kolosal Server: slices in, slices out, no I/O and no model knowledge.
//!
//! - [`pool`]: the spinning thread pool every kernel runs on
//! - [`detect`]: which instruction tier this machine has
//! - [`quant`]: the GGUF tensor formats, exact dequantisation (the oracle), quantisation
//! - [`linear`]: packed weights, quantised activations, `out = acts · Wᵀ`
//! - [`attention`], [`rope`], [`norm`], [`elementwise`]: everything between the matrix
//!   products
//! - [`recurrence`]: layers that carry a state from token to token
//! - [`memory`]: buffers that go back to the system
//! - [`sample`]: passes over a row of logits
//! - `simd` and `math`: sixteen lanes on every tier; `exp` and friends on them
//!
//! Invariant of the whole crate: the value of an output row depends only on that row's own
//! inputs. It is the same bits for every batch size, neighbour, thread count and chunking.

// Kernels index by several things at once, cast within buffers whose alignment they keep, and write
// constants as their papers do.
#![allow(clippy::cast_ptr_alignment, clippy::excessive_precision, clippy::needless_range_loop)]

pub mod activation;
pub mod affinity;
pub mod attention;
pub mod detect;
pub mod elementwise;
pub mod linear;
mod math;
pub mod memory;
pub mod norm;
mod parallel;
pub mod pool;
pub mod quant;
pub mod recurrence;
pub mod rope;
pub mod rows;
pub mod sample;
mod simd;

pub use activation::Activation;
pub use rows::{Rows, RowsMut};
