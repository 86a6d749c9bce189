//! Text to tokens and back: tokenizers, chat templates, stop strings, and what models write around
//! their answers.

mod breakers;
pub mod conversation;
mod defaults;
mod detokenizer;
mod easing;
pub mod embedding;
mod gate;
mod gbnf;
pub mod generation;
pub mod grammar;
mod grammar_cache;
mod infill;
mod json_pieces;
pub(crate) mod partial;
pub mod preparation;
mod rank_template;
mod reasoning;
pub mod rerank;
mod scanner;
mod stop;
mod template;
mod text_defaults;
mod text_model;
mod tokenizer;
mod tools;

pub use breakers::DEFAULT_BREAKERS;
pub use conversation::ChatInput;
pub use defaults::SamplingDefaults;
pub use detokenizer::Detokenizer;
pub use infill::{ExtraFile, Infill};
pub use reasoning::{Part, ReasoningSplitter, ReasoningTags};
pub use stop::{StopMatcher, StopStep};
#[cfg(test)]
pub(crate) use template::message_json;
pub(crate) use template::strftime;
pub use template::{ChatTemplate, Rendered, TemplateOrigin, builtin_template};
pub use text_defaults::TextDefaults;
pub use text_model::{ChatPrompt, TextModel, TextOptions, Unread};
pub use tokenizer::{FillIn, Patience, Special, Stopped, Tokenizer, TokenizerError, Until};
pub use tools::{
    AnswerPart, CallDelta, CallStart, Callable, Ending, ToolCall, ToolFormat, ToolParser,
};
