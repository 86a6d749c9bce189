//! Token counts of an answer.

use poem_openapi::Object;
use serde::Serialize;

use crate::engine::request;

/// Tokens that a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Object)]
pub(crate) struct Usage {
    /// Tokens of the prompt; counted once, however many completions it has.
    pub prompt_tokens: u32,
    /// Generated tokens of all completions.
    pub completion_tokens: u32,
    pub total_tokens: u32,
    pub prompt_tokens_details: PromptTokensDetails,
    pub completion_tokens_details: CompletionTokensDetails,
}

/// About the prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Object)]
pub(crate) struct PromptTokensDetails {
    /// Taken from the prefix cache instead of being computed.
    pub cached_tokens: u32,
    /// Always 0: audio is not supported.
    pub audio_tokens: u32,
}

/// About the generated tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Object)]
pub(crate) struct CompletionTokensDetails {
    /// Tokens of reasoning that precede the answer.
    pub reasoning_tokens: u32,
    /// Always 0: audio is not supported.
    pub audio_tokens: u32,
    /// Always 0: predictions are not supported.
    pub accepted_prediction_tokens: u32,
    /// Always 0: predictions are not supported.
    pub rejected_prediction_tokens: u32,
}

impl Usage {
    /// Adds a completion of the same prompt.
    pub(crate) fn add_choice(&mut self, usage: request::Usage) {
        // What the first completion computes its siblings find in the cache; the least is what the
        // request itself found there.
        let cached = &mut self.prompt_tokens_details.cached_tokens;
        let is_first = self.prompt_tokens == 0;
        *cached = if is_first { usage.cached_tokens } else { usage.cached_tokens.min(*cached) };
        self.prompt_tokens = usage.prompt_tokens;
        self.completion_tokens += usage.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }

    /// Adds the tokens of another prompt.
    pub(crate) fn add_prompt(&mut self, other: &Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.total_tokens += other.total_tokens;
        self.prompt_tokens_details.cached_tokens += other.prompt_tokens_details.cached_tokens;
    }
}
