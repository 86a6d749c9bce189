//! Ollama's answers of chat and generate: one object, or one a line as text comes.

use std::time::Instant;

use futures_util::Stream;
use poem_openapi::Object;
use serde::Serialize;

use super::{request::Speaker, time};
use crate::{
    chat::{
        CallDelta, ToolCall,
        generation::{Delta, FinishReason, Generation, Output},
    },
    engine::Timings,
    error::{Error, Result},
    registry::Lease,
    server::schema::{FreeObject, wire_enum},
};

wire_enum! {
    /// Why an answer ends.
    pub(crate) enum DoneReason {
        /// The model's end token, or a stop string.
        Stop = "stop",
        /// As many tokens as were allowed.
        Length = "length",
        /// The model was loaded and nothing was asked.
        Load = "load",
        /// The model is unloaded and nothing was asked.
        Unload = "unload",
    }
}

/// The assistant's part of a conversation.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaAnswerMessage {
    pub role: Speaker,
    pub content: String,
    /// What the model thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Functions that the model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<OllamaAnswerCall>>,
}

/// A function that the model calls.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaAnswerCall {
    pub id: String,
    pub function: OllamaAnswerFunction,
}

/// Name and arguments of a called function.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaAnswerFunction {
    /// Position among the calls of the answer.
    pub index: u32,
    pub name: String,
    pub arguments: FreeObject,
}

impl OllamaAnswerCall {
    fn new(call: ToolCall) -> Self {
        // An object in any case: of a call that was cut, as much as came.
        let arguments = FreeObject(call.object());
        let function = OllamaAnswerFunction { index: call.index, name: call.name, arguments };
        Self { id: call.id, function }
    }
}

/// What an answer took; absent before its end. Durations are in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Costs {
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u32,
    prompt_eval_duration: u64,
    eval_count: u32,
    eval_duration: u64,
}

/// One line of a chat, or all of it.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaChatAnswer {
    pub model: String,
    pub created_at: String,
    pub message: OllamaAnswerMessage,
    /// This line is the last.
    pub done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<DoneReason>,
    /// From the request to its end, in nanoseconds, as all durations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_duration: Option<u64>,
}

/// One line of a generated text, or all of it.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaGenerateAnswer {
    pub model: String,
    pub created_at: String,
    pub response: String,
    /// What the model thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// This line is the last.
    pub done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<DoneReason>,
    /// From the request to its end, in nanoseconds, as all durations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_duration: Option<u64>,
}

/// A piece of an answer, before it gets its dress.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) thinking: String,
    pub(super) calls: Vec<ToolCall>,
    /// At the end.
    pub(super) end: Option<(DoneReason, Costs)>,
}

/// An object made of pieces.
pub(super) trait Dress: Send + 'static {
    fn dress(model: &str, piece: Piece) -> Self;
}

impl Dress for OllamaChatAnswer {
    fn dress(model: &str, piece: Piece) -> Self {
        let (reason, costs) = piece.end.unzip();
        let calls: Vec<_> = piece.calls.into_iter().map(OllamaAnswerCall::new).collect();
        let message = OllamaAnswerMessage {
            role: Speaker::Assistant,
            content: piece.text,
            thinking: given(piece.thinking),
            tool_calls: (!calls.is_empty()).then_some(calls),
        };
        Self {
            model: model.to_owned(),
            created_at: time::now(),
            message,
            done: reason.is_some(),
            done_reason: reason,
            total_duration: costs.map(|costs| costs.total_duration),
            load_duration: costs.map(|costs| costs.load_duration),
            prompt_eval_count: costs.map(|costs| costs.prompt_eval_count),
            prompt_eval_duration: costs.map(|costs| costs.prompt_eval_duration),
            eval_count: costs.map(|costs| costs.eval_count),
            eval_duration: costs.map(|costs| costs.eval_duration),
        }
    }
}

impl Dress for OllamaGenerateAnswer {
    fn dress(model: &str, piece: Piece) -> Self {
        let (reason, costs) = piece.end.unzip();
        Self {
            model: model.to_owned(),
            created_at: time::now(),
            response: piece.text,
            thinking: given(piece.thinking),
            done: reason.is_some(),
            done_reason: reason,
            total_duration: costs.map(|costs| costs.total_duration),
            load_duration: costs.map(|costs| costs.load_duration),
            prompt_eval_count: costs.map(|costs| costs.prompt_eval_count),
            prompt_eval_duration: costs.map(|costs| costs.prompt_eval_duration),
            eval_count: costs.map(|costs| costs.eval_count),
            eval_duration: costs.map(|costs| costs.eval_duration),
        }
    }
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A generation under way for one request.
pub(super) struct Answering {
    pub(super) model: String,
    /// The lease keeps the engine loaded.
    pub(super) running: (Generation, Lease),
    /// Calls so far; this dialect knows whole ones only.
    pub(super) calls: Vec<ToolCall>,
    /// Of these, how many were sent.
    pub(super) num_shown: usize,
    pub(super) began: Instant,
    pub(super) load_duration: u64,
}

impl Answering {
    /// Pieces of text as they come, then the end.
    pub(super) fn stream<T: Dress>(self) -> impl Stream<Item = Result<T>> + Send + 'static {
        futures_util::stream::unfold(Some(self), |answering| async move {
            let mut answering = answering?;
            match answering.next().await {
                Ok(piece) => {
                    let is_end = piece.end.is_some();
                    let object = T::dress(&answering.model, piece);
                    Some((Ok(object), (!is_end).then_some(answering)))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// All of it at once.
    pub(super) async fn collect<T: Dress>(mut self) -> Result<T> {
        let mut whole = Piece::default();
        loop {
            let piece = self.next().await?;
            whole.text.push_str(&piece.text);
            whole.thinking.push_str(&piece.thinking);
            whole.calls.extend(piece.calls);
            if piece.end.is_some() {
                // Blanks before a call are no text.
                if !whole.calls.is_empty() && whole.text.trim().is_empty() {
                    whole.text.clear();
                }
                return Ok(T::dress(&self.model, Piece { end: piece.end, ..whole }));
            }
        }
    }

    async fn next(&mut self) -> Result<Piece> {
        loop {
            match self.running.0.next().await {
                Some(Output::Prefill { .. }) => {}
                Some(Output::Delta(delta)) => {
                    let Delta { text, reasoning: thinking, calls, .. } = delta;
                    let complete = |call: CallDelta| call.add_to(&mut self.calls).cloned();
                    let calls: Vec<_> = calls.into_iter().filter_map(complete).collect();
                    self.num_shown += calls.len();
                    if !(text.is_empty() && thinking.is_empty() && calls.is_empty()) {
                        return Ok(Piece { text, thinking, calls, end: None });
                    }
                }
                Some(Output::Finished(finished)) => {
                    let reason = match finished.reason {
                        FinishReason::Stop | FinishReason::ToolCalls => DoneReason::Stop,
                        FinishReason::Length => DoneReason::Length,
                    };
                    let end = Some((reason, self.costs(&finished.timings)));
                    // A call that was cut has no last piece.
                    let calls = self.calls.get(self.num_shown..).unwrap_or_default().to_vec();
                    return Ok(Piece { calls, end, ..Piece::default() });
                }
                Some(Output::Failed { error, .. }) => return Err(error),
                None => return Err(Error::internal("the answer broke off")),
            }
        }
    }

    fn costs(&self, timings: &Timings) -> Costs {
        let nanos = |millis: f64| (millis * 1e6) as u64;
        let usage = self.running.0.usage();
        Costs {
            total_duration: elapsed(self.began),
            load_duration: self.load_duration,
            prompt_eval_count: usage.prompt_tokens,
            prompt_eval_duration: nanos(timings.prefill_ms),
            eval_count: usage.completion_tokens,
            eval_duration: nanos(timings.decode_ms),
        }
    }
}

/// The end of a request that asked for nothing but a model in memory or out of it.
pub(super) fn nothing<T: Dress>(model: &str, unloads: bool, began: Instant) -> T {
    let reason = if unloads { DoneReason::Unload } else { DoneReason::Load };
    let load_duration = elapsed(began);
    let costs = Costs { total_duration: load_duration, load_duration, ..Costs::default() };
    T::dress(model, Piece { end: Some((reason, costs)), ..Piece::default() })
}

/// Nanoseconds.
pub(super) fn elapsed(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
