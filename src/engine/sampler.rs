//! Chooses the next token of a sequence.
//!
//! The order is fixed: logit bias, repetition, frequency and presence penalty; here log-probabilities
//! are taken; then the ban of stop tokens before `min_tokens` and the constraint's mask; then
//! temperature, `top_k`, `top_p`, `min_p` and the draw. Temperature 0 takes the largest logit, the
//! lower id among equals. Each token drawn takes exactly one number from the sequence's own
//! generator, so the same request and seed give the same tokens whatever else runs.

use std::collections::HashMap;

use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use kolosal_kernels::sample::{self, Candidate};

use super::guide::{Guide, MaskHelpers};
use super::logits;
use super::request::{Request, Sampling, TokenLogprobs};

/// Logits whose exponentials are summed together when the whole vocabulary is drawn from.
const DRAW_CHUNK: usize = 1024;

/// Candidates looked at first for `top_p`; 8 times as many while they do not suffice.
const NUCLEUS_START: usize = 64;

/// Why no token could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the model computed logits that are not finite numbers")]
    NotFinite,
    #[error("logit_bias, min_tokens and the constraint together ban every token")]
    AllBanned,
    #[error("the constraint cannot go on: {0}")]
    Constraint(String),
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub token: u32,
    pub logprobs: Option<TokenLogprobs>,
}

/// Buffers that sequences share.
#[derive(Debug, Default)]
pub struct Scratch {
    candidates: Vec<Candidate>,
    sums: Vec<f64>,
}

/// Sampling state of one sequence.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: Xoshiro256PlusPlus,
    /// How often each token seen occurred in the output, 0 for those of the prompt alone; kept only
    /// when a penalty asks for it.
    seen: Option<HashMap<u32, u32>>,
    min_tokens: u32,
    stop_tokens: Vec<u32>,
    num_sampled: u32,
    num_logprobs: Option<usize>,
    guide: Option<Guide>,
}

impl Sampler {
    /// Takes the constraint out of the request.
    #[must_use]
    pub fn new(request: &mut Request) -> Self {
        let sampling = request.sampling.clone();
        let penalises = sampling.repetition_penalty != 1.0
            || sampling.frequency_penalty != 0.0
            || sampling.presence_penalty != 0.0;
        // Only the repetition penalty looks at the prompt.
        let prompt = if sampling.repetition_penalty == 1.0 { &[] } else { &*request.prompt };
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(sampling.seed),
            seen: penalises.then(|| prompt.iter().map(|&token| (token, 0)).collect()),
            sampling,
            min_tokens: request.min_tokens,
            stop_tokens: request.stop_tokens.clone(),
            num_sampled: 0,
            num_logprobs: request.logprobs.map(|count| count as usize),
            guide: request.constraint.take().map(Guide::new),
        }
    }

    #[must_use]
    pub fn is_stop(&self, token: u32) -> bool {
        self.stop_tokens.contains(&token)
    }

    /// Whether the constraint lets nothing follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.guide.as_ref().is_some_and(Guide::is_finished)
    }

    /// Has the constraint's next mask computed beside the forward pass.
    pub(super) fn look_ahead(&mut self, helpers: &mut MaskHelpers, vocab_size: usize) {
        if let Some(guide) = &mut self.guide {
            guide.look_ahead(helpers, vocab_size.div_ceil(32));
        }
    }

    /// Tokens that the constraint leaves no choice about.
    pub(super) fn forced(&mut self) -> Vec<u32> {
        self.guide.as_mut().map(Guide::forced).unwrap_or_default()
    }

    /// Chooses a token by one row of logits, which is edited, and takes note of it.
    ///
    /// # Errors
    /// No token can be chosen; the sequence cannot go on.
    pub fn sample(
        &mut self,
        row: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<Sampled, SampleError> {
        let unedited = sample::scan(row);
        if unedited.has_nan {
            return Err(SampleError::NotFinite);
        }
        logits::add_bias(row, &self.sampling.logit_bias);
        self.penalise(row);
        let report = self.num_logprobs.map(|count| Report::new(row, count, scratch));
        if self.num_sampled < self.min_tokens {
            logits::ban(row, &self.stop_tokens);
        }
        let mut is_masked = false;
        if let Some(guide) = &mut self.guide
            && let Some(mask) =
                guide.mask(row.len().div_ceil(32)).map_err(SampleError::Constraint)?
        {
            logits::apply_mask(row, mask);
            is_masked = true;
        }
        let max = if is_masked || self.edits() { sample::scan(row).max } else { unedited.max };
        let token = self.choose(row, max, scratch)?;
        let logprobs = report.map(|report| report.of(token, row));
        self.accept(token)?;
        Ok(Sampled { token, logprobs })
    }

    /// Whether a row is changed before the choice.
    fn edits(&self) -> bool {
        self.seen.is_some()
            || self.num_sampled < self.min_tokens
            || !self.sampling.logit_bias.is_empty()
    }

    fn accept(&mut self, token: u32) -> Result<(), SampleError> {
        self.num_sampled += 1;
        if let Some(seen) = &mut self.seen {
            *seen.entry(token).or_insert(0) += 1;
        }
        match &mut self.guide {
            Some(guide) if !self.stop_tokens.contains(&token) => {
                guide.accept(token).map_err(SampleError::Constraint)
            }
            _ => Ok(()),
        }
    }

    fn penalise(&self, row: &mut [f32]) {
        let Some(seen) = &self.seen else { return };
        let Sampling { repetition_penalty, frequency_penalty, presence_penalty, .. } =
            self.sampling;
        for (&token, &count) in seen {
            let Some(logit) = row.get_mut(token as usize) else { continue };
            if *logit > 0.0 {
                *logit /= repetition_penalty;
            } else {
                *logit *= repetition_penalty;
            }
            if count > 0 {
                *logit -= frequency_penalty * count as f32 + presence_penalty;
            }
        }
    }

    /// `max` is the largest logit of the row.
    fn choose(&mut self, row: &[f32], max: f32, scratch: &mut Scratch) -> Result<u32, SampleError> {
        if max == f32::NEG_INFINITY {
            return Err(SampleError::AllBanned);
        }
        if max == f32::INFINITY {
            return Err(SampleError::NotFinite);
        }
        // Also where 1 / temperature would overflow: the limit is the largest logit.
        if self.sampling.temperature < f32::MIN_POSITIVE {
            return sample::position(row, max).ok_or(SampleError::AllBanned);
        }
        // In [0, 1), with all 53 bits that fit.
        let draw = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let distribution = Distribution { row, max, scale: self.sampling.temperature.recip() };
        let Sampling { top_k, top_p, min_p, .. } = self.sampling;
        let top_k = if top_k as usize >= row.len() { 0 } else { top_k as usize };
        if top_k == 0 && top_p >= 1.0 && min_p <= 0.0 {
            return Ok(distribution.draw_any(draw, &mut scratch.sums));
        }
        let candidates = &mut scratch.candidates;
        if top_k > 0 {
            distribution.top_k(top_k, candidates);
        } else if top_p < 1.0 {
            distribution.nucleus(top_p, candidates);
        } else {
            distribution.at_least(min_p, candidates);
        }
        if top_k > 0 && top_p < 1.0 {
            let total: f64 = candidates.iter().map(|c| f64::from(c.value)).sum();
            truncate_to(candidates, f64::from(top_p) * total);
        }
        // The likeliest token's weight is 1, so min_p itself is the threshold.
        candidates.retain(|candidate| candidate.value >= min_p);
        Ok(draw_from(candidates, draw))
    }
}

/// A row of logits as weights `exp((logit - max) / temperature)`; the likeliest token's is 1.
struct Distribution<'a> {
    row: &'a [f32],
    max: f32,
    scale: f32,
}

impl Distribution<'_> {
    fn weight(&self, logit: f32) -> f32 {
        sample::exp_nonpositive((logit - self.max) * self.scale)
    }

    /// The `count` likeliest tokens with their weights.
    fn top_k(&self, count: usize, out: &mut Vec<Candidate>) {
        sample::top(self.row, count, out);
        for candidate in out {
            candidate.value = self.weight(candidate.value);
        }
    }

    /// The smallest set of likeliest tokens that together have `top_p` of the probability.
    fn nucleus(&self, top_p: f32, out: &mut Vec<Candidate>) {
        let wanted = f64::from(top_p) * sample::sum_exp(self.row, self.max, self.scale);
        let mut count = NUCLEUS_START;
        loop {
            self.top_k(count, out);
            if truncate_to(out, wanted) || count >= self.row.len() {
                return;
            }
            count *= 8;
        }
    }

    /// Tokens of at least this weight, in order of their ids.
    fn at_least(&self, weight: f32, out: &mut Vec<Candidate>) {
        out.clear();
        // A little below the exact bound; the weights themselves are compared later.
        let bound = self.max + weight.ln() / self.scale;
        let bound = bound - bound.abs().max(1.0) * 1e-3;
        for (index, &logit) in self.row.iter().enumerate() {
            if logit >= bound {
                out.push(Candidate { token: index as u32, value: self.weight(logit) });
            }
        }
    }

    /// Draws from the whole vocabulary: one pass sums runs of tokens, then one run is walked.
    fn draw_any(&self, draw: f64, sums: &mut Vec<f64>) -> u32 {
        sums.clear();
        sums.extend(
            self.row.chunks(DRAW_CHUNK).map(|run| sample::sum_exp(run, self.max, self.scale)),
        );
        let mut left = draw * sums.iter().sum::<f64>();
        let mut last_possible = 0;
        for (run, (chunk, &sum)) in self.row.chunks(DRAW_CHUNK).zip(&*sums).enumerate() {
            if sum == 0.0 {
                continue;
            }
            if left >= sum {
                left -= sum;
                last_possible = run;
                continue;
            }
            if let Some(token) = self.walk(chunk, left) {
                return (run * DRAW_CHUNK) as u32 + token;
            }
            last_possible = run;
            left = 0.0;
        }
        // Rounding has carried past the end: the last token that is possible.
        let start = last_possible * DRAW_CHUNK;
        let run = &self.row[start..(start + DRAW_CHUNK).min(self.row.len())];
        let token = run.iter().rposition(|&logit| self.weight(logit) > 0.0);
        (start + token.unwrap_or(0)) as u32
    }

    fn walk(&self, run: &[f32], mut left: f64) -> Option<u32> {
        for (index, &logit) in run.iter().enumerate() {
            let weight = f64::from(self.weight(logit));
            if left < weight {
                return Some(index as u32);
            }
            left -= weight;
        }
        None
    }
}

/// Cuts candidates, likeliest first, behind the one that reaches the wanted sum. False: none does.
fn truncate_to(candidates: &mut Vec<Candidate>, wanted: f64) -> bool {
    let mut sum = 0.0;
    for (index, candidate) in candidates.iter().enumerate() {
        sum += f64::from(candidate.value);
        if sum >= wanted {
            candidates.truncate(index + 1);
            return true;
        }
    }
    false
}

/// Draws from candidates, of which the likeliest has weight 1.
fn draw_from(candidates: &[Candidate], draw: f64) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.value)).sum();
    let mut left = draw * total;
    let mut chosen = 0;
    for candidate in candidates.iter().filter(|candidate| candidate.value > 0.0) {
        chosen = candidate.token;
        let weight = f64::from(candidate.value);
        if left < weight {
            break;
        }
        left -= weight;
    }
    chosen
}

/// Log-probabilities of one row, taken before tokens are banned.
struct Report {
    log_sum: f64,
    top: Vec<(u32, f32)>,
}

impl Report {
    fn new(row: &[f32], count: usize, scratch: &mut Scratch) -> Self {
        let log_sum = logits::log_sum_exp(row);
        sample::top(row, count.min(row.len()), &mut scratch.candidates);
        let logprob = |candidate: &Candidate| {
            (candidate.token, (f64::from(candidate.value) - log_sum) as f32)
        };
        Self { log_sum, top: scratch.candidates.iter().map(logprob).collect() }
    }

    fn of(self, token: u32, row: &[f32]) -> TokenLogprobs {
        let logit = row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let logprob = (f64::from(logit) - self.log_sum) as f32;
        TokenLogprobs { id: token, logprob, top: self.top }
    }
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

#[cfg(test)]
mod tests;
