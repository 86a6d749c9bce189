//! Why a model cannot be loaded.

use kolosal_kernels::memory::OutOfMemory;

use super::gguf::GgufError;
use super::memory::refusal;

/// Failure to turn a file into a runner; the text tells a person what is missing.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("architecture '{0}' is not supported; supported: {1}")]
    UnknownArchitecture(String, String),
    #[error("metadata key '{0}' is missing")]
    MissingKey(String),
    #[error("metadata key '{key}': {problem}")]
    BadKey { key: String, problem: String },
    #[error("tensor '{0}' is missing")]
    MissingTensor(String),
    #[error("tensor '{name}' has shape {found:?}, expected {expected:?}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor '{name}' ({ty}): {problem}")]
    BadTensor { name: String, ty: &'static str, problem: String },
    #[error("tensors that architecture '{architecture}' does not use: {names}")]
    UnusedTensors { architecture: String, names: String },
    #[error("device '{device}': {problem}")]
    Device { device: String, problem: String },
    #[error("{}", refusal(*.wanted))]
    Memory { wanted: u64 },
    #[error("{0}")]
    Limit(String),
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
}

impl From<OutOfMemory> for ModelError {
    fn from(error: OutOfMemory) -> Self {
        Self::Memory { wanted: error.wanted as u64 }
    }
}

impl From<ModelError> for crate::error::Error {
    fn from(error: ModelError) -> Self {
        match error {
            // Lack of memory is no fault of the model.
            ModelError::Memory { .. } | ModelError::Gguf(GgufError::Memory { .. }) => {
                return Self::unavailable(error.to_string(), 10).with_code("insufficient_memory");
            }
            _ => {}
        }
        Self::new(crate::error::Kind::ModelLoading, error.to_string())
            .with_code("model_loading_failed")
    }
}
