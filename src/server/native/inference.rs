//! `/inference/completions` and `/inference/chat/completions`: the original server's own routes.
//!
//! In a stream, objects with `partial` true bring new text; the last one, with `partial` false, brings
//! all of it once more.

use std::{sync::Arc, time::Instant};

use futures_util::Stream;
use poem::web::Data;
use poem_openapi::{Object, OpenApi, ResponseContent};
use serde::Serialize;
use serde_json::json;

use super::{
    NativeTag,
    inference_request::{InferenceChatRequest, InferenceCompletionRequest},
};
use crate::{
    chat::{
        self, CallDelta,
        generation::{Collected, Delta, GenerationRequest, Output},
    },
    engine::Timings,
    error::{Error, Result},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::Body,
        openai::{FunctionCall, Generates, Running, ToolCall, ToolKind},
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
#[derive(ResponseContent)]
pub(crate) enum InferenceBody {
    Full(Json<InferenceAnswer>),
    Stream(Events<InferenceAnswer>),
}

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
        let (model, streams) = (request.0.model.clone(), request.0.streaming.unwrap_or(false));
        let body = self.infer(&caller, (&model, streams), request.0.into_generation()?).await?;
        Ok(Reply::new(Content(body)))
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
        let (model, streams) = (request.0.model.clone(), request.0.streaming.unwrap_or(false));
        let body = self.infer(&caller, (&model, streams), request.0.into_generation()?).await?;
        Ok(Reply::new(Content(body)))
    }
}

impl InferenceApi {
    async fn infer(
        &self,
        caller: &Caller,
        (model, streams): (&str, bool),
        request: GenerationRequest,
    ) -> Result<InferenceBody> {
        let running = Running::start(&self.0, caller, model, vec![request]).await?;
        let drain = self.0.drain.clone();
        if streams {
            let inferring = Inferring::new(running);
            return Ok(InferenceBody::Stream(Events::new(inferring.objects(), drain)));
        }
        let collected = running.collect(&drain).await?;
        Ok(InferenceBody::Full(Json(InferenceAnswer::new(collected))))
    }
}

impl InferenceAnswer {
    fn new(collected: Collected) -> Self {
        let timings = collected.timings;
        let mut answer = Self { ttft: timings.ttft_ms, ..Self::default() };
        answer.tps = rate(collected.usage.completion_tokens, &timings);
        if let Some(choice) = collected.choices.into_iter().next() {
            answer.tokens = choice.tokens;
            answer.add(choice.text, choice.reasoning, choice.calls);
        }
        answer
    }

    fn add(&mut self, text: String, reasoning: String, calls: Vec<chat::ToolCall>) {
        self.text.push_str(&text);
        if !reasoning.is_empty() {
            self.reasoning.get_or_insert_default().push_str(&reasoning);
        }
        let calls = calls.into_iter().map(|call| ToolCall {
            id: call.id,
            r#type: ToolKind::Function,
            function: FunctionCall { name: call.name, arguments: call.arguments },
        });
        let calls: Vec<_> = calls.collect();
        if !calls.is_empty() {
            self.tool_calls.get_or_insert_default().extend(calls);
        }
    }
}

fn rate(tokens: u32, timings: &Timings) -> f64 {
    per_second(tokens, timings.decode_ms)
}

/// The first token is there when the time begins.
fn per_second(tokens: u32, ms: f64) -> f64 {
    if ms > 0.0 { f64::from(tokens.saturating_sub(1)) * 1000.0 / ms } else { 0.0 }
}

/// A generation that is streamed.
struct Inferring {
    running: Running,
    began: Instant,
    first: Option<Instant>,
    /// Calls so far; each is told when it is complete.
    calls: Vec<chat::ToolCall>,
    whole: InferenceAnswer,
}

impl Inferring {
    fn new(running: Running) -> Self {
        let (calls, whole) = (Vec::new(), InferenceAnswer::default());
        Self { running, began: Instant::now(), first: None, calls, whole }
    }

    fn objects(self) -> impl Stream<Item = Result<InferenceAnswer>> + Send + 'static {
        futures_util::stream::unfold(Some(self), |inferring| async move {
            let mut inferring = inferring?;
            match inferring.next().await {
                Ok(object) => {
                    let is_last = object.partial == Some(false);
                    Some((Ok(object), (!is_last).then_some(inferring)))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<InferenceAnswer> {
        loop {
            match self.running.generation.next().await {
                Some(Output::Prefill { .. }) => {}
                Some(Output::Delta(delta)) => return Ok(self.part(delta)),
                Some(Output::Finished(finished)) => {
                    let mut whole = std::mem::take(&mut self.whole);
                    whole.partial = Some(false);
                    whole.ttft = finished.timings.ttft_ms;
                    whole.tps = rate(finished.usage.completion_tokens, &finished.timings);
                    return Ok(whole);
                }
                Some(Output::Failed { error, .. }) => return Err(error),
                None => return Err(Error::internal("the answer broke off")),
            }
        }
    }

    fn part(&mut self, delta: Delta) -> InferenceAnswer {
        let first = *self.first.get_or_insert_with(Instant::now);
        self.whole.tokens.extend_from_slice(&delta.tokens);
        let complete = |call: CallDelta| call.add_to(&mut self.calls).cloned();
        let calls: Vec<_> = delta.calls.into_iter().filter_map(complete).collect();
        self.whole.add(delta.text.clone(), delta.reasoning.clone(), calls.clone());
        let tokens = self.running.generation.usage().completion_tokens;
        let mut part = InferenceAnswer {
            tokens: delta.tokens,
            tps: per_second(tokens, first.elapsed().as_secs_f64() * 1000.0),
            ttft: (first - self.began).as_secs_f64() * 1000.0,
            partial: Some(true),
            ..InferenceAnswer::default()
        };
        part.add(delta.text, delta.reasoning, calls);
        part
    }
}
