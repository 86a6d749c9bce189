//! Ollama's dialect: chat, generate, embed, and what there is.
//!
//! Wire types live here and nowhere below, as in the OpenAI dialect. Answers are streamed as one JSON
//! object a line unless `stream` is false; errors are `{"error": "…"}`.

mod answer;
mod create;
mod embed_request;
mod generate;
mod modelfile;
mod models;
mod request;
mod store;
mod time;

pub(crate) use create::{OllamaCreateApi, register_made};
pub(crate) use embed_request::OllamaEmbedRequest;
pub(crate) use generate::OllamaApi;
pub(crate) use models::OllamaModelApi;
use poem_openapi::Tags;
pub(crate) use request::{OllamaChatRequest, OllamaGenerateRequest};
pub(crate) use store::OllamaStoreApi;

use super::reply::Outcomes;

/// Headings of the document.
#[derive(Tags)]
pub(crate) enum OllamaTag {
    /// Ollama's own API.
    Ollama,
}

/// Outcomes of an operation that generates text.
pub(crate) struct Generates;

impl Outcomes for Generates {
    const SUCCESS: (u16, &'static str) =
        (200, "The answer, one object a line; with `stream` false, one object");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}
