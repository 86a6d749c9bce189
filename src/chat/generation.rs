//! stand-in.
use std::collections::VecDeque;
use std::sync::Arc;

use super::{ChatInput, TextModel};
use crate::engine::{Engine, request};
use crate::error::{Error, Result};
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
    pub min_tokens: u32,
    pub n: u32,
    pub best_of: Option<u32>,
    pub sampling: request::Sampling,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<u32>,
    pub ignore_eos: bool,
    pub logprobs: Option<u32>,
    pub echo: bool,
    pub cache_salt: Option<String>,
}
#[derive(Clone, Debug)]
pub struct TextLogprobs {
    pub token: String,
    pub bytes: Vec<u8>,
    pub logprob: f32,
    pub top: Vec<(String, Vec<u8>, f32)>,
}
pub enum Output {
    Prefill {},
    Delta { index: u32, text: String, tokens: Vec<u32>, logprobs: Vec<TextLogprobs> },
    Finished { index: u32, reason: request::FinishReason, usage: request::Usage },
    Failed { index: u32, error: Error },
}
pub struct Generation(VecDeque<Output>);
impl Generation {
    pub async fn next(&mut self) -> Option<Output> {
        self.0.pop_front()
    }
}
pub async fn generate(
    _: &Arc<TextModel>,
    _: &Engine,
    request: GenerationRequest,
) -> Result<Generation> {
    let mut out = VecDeque::new();
    for index in 0..request.n {
        out.push_back(Output::Delta {
            index,
            text: "hi".into(),
            tokens: vec![1],
            logprobs: vec![],
        });
        out.push_back(Output::Finished {
            index,
            reason: request::FinishReason::Stop,
            usage: request::Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 1 },
        });
    }
    Ok(Generation(out))
}
