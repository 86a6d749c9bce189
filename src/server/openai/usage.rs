//! Token counts of an answer.

use poem_openapi::Object;
use serde::Serialize;

use crate::{
    chat::generation::Tally,
    engine,
    server::desk::{Now, Wanted},
};

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
    /// Tokens of `prediction` that were computed ahead and are part of the answer.
    pub accepted_prediction_tokens: u32,
    /// Tokens of `prediction` that were computed ahead and are not.
    pub rejected_prediction_tokens: u32,
}

impl Usage {
    /// What a piece of a stream has of it: nothing, null, or the counts so far.
    #[allow(clippy::option_option)]
    pub(crate) fn of_piece(wanted: Wanted, now: Now<'_>) -> Option<Option<Self>> {
        let is_told = wanted.include_usage && wanted.continuous_usage;
        wanted.include_usage.then(|| is_told.then(|| Self::new(&now())))
    }

    pub(crate) fn new(&Tally { usage, reasoning_tokens, .. }: &Tally) -> Self {
        let engine::Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = usage;
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens, audio_tokens: 0 },
            completion_tokens_details: CompletionTokensDetails {
                reasoning_tokens,
                audio_tokens: 0,
                accepted_prediction_tokens: usage.drafts.predicted_right,
                rejected_prediction_tokens: usage.drafts.predicted_wrong,
            },
        }
    }
}
