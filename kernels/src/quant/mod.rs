//! The tensor formats of GGUF files: block sizes, exact dequantisation, quantisation.

mod types;

pub use types::GgmlType;
