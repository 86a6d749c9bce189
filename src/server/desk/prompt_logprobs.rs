//! Log-probabilities of a prompt's tokens on the wire, in vLLM's form.

use std::collections::BTreeMap;

use poem_openapi::Object;
use serde::Serialize;

use crate::chat::generation::{TextLogprobs, TokenText};

/// Log-probability of a token of the prompt, or of one that could have stood there.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct PromptLogprob {
    pub logprob: f32,
    /// 1 for the likeliest token.
    pub rank: u32,
    pub decoded_token: String,
}

/// By token id, for each token of the prompt; null for the first, which follows nothing.
pub(crate) type PromptLogprobs = Vec<Option<BTreeMap<String, PromptLogprob>>>;

pub(crate) fn prompt_logprobs(tokens: &[TextLogprobs]) -> PromptLogprobs {
    let entry = |token: &TokenText, logprob: f32, rank: u32| {
        let decoded_token = token.text.clone();
        (token.id.to_string(), PromptLogprob { logprob: finite(logprob), rank, decoded_token })
    };
    let at = |place: &TextLogprobs| {
        let logprob = place.logprob?;
        let ranked = place.top.iter().zip(1..);
        let mut all: BTreeMap<_, _> =
            ranked.map(|((token, logprob), rank)| entry(token, *logprob, rank)).collect();
        all.extend([entry(&place.token, logprob, place.rank)]);
        Some(all)
    };
    tokens.iter().map(at).collect()
}

/// JSON has no infinity; OpenAI writes -9999 for what cannot happen.
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}
