//! Times of an answer, and how much of its prompt has been read, in llama-server's form.

use std::time::Instant;

use poem_openapi::Object;
use serde::Serialize;

use crate::chat::generation::{Beat, Tally};

/// Tokens and times of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Object)]
pub(crate) struct Timings {
    /// Tokens of the prompt that the prefix cache had.
    pub cache_n: u32,
    /// The first token of the prompt that differs from the cached one that has most in common with it; at
    /// the end of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_parted: Option<CacheParted>,
    /// Tokens of the prompt that were computed.
    pub prompt_n: u32,
    /// From the first computed token of the prompt to the first of the answer.
    pub prompt_ms: f64,
    pub prompt_per_token_ms: f64,
    pub prompt_per_second: f64,
    /// Tokens generated so far.
    pub predicted_n: u32,
    pub predicted_ms: f64,
    pub predicted_per_token_ms: f64,
    pub predicted_per_second: f64,
    /// Tokens that were guessed and computed ahead, if any were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_n: Option<u32>,
    /// Of them, those that were right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_n_accepted: Option<u32>,
}

/// Where a prompt left what was cached.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct CacheParted {
    /// Position in the prompt, in tokens.
    pub position: u32,
    /// The token there and those that follow, as text.
    pub text: String,
}

impl Timings {
    pub(crate) fn new(tally: &Tally) -> Self {
        let Tally { usage, timings, parted, .. } = tally;
        let parted =
            parted.clone().map(|parted| CacheParted { position: parted.at, text: parted.text });
        let prompt_n = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        let predicted_n = usage.completion_tokens;
        let drafts = Some(usage.drafts).filter(|drafts| drafts.computed > 0);
        let (prompt_per_token_ms, prompt_per_second) = rates(prompt_n, timings.prefill_ms);
        let (predicted_per_token_ms, predicted_per_second) = rates(predicted_n, timings.decode_ms);
        Self {
            cache_n: usage.cached_tokens,
            cache_parted: parted,
            prompt_n,
            prompt_ms: timings.prefill_ms,
            prompt_per_token_ms,
            prompt_per_second,
            predicted_n,
            predicted_ms: timings.decode_ms,
            predicted_per_token_ms,
            predicted_per_second,
            draft_n: drafts.map(|drafts| drafts.computed),
            draft_n_accepted: drafts.map(|drafts| drafts.right),
        }
    }
}

/// Milliseconds per token, and tokens per second; 0 where there is nothing to divide by.
fn rates(count: u32, ms: f64) -> (f64, f64) {
    let count = f64::from(count);
    let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    (ratio(ms, count), ratio(count * 1e3, ms))
}

/// How much of a prompt has been read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Object)]
pub(crate) struct PromptProgress {
    /// Tokens of the prompt.
    pub total: u32,
    /// Of them, taken from the prefix cache.
    pub cache: u32,
    /// Read so far, those of the cache included.
    pub processed: u32,
    /// Since the answer was begun.
    pub time_ms: u64,
}

/// The progress that a beat tells; `None` for any other.
pub(crate) fn progress(beat: &Beat, began: Instant) -> Option<PromptProgress> {
    let Beat::Progress { processed, cached, total } = *beat else { return None };
    let time_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Some(PromptProgress { total, cache: cached, processed, time_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_even_of_nothing() {
        assert_eq!(rates(0, 0.0), (0.0, 0.0));
        assert_eq!(rates(0, 5.0), (0.0, 0.0));
        assert_eq!(rates(4, 2.0), (0.5, 2000.0));
    }
}
