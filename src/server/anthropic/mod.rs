//! Anthropic's dialect: messages, and counting their tokens.
//!
//! Wire types live here and nowhere below, as in the OpenAI dialect. Streams are named server-sent
//! events; errors are `{"type": "error", "error": {type, message}}`.

mod answer;
mod content;
mod conversation;
mod events;
mod messages;
mod render;
mod request;
mod tools;

pub(crate) use messages::AnthropicApi;
use poem_openapi::Tags;
pub(crate) use request::MessagesRequest;

/// Headings of the document.
#[derive(Tags)]
pub(crate) enum AnthropicTag {
    /// Conversations, compatible with Anthropic's API.
    Messages,
}
