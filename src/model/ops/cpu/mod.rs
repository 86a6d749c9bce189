//! The CPU back end: our kernels on plain buffers.
//!
//! Every operation computes a row from that row alone, in an order that does not depend on batch,
//! chunking or threads, so logits are bitwise the same whoever else is served.

mod attention;
mod backend;
mod elementwise;
mod linear;
mod load;
mod locking;
mod recurrence;
mod tensor;

pub use backend::CpuOps;
