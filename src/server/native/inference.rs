//! `/inference/completions` and `/inference/chat/completions`: the original server's own routes.
//!
//! In a stream, objects with `partial` true bring new text; the last one, with `partial` false, brings
//! all of it once more.

use std::{sync::Arc, time::Instant};

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;
use serde_json::json;

use super::{
    NativeTag,
    inference_request::{InferenceChatRequest, InferenceCompletionRequest},
};
use crate::{
    chat::{
        self,
        generation::{Beat, Block, BlockKind, Collected, End, Step},
    },
    error::{Error, Result},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        common::{FunctionCall, ToolCall, ToolKind},
        desk::{Ask, Begun, Body, Desk, Generates, Now, Render, Served},
        reply::{Answer, Content, Reply},
        sse::{Event, Events},
    },
};

/// Generated text.
#[derive(Clone, Debug, Default, Serialize, Object)]
pub(crate) struct InferenceAnswer {
    /// Ids of the generated tokens.
    pub tokens: Vec<u32>,
    pub text: String,
    /// Generated tokens a second.
    pub tps: f64,
    /// Milliseconds to the first token.
    pub ttft: f64,
    /// In a stream: true for new text, false for all of it at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial: Option<bool>,
    /// What the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Functions that the model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

impl Event for InferenceAnswer {
    fn failure(error: Error) -> Vec<u8> {
        let message = error.message;
        let body = json!({ "error": message, "text": "", "tokens": [], "tps": 0.0, "ttft": 0.0 });
        format!("data: {body}\n\n").into_bytes()
    }
}

/// One object, or a stream of them.
type InferenceBody = Served<Json<InferenceAnswer>, Events<InferenceAnswer>>;

/// The routes.
pub(crate) struct InferenceApi(pub Arc<AppState>);

#[OpenApi]
impl InferenceApi {
    /// Continue a prompt, as the original did
    #[oai(
        path = "/inference/completions",
        method = "post",
        operation_id = "inferCompletion",
        tag = "NativeTag::Inference"
    )]
    async fn complete(
        &self,
        caller: Data<&Caller>,
        request: Body<InferenceCompletionRequest>,
    ) -> Answer<Content<InferenceBody>, Generates> {
        Ok(Reply::new(Content(self.infer(&caller, request.0.into_ask()).await?)))
    }

    /// Answer a conversation, as the original did
    #[oai(
        path = "/inference/chat/completions",
        method = "post",
        operation_id = "inferChatCompletion",
        tag = "NativeTag::Inference"
    )]
    async fn answer(
        &self,
        caller: Data<&Caller>,
        request: Body<InferenceChatRequest>,
    ) -> Answer<Content<InferenceBody>, Generates> {
        Ok(Reply::new(Content(self.infer(&caller, request.0.into_ask()?).await?)))
    }
}

impl InferenceApi {
    async fn infer(&self, caller: &Caller, ask: Ask) -> Result<InferenceBody> {
        let served = Desk::new(&self.0, caller).serve(ask, InferenceRender::new).await?;
        Ok(served.events(&self.0.drain))
    }
}

impl InferenceAnswer {
    fn call(&mut self, call: chat::ToolCall) {
        let function = FunctionCall { name: call.name, arguments: call.arguments };
        let call = ToolCall { id: call.id, r#type: ToolKind::Function, function };
        self.tool_calls.get_or_insert_default().push(call);
    }

    fn think(&mut self, text: &str) {
        if !text.is_empty() {
            self.reasoning.get_or_insert_default().push_str(text);
        }
    }
}

/// Tokens a second; the first is there when the time begins.
fn per_second(tokens: u32, ms: f64) -> f64 {
    if ms > 0.0 { f64::from(tokens.saturating_sub(1)) * 1000.0 / ms } else { 0.0 }
}

/// An answer under way.
struct InferenceRender {
    began: Instant,
    first: Option<Instant>,
    /// The call that is being written; it is told when it ends.
    call: Option<chat::ToolCall>,
    whole: InferenceAnswer,
}

impl InferenceRender {
    fn new(begun: &Begun) -> Self {
        let (began, whole) = (begun.began, InferenceAnswer::default());
        Self { began, first: None, call: None, whole }
    }

    /// Adds a beat to a part and to the whole; whether there was something to add.
    fn add(&mut self, beat: Beat, part: &mut InferenceAnswer) -> bool {
        match beat {
            Beat::Open(Block::Call { index, id, name }) => {
                self.call = Some(chat::ToolCall { index, id, name, arguments: String::new() });
                false
            }
            Beat::Piece(piece) => {
                for answer in [&mut *part, &mut self.whole] {
                    answer.tokens.extend_from_slice(&piece.tokens);
                    match piece.kind {
                        BlockKind::Text => answer.text.push_str(&piece.text),
                        BlockKind::Thinking => answer.think(&piece.text),
                        BlockKind::Call { .. } => {}
                    }
                }
                if let (BlockKind::Call { .. }, Some(call)) = (piece.kind, &mut self.call) {
                    call.arguments.push_str(&piece.text);
                }
                true
            }
            Beat::Close { .. } => self.call.take().is_some_and(|call| {
                part.call(call.clone());
                self.whole.call(call);
                true
            }),
            Beat::Progress { .. } | Beat::Open(_) | Beat::End(_) | Beat::Failed(_) => false,
        }
    }

    fn part(&mut self, part: InferenceAnswer, now: Now<'_>) -> InferenceAnswer {
        let first = *self.first.get_or_insert_with(Instant::now);
        let tokens = now().usage.completion_tokens;
        InferenceAnswer {
            tps: per_second(tokens, first.elapsed().as_secs_f64() * 1000.0),
            ttft: (first - self.began).as_secs_f64() * 1000.0,
            partial: Some(true),
            ..part
        }
    }

    fn last(&mut self, End { usage, timings, .. }: &End) -> InferenceAnswer {
        InferenceAnswer {
            partial: Some(false),
            ttft: timings.ttft_ms,
            tps: per_second(usage.completion_tokens, timings.decode_ms),
            ..std::mem::take(&mut self.whole)
        }
    }
}

impl Render for InferenceRender {
    type Event = InferenceAnswer;
    type Whole = InferenceAnswer;

    fn step(&mut self, Step { beats, .. }: Step, now: Now<'_>) -> Vec<InferenceAnswer> {
        let (mut part, mut has_part, mut last) = (InferenceAnswer::default(), false, None);
        for beat in beats {
            if let Beat::End(end) = &beat {
                last = Some(self.last(end));
            }
            has_part |= self.add(beat, &mut part);
        }
        let part = has_part.then(|| self.part(part, now));
        part.into_iter().chain(last).collect()
    }

    fn whole(self, Collected { choices, tally }: Collected) -> InferenceAnswer {
        let timings = tally.timings;
        let mut answer = InferenceAnswer {
            ttft: timings.ttft_ms,
            tps: per_second(tally.usage.completion_tokens, timings.decode_ms),
            ..InferenceAnswer::default()
        };
        if let Some(choice) = choices.into_iter().next() {
            answer.text = choice.text();
            answer.think(&choice.thinking());
            choice.calls().into_iter().for_each(|call| answer.call(call));
            answer.tokens = choice.tokens;
        }
        answer
    }
}
