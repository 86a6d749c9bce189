//! The OpenAI dialect: chat completions, text completions, embeddings, models.
//!
//! Wire types live here and nowhere below. A request is checked, translated and handed to
//! `chat::generation`; what comes back is translated again. Nothing is decided here.

mod chat;
mod chat_answer;
mod chat_request;
mod completion_answer;
mod completion_request;
mod completions;
mod embeddings;
mod finish;
mod local;
mod logprobs;
mod message;
mod models;
mod options;
mod responses;
mod sampling;
mod structured;
mod tools;
mod usage;

pub(crate) use chat::ChatApi;
pub(crate) use completions::CompletionApi;
pub(crate) use embeddings::EmbeddingApi;
pub(crate) use models::ModelApi;
use poem_openapi::Tags;

use super::desk::Wanted;

pub(crate) use local::{Extras, LocalFields, last_n, mirostat, with_local_fields};
pub(crate) use message::{
    FunctionCall, MAX_MESSAGES, Message, ToolCall, ToolKind, content, conversation,
};
pub use responses::ResponseLimits;
pub(crate) use responses::{InputTokens, ResponseApi, ResponseStore};
pub(crate) use sampling::{LogitBias, SamplingFields, within};
pub(crate) use structured::{ResponseFormat, StructuredFields, check_name};
pub(crate) use tools::{MAX_TOOLS, Tool, ToolChoice, ToolFields, ToolMode};

impl From<Extras> for Wanted {
    fn from(Extras { timings, progress, tokens, .. }: Extras) -> Self {
        Self { timings, progress, tokens, ..Self::default() }
    }
}

/// Headings of the document.
#[derive(Tags)]
pub(crate) enum OpenAiTag {
    /// Conversations, compatible with OpenAI's API.
    Chat,
    /// Conversations of items that the server may keep, compatible with OpenAI's API.
    Responses,
    /// Plain text continuation, compatible with OpenAI's API.
    Completions,
    /// Texts as vectors, compatible with OpenAI's API.
    Embeddings,
    /// What can be asked.
    Models,
}
