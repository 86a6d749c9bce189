//! What enters the engine and what comes out: token ids and numbers, never text.

use std::fmt;

use super::draft::Drafts;
use super::sampling::Sampling;
use super::scheduler::Scheduler;
use crate::error::Error;
use crate::model::{Purpose, RunnerSpec};

/// One sequence to generate. Built by `chat`, already validated against the model's limits.
#[derive(Debug, Default)]
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
    /// What the probabilities of generated tokens are about.
    pub logprobs_of: LogprobsOf,
    /// The same for the prompt's own tokens (`echo`).
    pub prompt_logprobs: Option<u32>,
    /// What the output is likely to be, guessed by the caller; it never changes the output.
    pub prediction: Vec<u32>,
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
        if !spec.writes() {
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
        Request { prompt: self.prompt, cache_salt: self.cache_salt, ..Request::default() }
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

/// Which probabilities of generated tokens are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogprobsOf {
    /// The model's, after logit bias and penalties and before temperature.
    #[default]
    Model,
    /// Those that the token was drawn by, after the samplers.
    Draw,
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

    /// Any token may come next, and no mask is needed.
    fn is_free(&self) -> bool {
        false
    }

    /// Tokens that the rules leave no choice about, as they are likeliest to be written. A guess: the
    /// engine computes their rows in one step and keeps what it would have chosen anyway.
    fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }
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

/// Log-probability (natural) of a token and of its likeliest alternatives: see [`LogprobsOf`].
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub id: u32,
    pub logprob: f32,
    /// 1 for the likeliest token.
    pub rank: u32,
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
    /// The first token of the prompt that differs from the cached prompt that has most in common with it.
    pub parted_at: Option<u32>,
    pub completion_tokens: u32,
    pub drafts: Drafts,
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
