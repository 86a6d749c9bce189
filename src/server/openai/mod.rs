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
mod logprobs;
mod models;
mod options;
mod responses;
mod usage;

pub(crate) use chat::ChatApi;
pub(crate) use chat_request::ChatCompletionRequest;
pub(crate) use completion_request::CompletionRequest;
pub(crate) use completions::CompletionApi;
pub(crate) use embeddings::{EmbeddingApi, EmbeddingRequest};
pub(crate) use models::ModelApi;
use poem_openapi::Tags;

pub use responses::ResponseLimits;
pub(crate) use responses::{CreateResponse, InputTokens, ResponseApi, ResponseStore};

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
