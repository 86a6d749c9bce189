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

use super::{desk::read, ignored::Ignored};
use crate::{
    chat::generation::GenerationRequest,
    error::{Error, Result},
};
pub use responses::ResponseLimits;

pub(crate) use responses::{
    ConversationApi, CreateResponse, InputTokens, ResponseApi, ResponseStore,
};

/// Reads a request as `/v1/chat/completions` does, for whoever generates without a server. Nothing is
/// left out: what is not known is an error.
///
/// # Errors
/// What is wrong with it, with its path.
pub fn read_chat(body: &serde_json::Value) -> Result<GenerationRequest> {
    let text = body.to_string();
    let request: ChatCompletionRequest = read(text.as_bytes(), &Ignored::nothing())?;
    let first = request.into_ask()?.prompts.into_iter().next();
    first.ok_or_else(|| Error::internal("a chat request has no prompt"))
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
