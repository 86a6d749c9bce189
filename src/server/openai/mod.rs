//! The OpenAI dialect: chat completions, text completions, embeddings, models.
//!
//! Wire types live here and nowhere below. A request is checked, translated and handed to
//! `chat::generation`; what comes back is translated again. Nothing is decided here.

mod answer;
mod chat;
mod chat_answer;
mod chat_request;
mod completion_answer;
mod completion_request;
mod completions;
mod embeddings;
mod local;
mod logprobs;
mod message;
mod models;
mod options;
mod responses;
mod sampling;
mod structured;
mod timings;
mod tools;
mod usage;

pub(crate) use chat::ChatApi;
pub(crate) use completions::CompletionApi;
pub(crate) use embeddings::EmbeddingApi;
pub(crate) use models::ModelApi;
use poem_openapi::Tags;

pub(crate) use answer::{Running, progress, random_id, unix_time_s};
pub(crate) use local::{Extras, LocalFields, last_n, mirostat, with_local_fields};
pub(crate) use logprobs::{PromptLogprobs, finite, prompt_logprobs};
pub(crate) use message::{FunctionCall, MAX_MESSAGES, Message, ToolCall, ToolKind, conversation};
pub use responses::ResponseLimits;
pub(crate) use responses::{InputTokens, Owner, ResponseApi, ResponseStore};
pub(crate) use sampling::{LogitBias, SamplingFields, within};
pub(crate) use structured::{ResponseFormat, StructuredFields, check_name};
pub(crate) use timings::{PromptProgress, Timings};
pub(crate) use tools::{MAX_TOOLS, Tool, ToolChoice, ToolFields, ToolMode};

use super::{AppState, auth::Caller, lease::lease, reply::Outcomes};
use std::sync::Arc;

use crate::{
    chat::{
        ChatInput, Patience, Unread, Until,
        preparation::{conversation_bytes, stopped},
    },
    error::Result,
};

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

/// Outcomes of an operation that generates text.
pub(crate) struct Generates;

impl Outcomes for Generates {
    const SUCCESS: (u16, &'static str) = (200, "The answer; with `stream`, server-sent events");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}

/// Outcomes of counting tokens.
pub(crate) struct Counts;

impl Outcomes for Counts {
    const SUCCESS: (u16, &'static str) = (200, "The number of tokens");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}

/// Outcomes of an operation that embeds texts.
pub(crate) struct Embeds;

impl Outcomes for Embeds {
    const SUCCESS: (u16, &'static str) = (200, "The vectors");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}

/// Outcomes of a list.
pub(crate) struct Lists;

impl Outcomes for Lists {
    const SUCCESS: (u16, &'static str) = (200, "What there is");
    const FAILURES: &'static [u16] = &[401, 500, 503];
}

/// Outcomes of a look at one thing.
pub(crate) struct Looks;

impl Outcomes for Looks {
    const SUCCESS: (u16, &'static str) = (200, "What was asked for");
    const FAILURES: &'static [u16] = &[400, 401, 404, 500, 503];
}

/// Tokens of a conversation that are counted at least, however small the model's context.
const MAX_COUNTED: usize = 1 << 20;

/// Tokens of the prompt that a conversation makes on the engine of this name, which may have to load.
/// What of it cannot be read is told to the caller.
pub(crate) async fn count_tokens(
    state: &AppState,
    caller: &Caller,
    model: &str,
    input: ChatInput,
) -> Result<usize> {
    let lease = lease(state, model).await?;
    let text = Arc::clone(&lease.text);
    let max_tokens = (2 * lease.engine.spec().context_len).max(MAX_COUNTED);
    let bytes = conversation_bytes(&input);
    let counting = move |patience: &Patience| {
        let until = Until { max_tokens, patience: patience.clone() };
        match text.prompt(&input, &until) {
            Ok(prompt) => Ok((prompt.tokens.len(), prompt.left_out)),
            Err(Unread::Refused(error)) => Err(error),
            Err(Unread::Stopped(why)) => Err(stopped(why, "messages", |least| {
                format!("the conversation has at least {least} tokens, limit {max_tokens}")
            })),
        }
    };
    let (count, left_out) = lease.text.preparations().run(bytes, counting).await?;
    caller.tell(&left_out);
    Ok(count)
}
