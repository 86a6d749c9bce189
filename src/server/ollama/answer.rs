//! Ollama's answers of chat and generate: one object, or one a line as text comes.

use std::{
    marker::PhantomData,
    time::{Duration, Instant},
};

use poem_openapi::Object;
use serde::Serialize;

use super::{request::Speaker, time};
use crate::{
    chat::{
        ToolCall,
        generation::{
            Beat, Block, BlockKind, Collected, CollectedChoice, FinishReason, Step, Tally,
        },
    },
    server::{
        desk::{Begun, Now, Render},
        schema::{FreeObject, wire_enum},
    },
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
    /// At the end, unless `raw` or `suffix`: what was said until then, as token ids; the `context` of a
    /// request that follows on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Vec<u32>>,
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
    /// At the end, what was said until then.
    pub(super) context: Option<Vec<u32>>,
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
            context: piece.context,
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

/// An answer under way, in the dress of its route.
pub(super) struct OllamaRender<T> {
    model: String,
    /// When the request came, and nanoseconds until its engine was there.
    began: Instant,
    load_duration: u64,
    /// The call that is being written; this dialect knows whole ones only.
    call: Option<ToolCall>,
    /// What was said so far, if that is wanted, and the token that ends an answer.
    said: Option<Vec<u32>>,
    eos: Option<u32>,
    dress: PhantomData<fn() -> T>,
}

impl<T: Dress> OllamaRender<T> {
    /// `model` as the client calls it.
    pub(super) fn new(model: String, began: Instant, begun: &Begun) -> Self {
        let load_duration = nanos(begun.seated - began);
        let said = begun.prompts.first().cloned();
        let eos = begun.eos;
        Self { model, began, load_duration, call: None, said, eos, dress: PhantomData }
    }

    /// Adds a beat to a piece; the end, if it is that.
    fn add(&mut self, beat: Beat, piece: &mut Piece) -> Option<FinishReason> {
        match beat {
            Beat::Open(Block::Call { index, id, name }) => {
                self.call = Some(ToolCall { index, id, name, arguments: String::new() });
            }
            Beat::Piece(told) => {
                if let Some(said) = &mut self.said {
                    said.extend_from_slice(&told.tokens);
                }
                match (told.kind, &mut self.call) {
                    (BlockKind::Text, _) => piece.text.push_str(&told.text),
                    (BlockKind::Thinking, _) => piece.thinking.push_str(&told.text),
                    (BlockKind::Call { .. }, Some(call)) => call.arguments.push_str(&told.text),
                    (BlockKind::Call { .. }, None) => {}
                }
            }
            Beat::Close { .. } => piece.calls.extend(self.call.take()),
            Beat::End(end) => {
                let is_complete = end.reason == FinishReason::Stop && end.stop_string.is_none();
                piece.context = self.context(is_complete);
                return Some(end.reason);
            }
            Beat::Progress { .. } | Beat::Open(_) | Beat::Failed(_) => {}
        }
        None
    }

    /// What was said until now; a complete answer ends as the model ends it.
    fn context(&mut self, is_complete: bool) -> Option<Vec<u32>> {
        let mut said = self.said.take()?;
        said.extend(self.eos.filter(|eos| is_complete && said.last() != Some(eos)));
        Some(said)
    }

    fn ended(&self, reason: FinishReason, tally: &Tally) -> (DoneReason, Costs) {
        let reason = match reason {
            FinishReason::Stop | FinishReason::ToolCalls | FinishReason::Cancelled => {
                DoneReason::Stop
            }
            FinishReason::Length => DoneReason::Length,
        };
        let of_millis = |millis: f64| (millis * 1e6) as u64;
        let costs = Costs {
            total_duration: elapsed(self.began),
            load_duration: self.load_duration,
            prompt_eval_count: tally.usage.prompt_tokens,
            prompt_eval_duration: of_millis(tally.timings.prefill_ms),
            eval_count: tally.usage.completion_tokens,
            eval_duration: of_millis(tally.timings.decode_ms),
        };
        (reason, costs)
    }
}

impl<T: Dress> Render for OllamaRender<T> {
    type Event = T;
    type Whole = T;

    fn step(&mut self, step: Step, now: Now<'_>) -> Vec<T> {
        let mut piece = Piece::default();
        for beat in step.beats {
            if let Some(reason) = self.add(beat, &mut piece) {
                piece.end = Some(self.ended(reason, &now()));
            }
        }
        let Piece { text, thinking, calls, end, .. } = &piece;
        let is_empty = text.is_empty() && thinking.is_empty() && calls.is_empty() && end.is_none();
        if is_empty { Vec::new() } else { vec![T::dress(&self.model, piece)] }
    }

    fn whole(mut self, Collected { choices, tally }: Collected) -> T {
        let mut whole = |choice: CollectedChoice| {
            if let Some(said) = &mut self.said {
                said.extend_from_slice(&choice.tokens);
            }
            let is_complete = choice.reason == FinishReason::Stop && choice.stop_string.is_none();
            Piece {
                text: choice.text(),
                thinking: choice.thinking(),
                calls: choice.calls(),
                context: self.context(is_complete),
                end: Some(self.ended(choice.reason, &tally)),
            }
        };
        let piece = choices.into_iter().next().map(&mut whole).unwrap_or_default();
        T::dress(&self.model, piece)
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
    nanos(began.elapsed())
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
