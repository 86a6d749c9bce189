//! Chooses the next token of a sequence.
//!
//! First the row of logits is edited: logit bias, then penalties and DRY. Here log-probabilities are
//! taken; then come the bans of stop tokens before `min_tokens` and of sequences, and the constraint's
//! mask. The choice follows by the stages of [`Sampling::order`]. Where none is asked for and nothing
//! is wanted beyond temperature, `top_k`, `top_p` and `min_p`, the vocabulary is not sorted
//! (`draw`); otherwise all tokens are candidates (`candidates`) and each stage makes them fewer.
//! Mirostat takes the place of all truncations, and adaptive-p chooses among what they leave.
//!
//! Each token takes one number from the sequence's own generator, and before it another one where XTC
//! is on; a greedy choice takes none. The same request and seed thus give the same tokens whatever
//! else runs.

mod adaptive;
mod banned;
mod candidates;
mod draw;
mod dry;
mod mirostat;
mod penalty;
mod report;

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use kolosal_kernels::sample::{self, Candidate};

use super::guide::{Guide, MaskHelpers};
use super::logits;
use super::request::{LogprobsOf, Request, TokenLogprobs};
use super::sampling::{Sampling, Stage, default_order};
use adaptive::Pull;
use banned::Banned;
use candidates::Candidates;
use draw::{Distribution, draw_from, truncate_to};
use dry::Repetitions;
use mirostat::Surprise;
use penalty::Penalties;
use report::Report;

pub use report::prompt_logprobs;

/// Why no token could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the model computed logits that are not finite numbers")]
    NotFinite,
    #[error("logit_bias, min_tokens, bad_words and the constraint together ban every token")]
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
    selected: Vec<Candidate>,
    candidates: Candidates,
    sums: Vec<f64>,
}

/// How a token is chosen from an edited row.
#[derive(Debug)]
enum Choice {
    /// The likeliest.
    Greedy,
    /// By temperature, `top_k`, `top_p` and `min_p`, in this order.
    Plain,
    /// By these stages.
    Chain(Vec<Stage>),
    /// By these stages and this rule.
    Mirostat(Vec<Stage>, Surprise),
    Adaptive(Vec<Stage>, Pull),
}

/// Sampling state of one sequence.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: Xoshiro256PlusPlus,
    /// Stages that edit the row before log-probabilities are taken.
    edits: Vec<Stage>,
    choice: Choice,
    penalties: Option<Penalties>,
    repetitions: Option<Repetitions>,
    banned: Option<Banned>,
    min_tokens: u32,
    stop_tokens: Vec<u32>,
    num_sampled: u32,
    num_logprobs: Option<usize>,
    logprobs_of: LogprobsOf,
    guide: Option<Guide>,
}

impl Sampler {
    /// Takes the constraint out of the request.
    #[must_use]
    pub fn new(request: &mut Request) -> Self {
        let sampling = request.sampling.clone();
        let logprobs_of = request.logprobs.map_or(LogprobsOf::Model, |_| request.logprobs_of);
        let (edits, choice) = plan(&sampling, logprobs_of);
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(sampling.seed),
            edits,
            choice,
            penalties: Penalties::new(&sampling, &request.prompt),
            repetitions: Repetitions::new(&sampling.dry, &request.prompt),
            banned: Banned::new(&sampling.banned),
            sampling,
            min_tokens: request.min_tokens,
            stop_tokens: request.stop_tokens.clone(),
            num_sampled: 0,
            num_logprobs: request.logprobs.map(|count| count as usize),
            logprobs_of,
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
        self.edit(row);
        let of_model = self.num_logprobs.filter(|_| self.logprobs_of == LogprobsOf::Model);
        let report = of_model.map(|count| Report::new(row, count, scratch));
        let is_masked = self.ban(row)?;
        let max = if is_masked || self.is_edited() { sample::scan(row).max } else { unedited.max };
        if max == f32::NEG_INFINITY {
            return Err(SampleError::AllBanned);
        }
        if max == f32::INFINITY {
            return Err(SampleError::NotFinite);
        }
        let token = self.choose(row, max, scratch)?;
        let logprobs = match (report, self.num_logprobs) {
            (Some(report), _) => Some(report.of(token, row)),
            (None, Some(count)) => Some(report::drawn(&mut scratch.candidates, token, count)),
            (None, None) => None,
        };
        self.accept(token)?;
        Ok(Sampled { token, logprobs })
    }

    /// Penalties that come before the candidates.
    fn edit(&self, row: &mut [f32]) {
        for stage in &self.edits {
            match (stage, &self.penalties, &self.repetitions) {
                (Stage::Penalties, Some(penalties), _) => penalties.edit_row(row),
                (Stage::Dry, _, Some(repetitions)) => repetitions.edit_row(row),
                _ => {}
            }
        }
    }

    /// Whether the constraint bans anything.
    fn ban(&mut self, row: &mut [f32]) -> Result<bool, SampleError> {
        if self.num_sampled < self.min_tokens {
            logits::ban(row, &self.stop_tokens);
        }
        if let Some(banned) = &self.banned {
            banned.edit_row(row);
        }
        let Some(guide) = &mut self.guide else { return Ok(false) };
        let mask = guide.mask(row.len().div_ceil(32)).map_err(SampleError::Constraint)?;
        if let Some(mask) = mask {
            logits::apply_mask(row, mask);
        }
        Ok(mask.is_some())
    }

    /// Whether a row is changed before the choice.
    fn is_edited(&self) -> bool {
        self.penalties.is_some()
            || self.repetitions.is_some()
            || self.banned.is_some()
            || self.num_sampled < self.min_tokens
            || !self.sampling.logit_bias.is_empty()
    }

    fn accept(&mut self, token: u32) -> Result<(), SampleError> {
        self.num_sampled += 1;
        if let Some(penalties) = &mut self.penalties {
            penalties.push(token);
        }
        if let Some(repetitions) = &mut self.repetitions {
            repetitions.push(token);
        }
        if let Some(banned) = &mut self.banned {
            banned.push(token);
        }
        match &mut self.guide {
            Some(guide) if !self.stop_tokens.contains(&token) => {
                guide.accept(token).map_err(SampleError::Constraint)
            }
            _ => Ok(()),
        }
    }

    /// `max` is the largest logit of the row, and finite.
    fn choose(&mut self, row: &[f32], max: f32, scratch: &mut Scratch) -> Result<u32, SampleError> {
        if matches!(self.choice, Choice::Greedy) {
            return sample::position(row, max).ok_or(SampleError::AllBanned);
        }
        if matches!(self.choice, Choice::Plain) {
            let draw = self.draw();
            return Ok(self.choose_plain(row, max, draw, scratch));
        }
        let excludes = self.sampling.xtc.probability > 0.0
            && self.draw() < f64::from(self.sampling.xtc.probability);
        let draw = self.draw();
        let candidates = &mut scratch.candidates;
        let (Choice::Chain(stages) | Choice::Mirostat(stages, _) | Choice::Adaptive(stages, _)) =
            &self.choice
        else {
            return Err(SampleError::AllBanned);
        };
        match self.leading_top_k(stages, excludes) {
            Some(count) => candidates.fill_top(row, count),
            None => candidates.fill(row),
        }
        stages.iter().for_each(|stage| self.run(*stage, candidates, excludes));
        match &mut self.choice {
            Choice::Mirostat(_, surprise) => Ok(surprise.choose(candidates, row.len(), draw)),
            Choice::Adaptive(_, pull) => Ok(pull.choose(candidates, draw)),
            _ => {
                candidates.weigh();
                Ok(candidates.draw(draw))
            }
        }
    }

    /// In [0, 1), with all 53 bits that fit.
    fn draw(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many tokens the first stage that drops any leaves, if that is the `top_k` likeliest: then
    /// the others need not become candidates.
    fn leading_top_k(&self, stages: &[Stage], excludes: bool) -> Option<usize> {
        let sampling = &self.sampling;
        let keeps_all = |stage: &&Stage| match stage {
            Stage::Penalties => self.penalties.is_none(),
            Stage::Dry => self.repetitions.is_none(),
            Stage::TopNSigma => sampling.top_n_sigma <= 0.0,
            Stage::TopK => sampling.top_k == 0,
            Stage::TypicalP => sampling.typical_p >= 1.0,
            Stage::TopP => sampling.top_p >= 1.0,
            Stage::MinP => sampling.min_p <= 0.0,
            Stage::Xtc => !excludes,
            Stage::Temperature => {
                sampling.temperature >= f32::MIN_POSITIVE && !sampling.follows_entropy()
            }
        };
        let first = stages.iter().find(|stage| !keeps_all(stage))?;
        (*first == Stage::TopK).then(|| sampling.top_k.max(sampling.min_keep) as usize)
    }

    fn run(&self, stage: Stage, candidates: &mut Candidates, excludes: bool) {
        let sampling = &self.sampling;
        let min_keep = sampling.min_keep as usize;
        match stage {
            Stage::Penalties => {
                if let Some(penalties) = &self.penalties {
                    penalties.edit_candidates(candidates);
                }
            }
            Stage::Dry => {
                if let Some(repetitions) = &self.repetitions {
                    repetitions.edit_candidates(candidates);
                }
            }
            Stage::TopNSigma => candidates.top_n_sigma(sampling.top_n_sigma),
            Stage::TopK if sampling.top_k > 0 => {
                candidates.top_k((sampling.top_k as usize).max(min_keep));
            }
            Stage::TopK => {}
            Stage::TypicalP => candidates.typical_p(sampling.typical_p, min_keep),
            Stage::TopP => candidates.top_p(sampling.top_p, min_keep),
            Stage::MinP => candidates.min_p(sampling.min_p, min_keep),
            Stage::Xtc if excludes => candidates.exclude_top(sampling.xtc.threshold, min_keep),
            Stage::Xtc => {}
            Stage::Temperature if sampling.follows_entropy() => {
                let (middle, range) = (sampling.temperature, sampling.temperature_range);
                let low = (middle - range).max(0.0);
                candidates.temperature_by_entropy(
                    low,
                    middle + range,
                    sampling.temperature_exponent,
                );
            }
            Stage::Temperature => candidates.temperature(sampling.temperature),
        }
    }

    fn choose_plain(&self, row: &[f32], max: f32, draw: f64, scratch: &mut Scratch) -> u32 {
        let distribution = Distribution { row, max, scale: self.sampling.temperature.recip() };
        let Sampling { top_k, top_p, min_p, .. } = self.sampling;
        let top_k = if top_k as usize >= row.len() { 0 } else { top_k as usize };
        if top_k == 0 && top_p >= 1.0 && min_p <= 0.0 {
            return distribution.draw_any(draw, &mut scratch.sums);
        }
        let selected = &mut scratch.selected;
        if top_k > 0 {
            distribution.top_k(top_k, selected);
        } else if top_p < 1.0 {
            distribution.nucleus(top_p, selected);
        } else {
            distribution.at_least(min_p, selected);
        }
        if top_k > 0 && top_p < 1.0 {
            let total: f64 = selected.iter().map(|c| f64::from(c.value)).sum();
            truncate_to(selected, f64::from(top_p) * total);
        }
        // The likeliest token's weight is 1, so min_p itself is the threshold.
        selected.retain(|candidate| candidate.value >= min_p);
        draw_from(selected, draw)
    }
}

/// The leading edits, and how the choice is made.
fn plan(sampling: &Sampling, logprobs_of: LogprobsOf) -> (Vec<Stage>, Choice) {
    let follows_entropy = sampling.follows_entropy();
    let mut order = sampling.order.clone().unwrap_or_else(|| default_order(follows_entropy));
    let split = order.iter().position(|stage| !stage.edits()).unwrap_or(order.len());
    let rest = order.split_off(split);
    let is_plain = sampling.order.is_none()
        && logprobs_of == LogprobsOf::Model
        && sampling.min_keep <= 1
        && sampling.typical_p >= 1.0
        && sampling.top_n_sigma <= 0.0
        && sampling.xtc.probability <= 0.0;
    // Also where 1 / temperature would overflow: the limit is the largest logit.
    let is_cold = sampling.temperature < f32::MIN_POSITIVE && !follows_entropy;
    let choice = if is_cold && sampling.order.is_none() && logprobs_of == LogprobsOf::Model {
        Choice::Greedy
    } else if let Some(rule) = sampling.mirostat {
        let edits = rest.into_iter().filter(|stage| stage.edits());
        Choice::Mirostat(edits.chain([Stage::Temperature]).collect(), Surprise::new(rule))
    } else if let Some(rule) = sampling.adaptive {
        Choice::Adaptive(rest, Pull::new(rule))
    } else if is_plain && !follows_entropy {
        Choice::Plain
    } else {
        Choice::Chain(rest)
    };
    (order, choice)
}

#[cfg(test)]
mod tests;
