//! What can be wrong with bytes or values that are to be converted.

use super::types::GgmlType;
use crate::memory::OutOfMemory;

/// Why bytes could not be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantError {
    /// The values or the bytes are not a whole number of blocks.
    Length { ty: GgmlType, values: usize, bytes: usize },
    /// There is no quantiser for this type.
    Unsupported(GgmlType),
    /// There is no room for the result.
    Memory(OutOfMemory),
}

impl std::fmt::Display for QuantError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            QuantError::Length { ty, values, bytes } => write!(
                f,
                "{values} values in {bytes} bytes do not fit {ty}, which has {} values in {} bytes",
                ty.block_len(),
                ty.block_bytes()
            ),
            QuantError::Unsupported(ty) => write!(f, "cannot quantise to {ty}"),
            QuantError::Memory(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for QuantError {}
