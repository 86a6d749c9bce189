//! The response: one object that says what was asked, how far it is, and what came of it.

use std::collections::BTreeMap;

use poem_openapi::Object;
use serde::Serialize;

use super::{
    items::ResponsesItem,
    settings::{ResponsesReasoningOptions, ResponsesText, Truncation},
    tools::{ResponsesTool, ResponsesToolChoice},
};
use crate::{
    chat::generation::Tally,
    engine,
    error::{Error, Kind},
    server::{
        desk::Begun,
        openai::options::ServiceTier,
        schema::{FreeObject, wire_constants, wire_enum},
    },
};

wire_constants! {
    ResponseKind = "response",
    ItemListKind = "list",
    InputTokensKind = "response.input_tokens",
}

wire_enum! {
    /// How far a response is.
    pub(crate) enum ResponseStatus {
        InProgress = "in_progress",
        Completed = "completed",
        /// It ended before the model was done.
        Incomplete = "incomplete",
        Cancelled = "cancelled",
        Failed = "failed",
    }
}

wire_enum! {
    /// Why a response is incomplete.
    pub(crate) enum IncompleteReason {
        MaxOutputTokens = "max_output_tokens",
    }
}

wire_enum! {
    /// What kind of failure ended a response.
    pub(crate) enum ResponseErrorCode {
        ServerError = "server_error",
        RateLimitExceeded = "rate_limit_exceeded",
        InvalidPrompt = "invalid_prompt",
    }
}

/// Why a response is incomplete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct IncompleteDetails {
    pub reason: IncompleteReason,
}

/// What ended a response.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponseError {
    pub code: ResponseErrorCode,
    pub message: String,
}

impl From<&Error> for ResponseError {
    fn from(error: &Error) -> Self {
        let code = match error.kind {
            Kind::Invalid => ResponseErrorCode::InvalidPrompt,
            Kind::RateLimited => ResponseErrorCode::RateLimitExceeded,
            _ => ResponseErrorCode::ServerError,
        };
        Self { code, message: error.message.clone() }
    }
}

/// About the tokens of the input.
#[derive(Clone, Copy, Debug, Serialize, Object)]
pub(crate) struct InputTokensDetails {
    /// Taken from the prefix cache instead of being computed.
    pub cached_tokens: u32,
    /// Always 0: there is no price for writing to the cache.
    pub cache_write_tokens: u32,
}

/// About the generated tokens.
#[derive(Clone, Copy, Debug, Serialize, Object)]
pub(crate) struct OutputTokensDetails {
    /// Tokens of reasoning that precede the answer.
    pub reasoning_tokens: u32,
}

/// Tokens that a response took.
#[derive(Clone, Copy, Debug, Serialize, Object)]
pub(crate) struct ResponseUsage {
    pub input_tokens: u32,
    pub input_tokens_details: InputTokensDetails,
    pub output_tokens: u32,
    pub output_tokens_details: OutputTokensDetails,
    pub total_tokens: u32,
}

impl ResponseUsage {
    pub(super) fn new(&Tally { usage, reasoning_tokens, .. }: &Tally) -> Self {
        let engine::Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = usage;
        Self {
            input_tokens: prompt_tokens,
            input_tokens_details: InputTokensDetails { cached_tokens, cache_write_tokens: 0 },
            output_tokens: completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens },
            total_tokens: prompt_tokens + completion_tokens,
        }
    }
}

/// A response.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponseObject {
    /// `resp_` and 24 letters and digits.
    pub id: String,
    pub object: ResponseKind,
    /// Unix time in seconds.
    pub created_at: u64,
    pub status: ResponseStatus,
    /// Unix time in seconds, of a completed response.
    #[oai(nullable)]
    pub completed_at: Option<u64>,
    /// Of a failed response.
    #[oai(nullable)]
    pub error: Option<ResponseError>,
    /// Of an incomplete response.
    #[oai(nullable)]
    pub incomplete_details: Option<IncompleteDetails>,
    #[oai(nullable)]
    pub instructions: Option<String>,
    pub model: String,
    /// What the model thought, said and calls, in this order of events.
    pub output: Vec<ResponsesItem>,
    #[oai(nullable)]
    pub previous_response_id: Option<String>,
    /// Whether it can be retrieved and continued when it is complete.
    pub store: bool,
    /// Nobody waits for it: it is looked up.
    pub background: bool,
    /// What it continues and adds to.
    #[oai(nullable)]
    pub conversation: Option<ConversationName>,
    /// Always null: there are no stored prompts.
    #[oai(nullable)]
    pub prompt: Option<FreeObject>,
    #[oai(nullable)]
    pub max_output_tokens: Option<u32>,
    #[oai(nullable)]
    pub max_tool_calls: Option<u32>,
    pub parallel_tool_calls: bool,
    pub tool_choice: ResponsesToolChoice,
    pub tools: Vec<ResponsesTool>,
    pub temperature: f64,
    pub top_p: f64,
    pub presence_penalty: f64,
    pub frequency_penalty: f64,
    pub top_logprobs: u32,
    pub reasoning: ResponsesReasoningOptions,
    pub text: ResponsesText,
    pub truncation: Truncation,
    pub service_tier: ServiceTier,
    pub metadata: BTreeMap<String, String>,
    #[oai(nullable)]
    pub user: Option<String>,
    #[oai(nullable)]
    pub safety_identifier: Option<String>,
    #[oai(nullable)]
    pub prompt_cache_key: Option<String>,
    /// Null until the response has ended.
    #[oai(nullable)]
    pub usage: Option<ResponseUsage>,
}

/// The conversation to which a response adds.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ConversationName {
    pub id: String,
}

/// A response that is gone.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct DeletedResponse {
    pub id: String,
    pub object: ResponseKind,
    /// Always true.
    pub deleted: bool,
}

/// Some of the items that a response read.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesItemList {
    pub object: ItemListKind,
    pub data: Vec<ResponsesItem>,
    #[oai(nullable)]
    pub first_id: Option<String>,
    #[oai(nullable)]
    pub last_id: Option<String>,
    /// There are more behind `last_id`.
    pub has_more: bool,
}

/// A number of tokens.
#[derive(Clone, Copy, Debug, Serialize, Object)]
pub(crate) struct InputTokens {
    pub object: InputTokensKind,
    /// Tokens of the prompt that the request makes.
    pub input_tokens: usize,
}

impl ResponseObject {
    /// Says what the request left open and is known now.
    pub(super) fn ran_with(&mut self, begun: &Begun) {
        self.model.clone_from(&begun.model);
        // Written as a person would: 0.7 and not its nearest 32-bit neighbour.
        let shown = |value: Option<f32>| (f64::from(value.unwrap_or(1.0)) * 1e6).round() / 1e6;
        self.temperature = shown(begun.sampling.temperature);
        self.top_p = shown(begun.sampling.top_p);
    }
}

impl InputTokens {
    pub(crate) fn new(input_tokens: usize) -> Self {
        Self { object: InputTokensKind::Only, input_tokens }
    }
}
