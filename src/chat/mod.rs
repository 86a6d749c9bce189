//! Text to tokens and back: tokenizers, chat templates, stop strings, and what models write around
//! their answers.

mod detokenizer;
mod gbnf;
pub mod generation;
pub mod grammar;
mod stop;
mod template;
mod text_model;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use stop::{StopMatcher, StopStep};
pub use template::{ChatInput, ChatTemplate, Rendered, TemplateOrigin};
pub use text_model::TextModel;
pub use tokenizer::{Special, Tokenizer, TokenizerError};
