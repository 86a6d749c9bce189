//! What can be wrong with a GGUF file.

use std::io;
use std::path::PathBuf;

use crate::error::{Error, Kind};
use crate::model::memory::refusal;

/// Why a GGUF file cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} changed from {before} to {after} bytes while it was open", path.display())]
    Changed { path: PathBuf, before: u64, after: u64 },
    #[error("{} was written to while it was read", path.display())]
    Written { path: PathBuf },
    #[error("{}", refusal(*.wanted))]
    Memory { wanted: u64 },
    /// What it holds instead is nobody's business: clients may name any file.
    #[error("not a GGUF file: it does not begin with \"GGUF\"")]
    NotGguf,
    #[error("what is read is no longer wanted")]
    Unwanted,
    #[error("GGUF version {version} is not supported; 2 and 3 are")]
    Version { version: u32 },
    #[error("big-endian GGUF file: convert it to little-endian first")]
    BigEndian,
    #[error("file ends early: {what} needs {needed} bytes at offset {offset}, {remaining} remain")]
    Truncated { what: String, offset: u64, needed: u64, remaining: u64 },
    #[error("{what} is {value}; the limit is {limit}")]
    Limit { what: String, value: u64, limit: u64 },
    #[error("{what}: {problem}")]
    Malformed { what: String, problem: String },
    #[error("{what} {name:?} occurs twice")]
    Duplicate { what: &'static str, name: String },
    #[error("tensor {tensor:?} has the unknown type {id}")]
    UnknownType { tensor: String, id: u32 },
    #[error("tensor {tensor:?}: {problem}")]
    Tensor { tensor: String, problem: String },
    #[error("metadata key {key:?} is missing")]
    Missing { key: String },
    #[error("metadata key {key:?} is {found}, not {expected}")]
    WrongType { key: String, expected: &'static str, found: String },
    #[error("split model: {0}")]
    Split(String),
    /// A failure in one file of a split model.
    #[error("{}: {source}", path.display())]
    Shard { path: PathBuf, source: Box<GgufError> },
}

impl GgufError {
    pub(in crate::model) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: io::Error,
    ) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(in crate::model) fn malformed(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), problem: problem.into() }
    }

    pub(in crate::model) fn tensor(tensor: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Tensor { tensor: tensor.into(), problem: problem.into() }
    }
}

impl From<GgufError> for Error {
    fn from(error: GgufError) -> Self {
        if let GgufError::Memory { .. } = error {
            return Self::unavailable(error.to_string(), 10).with_code("insufficient_memory");
        }
        Self::new(Kind::ModelLoading, error.to_string())
    }
}
