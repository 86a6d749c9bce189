//! Text to tokens and back: tokenizers, chat templates, stop strings, and what models write around
//! their answers.

mod detokenizer;
pub mod embedding;
mod gate;
mod gbnf;
pub mod generation;
pub mod grammar;
mod reasoning;
pub mod rerank;
mod scanner;
mod stop;
mod template;
mod text_model;
mod tokenizer;
mod tools;

pub use detokenizer::Detokenizer;
pub use reasoning::{Part, ReasoningSplitter, ReasoningTags};
pub use stop::{StopMatcher, StopStep};
pub(crate) use template::strftime;
pub use template::{ChatInput, ChatTemplate, Rendered, TemplateOrigin};
pub use text_model::{ChatPrompt, TextModel};
pub use tokenizer::{Special, Tokenizer, TokenizerError};
pub use tools::{AnswerPart, CallDelta, CallStart, ToolCall, ToolFormat, ToolParser};
