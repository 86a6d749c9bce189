//! stand-in.
use std::collections::VecDeque;
use std::sync::Arc;

use super::{ChatInput, TextModel};
use crate::engine::{Engine, Timings, Usage, request};
use crate::error::{Error, Result};
pub const MAX_CHOICES: u32 = 128;
pub const MAX_STOPS: usize = 16;
pub const MAX_STOP_BYTES: usize = 1024;
pub const MAX_STOP_TOKENS: usize = 128;
pub const MAX_LOGPROBS: u32 = 20;
#[derive(Clone, Debug)]
pub enum PromptInput {
    Chat(ChatInput),
    Text(String),
    Tokens(Vec<u32>),
}
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    pub prompt: PromptInput,
    pub max_tokens: Option<u32>,
    pub default_max_tokens: Option<u32>,
    pub min_tokens: u32,
    pub n: u32,
    pub best_of: Option<u32>,
    pub sampling: request::Sampling,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
    pub include_stop: bool,
    pub stop_token_ids: Vec<u32>,
    pub ignore_eos: bool,
    pub logprobs: Option<u32>,
    pub echo: bool,
    pub cache_salt: Option<String>,
}
impl GenerationRequest {
    pub fn new(prompt: PromptInput) -> Self {
        Self {
            prompt,
            max_tokens: None,
            default_max_tokens: None,
            min_tokens: 0,
            n: 1,
            best_of: None,
            sampling: request::Sampling::default(),
            seed: None,
            stop: vec![],
            include_stop: false,
            stop_token_ids: vec![],
            ignore_eos: false,
            logprobs: None,
            echo: false,
            cache_salt: None,
        }
    }
}
#[derive(Clone, Debug, PartialEq)]
pub struct TextLogprobs {
    pub token: TokenText,
    pub logprob: Option<f32>,
    pub top: Vec<(TokenText, f32)>,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText {
    pub id: u32,
    pub text: String,
    pub bytes: Vec<u8>,
}
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    pub index: u32,
    pub text: String,
    pub tokens: Vec<u32>,
    pub logprobs: Vec<TextLogprobs>,
}
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Prefill { index: u32, processed: u32, cached: u32, total: u32 },
    Delta(Delta),
    Finished(Finished),
    Failed { index: u32, error: Error },
}
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub index: u32,
    pub reason: FinishReason,
    pub usage: Usage,
    pub timings: Timings,
    pub stop_string: Option<String>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    Length,
}
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    pub choices: Vec<CollectedChoice>,
    pub usage: Usage,
    pub timings: Timings,
}
#[derive(Clone, Debug, PartialEq)]
pub struct CollectedChoice {
    pub index: u32,
    pub text: String,
    pub tokens: Vec<u32>,
    pub logprobs: Vec<TextLogprobs>,
    pub reason: FinishReason,
    pub stop_string: Option<String>,
}
pub struct Generation(VecDeque<Output>);
impl Generation {
    pub async fn next(&mut self) -> Option<Output> {
        self.0.pop_front()
    }
    pub fn usage(&self) -> Usage {
        Usage::default()
    }
    pub async fn collect(self) -> Result<Collected> {
        Ok(Collected { choices: vec![], usage: Usage::default(), timings: Timings::default() })
    }
}
pub async fn generate_all(
    _: &Arc<TextModel>,
    _: &Engine,
    _: Vec<GenerationRequest>,
) -> Result<Generation> {
    Ok(Generation(VecDeque::new()))
}
