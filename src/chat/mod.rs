//! Text to tokens and back: tokenizers, chat templates, stop strings, and what models write around
//! their answers.

mod detokenizer;
mod stop;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use stop::{StopMatcher, StopStep};
pub use tokenizer::{Special, Tokenizer, TokenizerError};
