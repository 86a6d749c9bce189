//! What enters the engine and what comes out: token ids and numbers, never text.

use std::fmt;

use super::scheduler::Scheduler;
use crate::error::Error;
use crate::model::{Purpose, RunnerSpec};

/// One sequence to generate. Built by `chat`, already validated against the model's limits.
#[derive(Debug)]
pub struct Request {
    /// Prompt token ids; not empty.
    pub prompt: Vec<u32>,
    /// How many tokens to generate at most; at least 1, or 0 when `prompt_logprobs` alone are wanted,
    /// and `prompt.len() + max_tokens` fits the context.
    pub max_tokens: u32,
    /// Stop tokens are banned before this many tokens have been generated.
    pub min_tokens: u32,
    /// Tokens that end the sequence; they are reported as the reason, not as output.
    pub stop_tokens: Vec<u32>,
    pub sampling: Sampling,
    /// Wanted alternatives per generated token: `None` = no log-probabilities, `Some(0)` = the chosen alone.
    pub logprobs: Option<u32>,
    /// The same for the prompt's own tokens (`echo`).
    pub prompt_logprobs: Option<u32>,
    /// Sequences share cached prefixes only within one salt.
    pub cache_salt: u64,
    /// Token mask from a grammar.
    pub constraint: Option<Box<dyn Constraint>>,
}

impl Request {
    /// Checks the request against a model's limits.
    ///
    /// # Errors
    /// The first limit that is passed, with its value and that of the request.
    pub fn validate(&self, spec: &RunnerSpec) -> Result<(), Error> {
        if spec.is_encoder() {
            let text = match spec.purpose {
                Purpose::Rank => "this model ranks documents (/v1/rerank); it writes no text",
                _ => "this model makes embeddings (/v1/embeddings); it writes no text",
            };
            return Err(Error::invalid("model", text).with_code("model_not_generative"));
        }
        validate_prompt(&self.prompt, spec)?;
        let (prompt_len, vocab_size) = (self.prompt.len(), spec.vocab_size);
        if self.max_tokens == 0 && self.prompt_logprobs.is_none() {
            return Err(Error::invalid("max_tokens", "max_tokens 0 is below 1"));
        }
        if self.min_tokens > self.max_tokens {
            let (min, max) = (self.min_tokens, self.max_tokens);
            let message = format!("min_tokens {min} exceeds max_tokens {max}");
            return Err(Error::invalid("min_tokens", message));
        }
        let (max_tokens, context) = (self.max_tokens as usize, spec.context_len);
        if prompt_len + max_tokens > context {
            let message = format!(
                "max_tokens {max_tokens} exceeds context {context} with a prompt of {prompt_len} tokens"
            );
            return Err(Error::invalid("max_tokens", message).with_code("context_length_exceeded"));
        }
        let needed = Scheduler::blocks_needed(prompt_len, max_tokens);
        if needed > spec.num_blocks {
            let message = format!(
                "max_tokens {max_tokens} with a prompt of {prompt_len} tokens needs {needed} blocks \
                 of KV, the pool has {}",
                spec.num_blocks
            );
            return Err(Error::invalid("max_tokens", message).with_code("context_length_exceeded"));
        }
        self.sampling.validate(vocab_size)
    }
}

/// One text whose embedding is wanted: the pooled hidden states of its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbedRequest {
    /// Token ids; not empty, and no more than the context holds.
    pub prompt: Vec<u32>,
    /// Sequences share cached prefixes only within one salt.
    pub cache_salt: u64,
    /// Where the second of two texts begins, for models that score pairs.
    pub second_from: Option<u32>,
}

impl EmbedRequest {
    /// Checks the request against a model's limits.
    ///
    /// # Errors
    /// As [`Request::validate`], or the model has no hidden states to give.
    pub fn validate(&self, spec: &RunnerSpec) -> Result<(), Error> {
        if spec.hidden == 0 {
            return Err(Error::invalid("model", "this model gives no embeddings"));
        }
        validate_prompt(&self.prompt, spec)?;
        let (prompt_len, context) = (self.prompt.len(), spec.context_len);
        let blocks = Scheduler::blocks_needed(prompt_len, 0);
        if prompt_len > context || blocks > spec.num_blocks {
            let message = format!("{prompt_len} tokens exceed the context of {context}");
            return Err(Error::invalid("prompt", message).with_code("context_length_exceeded"));
        }
        Ok(())
    }

    /// As the engine sees it: a sequence of which nothing is generated.
    pub(super) fn into_request(self) -> Request {
        Request {
            prompt: self.prompt,
            max_tokens: 0,
            min_tokens: 0,
            stop_tokens: Vec::new(),
            sampling: Sampling::default(),
            logprobs: None,
            prompt_logprobs: None,
            cache_salt: self.cache_salt,
            constraint: None,
        }
    }
}

fn validate_prompt(prompt: &[u32], spec: &RunnerSpec) -> Result<(), Error> {
    if prompt.is_empty() {
        return Err(Error::invalid("prompt", "the prompt has no tokens"));
    }
    let vocab_size = spec.vocab_size;
    if let Some(token) = prompt.iter().find(|&&token| token as usize >= vocab_size) {
        let message = format!("token {token} is not below the vocabulary's size {vocab_size}");
        return Err(Error::invalid("prompt", message));
    }
    Ok(())
}

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
    /// Added to the logits: (token id, bias), with -100 and lower a ban.
    pub logit_bias: Vec<(u32, f32)>,
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
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks the ranges that the fields document.
    ///
    /// # Errors
    /// The first field out of range, with its value.
    pub fn validate(&self, vocab_size: usize) -> Result<(), Error> {
        let finite = f32::MIN..=f32::MAX;
        let above_zero = f32::MIN_POSITIVE..=f32::MAX;
        let ranges = [
            ("temperature", self.temperature, 0.0..=f32::MAX),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0),
            ("min_p", self.min_p, 0.0..=1.0),
            ("repetition_penalty", self.repetition_penalty, above_zero),
            ("frequency_penalty", self.frequency_penalty, finite.clone()),
            ("presence_penalty", self.presence_penalty, finite.clone()),
        ];
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
        Ok(())
    }
}

/// A token mask that follows the output, such as a grammar. Fails closed.
pub trait Constraint: Send + fmt::Debug {
    /// Bit `id` of `mask` (word `id / 32`, bit `id % 32`) is set when the token may come next.
    ///
    /// # Errors
    /// The constraint cannot go on; the sequence ends with this error.
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String>;

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// The token was not allowed.
    fn accept(&mut self, token: u32) -> Result<(), String>;

    /// The output so far is complete and nothing may follow but a stop token.
    fn is_finished(&self) -> bool;
}

/// Progress of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A part of the prompt is in the KV cache.
    Prefill { processed: u32, cached: u32, total: u32 },
    /// Log-probabilities of the prompt's tokens, from the second on, when asked for.
    PromptLogprobs(Vec<TokenLogprobs>),
    /// One generated token.
    Token { id: u32, logprobs: Option<TokenLogprobs> },
    /// The sequence is complete.
    Finished(Outcome),
    /// The sequence ended by a failure; its partial output stays readable.
    Failed(Error),
}

/// Log-probability (natural) of a token and of its likeliest alternatives, after logit bias and penalties
/// and before temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub id: u32,
    pub logprob: f32,
    /// Likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Why a sequence ended and what it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub reason: FinishReason,
    pub usage: Usage,
    pub timings: Timings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token, or the constraint is complete.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The job was cancelled.
    Cancelled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// Of the prompt, taken from the prefix cache.
    pub cached_tokens: u32,
    pub completion_tokens: u32,
}

/// Wall-clock times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    pub queue_ms: f64,
    pub prefill_ms: f64,
    /// From submission to the first token.
    pub ttft_ms: f64,
    pub decode_ms: f64,
}
