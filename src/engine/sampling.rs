//! How the next token is chosen: parameters and their ranges. [`super::sampler`] does it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Error;

/// Most stages of an explicit order.
pub const MAX_STAGES: usize = 32;
/// Most sequences of tokens that are banned, and tokens in one.
pub const MAX_BANNED: usize = 1024;
pub const MAX_BANNED_LEN: usize = 64;

/// How the next token is chosen. Defaults are OpenAI's: temperature 1, everything else off.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 = greedy.
    pub temperature: f32,
    /// Nucleus, in (0, 1]; 1 = off.
    pub top_p: f32,
    /// 0 = off.
    pub top_k: u32,
    /// Tokens less likely than `min_p` times the likeliest are dropped; 0 = off.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 = off.
    pub repetition_penalty: f32,
    /// Subtracted once per occurrence in the output.
    pub frequency_penalty: f32,
    /// Subtracted once for a token that occurred in the output.
    pub presence_penalty: f32,
    /// The three penalties look at so many last tokens; `None` = at all, 0 = at none.
    pub penalty_last_n: Option<u32>,
    /// Added to the logits: (token id, bias), with -100 and lower a ban.
    pub logit_bias: Vec<(u32, f32)>,
    /// Token sequences that may not stand in the output: the last token of each is banned where the
    /// others precede.
    pub banned: Vec<Vec<u32>>,
    /// Locally typical tokens of this probability are kept, in (0, 1]; 1 = off.
    pub typical_p: f32,
    /// Tokens whose logit is more than so many standard deviations below the largest are dropped; 0 = off.
    pub top_n_sigma: f32,
    pub xtc: Xtc,
    pub dry: Dry,
    /// In place of every truncation of the candidates.
    pub mirostat: Option<Mirostat>,
    /// Chooses among what the stages leave.
    pub adaptive: Option<Adaptive>,
    /// The temperature follows the entropy, between `temperature` less and more this; 0 = off.
    pub temperature_range: f32,
    /// Of the normalised entropy, where the temperature follows it.
    pub temperature_exponent: f32,
    /// Candidates that `top_k`, `top_p`, `min_p`, `typical_p` and XTC leave at least.
    pub min_keep: u32,
    /// Stages in their order, none but these; `None` = [`default_order`].
    pub order: Option<Vec<Stage>>,
    /// Same request and seed, same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: None,
            logit_bias: Vec::new(),
            banned: Vec::new(),
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc: Xtc::default(),
            dry: Dry::default(),
            mirostat: None,
            adaptive: None,
            temperature_range: 0.0,
            temperature_exponent: 1.0,
            min_keep: 0,
            order: None,
            seed: 0,
        }
    }
}

/// A step of the way from logits to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Repetition, frequency and presence.
    Penalties,
    Dry,
    TopNSigma,
    TopK,
    TypicalP,
    TopP,
    MinP,
    Xtc,
    Temperature,
}

impl Stage {
    /// Whether it changes single logits, and drops no candidates.
    pub(super) fn edits(self) -> bool {
        matches!(self, Self::Penalties | Self::Dry)
    }
}

/// The order in which stages run when none is asked for. The temperature comes before every
/// truncation, as OpenAI has it; one that follows the entropy comes last, as it is the entropy of what
/// is left that counts.
#[must_use]
pub fn default_order(follows_entropy: bool) -> Vec<Stage> {
    let truncations =
        [Stage::TopNSigma, Stage::TopK, Stage::TypicalP, Stage::TopP, Stage::MinP, Stage::Xtc];
    let mut order = vec![Stage::Penalties, Stage::Dry];
    if follows_entropy {
        order.extend(truncations);
        order.push(Stage::Temperature);
    } else {
        order.push(Stage::Temperature);
        order.extend(truncations);
    }
    order
}

/// Exclude top choices: with this probability, of the tokens at least as likely as `threshold` only
/// the least likely is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xtc {
    /// 0 = off.
    pub probability: f32,
    /// Above 0.5 = off: two tokens cannot be so likely.
    pub threshold: f32,
}

impl Default for Xtc {
    fn default() -> Self {
        Self { probability: 0.0, threshold: 0.1 }
    }
}

/// Do not repeat yourself: a token that would go on with a repetition loses
/// `multiplier * base ^ (length of the repetition - allowed_length)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// 0 = off.
    pub multiplier: f32,
    /// At least 1.
    pub base: f32,
    pub allowed_length: u32,
    /// Last tokens that are looked at, the prompt's included; `None` = all.
    pub last_n: Option<u32>,
    /// Repetitions do not reach over these.
    pub breakers: Arc<Breakers>,
}

impl Default for Dry {
    fn default() -> Self {
        Self {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            last_n: None,
            breakers: Arc::default(),
        }
    }
}

/// Token sequences that end a repetition: first token to what follows it, which may be nothing.
pub type Breakers = HashMap<u32, Vec<Vec<u32>>>;

/// Keeps the surprise of the tokens near `tau` bits (arXiv 2007.14966).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    pub version: MirostatVersion,
    pub tau: f32,
    /// How fast it learns.
    pub eta: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirostatVersion {
    V1,
    V2,
}

/// Prefers tokens near a probability, and keeps the mean of what is chosen there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    /// From 0 to 1.
    pub target: f32,
    /// How much of a token's share in the mean is left at the next one; below 1.
    pub decay: f32,
}

impl Sampling {
    /// Whether the temperature follows the entropy.
    #[must_use]
    pub fn follows_entropy(&self) -> bool {
        self.temperature_range > 0.0
    }

    /// Checks the ranges that the fields document.
    ///
    /// # Errors
    /// The first field out of range, with its value.
    pub fn validate(&self, vocab_size: usize) -> Result<(), Error> {
        let finite = f32::MIN..=f32::MAX;
        let above_zero = f32::MIN_POSITIVE..=f32::MAX;
        let positive = 0.0..=f32::MAX;
        let mut ranges = vec![
            ("temperature", self.temperature, positive.clone()),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0),
            ("min_p", self.min_p, 0.0..=1.0),
            ("repetition_penalty", self.repetition_penalty, above_zero.clone()),
            ("frequency_penalty", self.frequency_penalty, finite.clone()),
            ("presence_penalty", self.presence_penalty, finite.clone()),
            ("typical_p", self.typical_p, 0.0..=1.0),
            ("top_n_sigma", self.top_n_sigma, positive.clone()),
            ("xtc_probability", self.xtc.probability, 0.0..=1.0),
            ("xtc_threshold", self.xtc.threshold, 0.0..=1.0),
            ("dry_multiplier", self.dry.multiplier, positive.clone()),
            ("dry_base", self.dry.base, 1.0..=f32::MAX),
            ("dynatemp_range", self.temperature_range, positive.clone()),
            ("dynatemp_exponent", self.temperature_exponent, positive.clone()),
        ];
        if let Some(Mirostat { tau, eta, .. }) = self.mirostat {
            ranges.push(("mirostat_tau", tau, positive.clone()));
            ranges.push(("mirostat_eta", eta, positive));
        }
        if let Some(Adaptive { target, decay }) = self.adaptive {
            ranges.push(("adaptive_target", target, 0.0..=1.0));
            ranges.push(("adaptive_decay", decay, 0.0..=0.99));
        }
        for (name, value, range) in ranges {
            if !range.contains(&value) {
                let (start, end) = range.into_inner();
                let message = format!("{name} {value} is not within {start:e} and {end:e}");
                return Err(Error::invalid(name, message));
            }
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab_size || bias.is_nan() || bias == f32::INFINITY {
                let message =
                    format!("bias {bias} of token {token}: the vocabulary's size is {vocab_size}");
                return Err(Error::invalid("logit_bias", message));
            }
        }
        let longest = self.banned.iter().map(Vec::len).max().unwrap_or(0);
        let counts = [
            ("samplers", self.order.as_ref().map_or(0, Vec::len), MAX_STAGES),
            ("bad_words", self.banned.len(), MAX_BANNED),
            ("bad_words", longest, MAX_BANNED_LEN),
        ];
        for (name, count, limit) in counts {
            if count > limit {
                return Err(Error::invalid(name, format!("{name}: {count}, limit {limit}")));
            }
        }
        Ok(())
    }
}
