//! Log-probabilities of a row, for those who ask.

use kolosal_kernels::sample::{self, Candidate};

use super::candidates::Candidates;
use super::{SampleError, Scratch};
use crate::engine::logits;
use crate::engine::request::TokenLogprobs;

/// Log-probabilities of one row, taken before tokens are banned.
pub(super) struct Report {
    log_sum: f64,
    top: Vec<(u32, f32)>,
}

impl Report {
    pub(super) fn new(row: &[f32], count: usize, scratch: &mut Scratch) -> Self {
        let log_sum = logits::log_sum_exp(row);
        sample::top(row, count.min(row.len()), &mut scratch.selected);
        let logprob = |candidate: &Candidate| {
            (candidate.token, (f64::from(candidate.value) - log_sum) as f32)
        };
        Self { log_sum, top: scratch.selected.iter().map(logprob).collect() }
    }

    /// The rank is that among the tokens of `row`, of which some may be banned.
    pub(super) fn of(self, token: u32, row: &[f32]) -> TokenLogprobs {
        let logit = row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let logprob = (f64::from(logit) - self.log_sum) as f32;
        let rank = 1 + row.iter().filter(|other| **other > logit).count() as u32;
        TokenLogprobs { id: token, logprob, rank, top: self.top }
    }
}

/// Logarithms of the probabilities by which a token was drawn; candidates that were dropped have none.
pub(super) fn drawn(candidates: &mut Candidates, token: u32, count: usize) -> TokenLogprobs {
    let weights = candidates.weights();
    let total: f64 = weights.iter().map(|c| f64::from(c.value)).sum();
    let log = |weight: f32| (f64::from(weight) / total).ln() as f32;
    let weight = weights.iter().find(|c| c.token == token).map_or(0.0, |c| c.value);
    let rank = 1 + weights.iter().filter(|c| c.value > weight).count() as u32;
    let top = candidates.likeliest(count).iter().map(|c| (c.token, log(c.value)));
    TokenLogprobs { id: token, logprob: log(weight), rank, top: top.collect() }
}

/// Log-probability of a prompt's token by the unedited row before it.
///
/// # Errors
/// The logits are not numbers.
pub fn prompt_logprobs(
    row: &[f32],
    token: u32,
    count: u32,
    scratch: &mut Scratch,
) -> Result<TokenLogprobs, SampleError> {
    if sample::scan(row).has_nan {
        return Err(SampleError::NotFinite);
    }
    Ok(Report::new(row, count as usize, scratch).of(token, row))
}
