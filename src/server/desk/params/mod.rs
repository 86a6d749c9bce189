//! The table: every parameter of requests for text, once.
//!
//! A new one is an entry here, its name in the lists of the dialects that have it, and its use.

mod output;
mod sampling;
mod service;
mod shared;

pub(crate) use output::*;
pub(crate) use sampling::*;
pub(crate) use service::*;
pub(crate) use shared::*;

use super::{Draft, WireParam};

type Row = WireParam<Draft>;

const U32: (i64, i64) = (0, u32::MAX as i64);
const I64: (i64, i64) = (i64::MIN, i64::MAX);
/// -1 is all.
const LAST: (i64, i64) = (-1, i32::MAX as i64);

/// A count of tokens; negative: all, or no bound.
fn count(count: i64) -> Option<u32> {
    u32::try_from(count).ok()
}

/// Joins lists of parameters.
pub(crate) const fn join<const N: usize>(lists: &[&[Row]]) -> [Row; N] {
    let mut all = [TEMPERATURE; N];
    let (mut list, mut at) = (0, 0);
    while list < lists.len() {
        let mut i = 0;
        while i < lists[list].len() {
            all[at] = lists[list][i];
            (i, at) = (i + 1, at + 1);
        }
        list += 1;
    }
    assert!(at == N, "the lists have another length");
    all
}

/// What local servers (llama-server, vLLM, LM Studio) have beyond OpenAI's API.
pub(crate) const LOCAL: [Row; 35] = [
    TYPICAL_P,
    TOP_N_SIGMA,
    XTC_PROBABILITY,
    XTC_THRESHOLD,
    DRY_MULTIPLIER,
    DRY_BASE,
    DRY_ALLOWED_LENGTH,
    DRY_PENALTY_LAST_N,
    DRY_SEQUENCE_BREAKERS,
    MIROSTAT,
    MIROSTAT_TAU,
    MIROSTAT_ETA,
    ADAPTIVE_TARGET,
    ADAPTIVE_DECAY,
    DYNATEMP_RANGE,
    DYNATEMP_EXPONENT,
    REPEAT_LAST_N,
    MIN_KEEP,
    SAMPLERS,
    N_PROBS,
    POST_SAMPLING_PROBS,
    PROMPT_LOGPROBS,
    INCLUDE_STOP,
    BAD_WORDS,
    N_PREDICT,
    T_MAX_PREDICT_MS,
    TIMINGS_PER_TOKEN,
    RETURN_PROGRESS,
    RETURN_TOKENS,
    RETURN_TOKEN_IDS,
    CACHE_PROMPT,
    ID_SLOT,
    N_KEEP,
    N_DISCARD,
    N_INDENT,
];
/// And how engines are kept and requests named.
pub(crate) const LOCAL_SERVICE: [Row; 4] = [KEEP_ALIVE, TTL, PRIORITY, REQUEST_ID];
/// What llama-server's own routes for text have beside [`LOCAL`].
pub(crate) const LLAMA: [Row; 13] = [
    STREAM,
    MAX_TOKENS.within(0.0, u32::MAX as f64).saying("Another name of `n_predict`."),
    TEMPERATURE,
    TOP_P,
    TOP_K,
    MIN_P,
    PRESENCE_PENALTY,
    FREQUENCY_PENALTY,
    REPEAT_PENALTY,
    LOGIT_BIAS,
    SEED_OR_RANDOM,
    STOP,
    IGNORE_EOS,
];
/// What OpenAI's own requests for text share, and close relatives of it.
pub(crate) const SAMPLING: [Row; 14] = [
    TEMPERATURE,
    TOP_P,
    TOP_K,
    MIN_P,
    PRESENCE_PENALTY,
    FREQUENCY_PENALTY,
    REPETITION_PENALTY,
    REPEAT_PENALTY,
    LOGIT_BIAS,
    SEED,
    STOP,
    STOP_TOKEN_IDS,
    N,
    CACHE_SALT,
];
/// Ways to ask for the form of an answer.
pub(crate) const FORMS: [Row; 7] = [
    RESPONSE_FORMAT,
    GRAMMAR,
    GUIDED_JSON,
    GUIDED_REGEX,
    GUIDED_CHOICE,
    GUIDED_GRAMMAR,
    STRUCTURED_OUTPUTS,
];
