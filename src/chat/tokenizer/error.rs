//! What can be wrong with a vocabulary.

use crate::error::{Error, Kind};
use crate::model::gguf::GgufError;

/// Why a tokenizer cannot be built from a model file.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("the model file has no {0}")]
    Missing(&'static str),
    #[error("tokenizer model {name:?} is not supported; supported are {known}")]
    UnknownModel { name: String, known: &'static str },
    #[error("pre-tokenizer type {name:?} is not known; known are {known}")]
    UnknownPreType { name: String, known: String },
    #[error("{what} has {found} entries; the limit is {limit}")]
    TooMany { what: &'static str, found: usize, limit: usize },
    #[error("{what} has {found} entries for {expected} tokens")]
    Count { what: &'static str, found: usize, expected: usize },
    #[error("token {id} is {length} bytes long; the limit is {limit}")]
    TokenTooLong { id: usize, length: usize, limit: usize },
    #[error("tokens {first} and {second} have the same text {text:?}")]
    Duplicate { first: u32, second: u32, text: String },
    #[error("token {id} has type byte and the text {text:?}, not <0x00> to <0xFF>")]
    ByteToken { id: usize, text: String },
    #[error("the score of token {id} is not a number")]
    Score { id: usize },
    #[error("merge {index} is {text:?}, not two parts with a space between")]
    Merge { index: usize, text: String },
    #[error("the precompiled character map is malformed: {0}")]
    CharacterMap(&'static str),
    #[error("{0}")]
    Internal(String),
}

impl From<TokenizerError> for Error {
    fn from(error: TokenizerError) -> Self {
        let kind = match error {
            TokenizerError::Internal(_) => Kind::Internal,
            _ => Kind::ModelLoading,
        };
        Self::new(kind, format!("tokenizer: {error}"))
    }
}
