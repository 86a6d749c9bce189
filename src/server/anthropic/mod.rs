//! Anthropic's dialect: messages, and counting their tokens.
//!
//! Wire types live here and nowhere below, as in the OpenAI dialect. Streams are named server-sent
//! events; errors are `{"type": "error", "error": {type, message}}`.

mod answer;
mod content;
mod conversation;
mod messages;
mod request;
mod stream;
mod tools;

pub(crate) use messages::AnthropicApi;
use poem_openapi::Tags;

use super::reply::Outcomes;

/// Headings of the document.
#[derive(Tags)]
pub(crate) enum AnthropicTag {
    /// Conversations, compatible with Anthropic's API.
    Messages,
}

/// Outcomes of an operation that generates text.
pub(crate) struct Generates;

impl Outcomes for Generates {
    const SUCCESS: (u16, &'static str) = (200, "The answer; with `stream`, server-sent events");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}
