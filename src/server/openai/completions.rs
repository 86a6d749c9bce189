//! `POST /v1/completions`.

use std::{sync::Arc, time::Instant};

use poem::web::Data;
use poem_openapi::{OpenApi, ResponseContent};

use super::{
    Generates, OpenAiTag,
    answer::{Head, Running, Wanted},
    completion_answer::{Completion, CompletionStream},
    completion_request::CompletionRequest,
};
use crate::server::{
    AppState,
    auth::Caller,
    body::Json,
    desk::Body,
    reply::{Answer, Content, Reply},
    sse::Events,
};

/// One object, or a stream of them.
#[derive(ResponseContent)]
#[expect(clippy::large_enum_variant, reason = "moved once an answer, never kept")]
pub(crate) enum CompletionBody {
    Full(Json<Completion>),
    Stream(Events<Completion>),
}

/// The text completion route.
pub(crate) struct CompletionApi(pub Arc<AppState>);

#[OpenApi]
impl CompletionApi {
    /// Complete a text
    ///
    /// Continues each prompt as it is, without a chat template. With `stream`, the completions come as
    /// server-sent events, those of all prompts interleaved, and `data: [DONE]`.
    #[oai(
        path = "/completions",
        method = "post",
        operation_id = "createCompletion",
        tag = "OpenAiTag::Completions"
    )]
    async fn create(
        &self,
        caller: Data<&Caller>,
        request: Body<CompletionRequest>,
    ) -> Answer<Content<CompletionBody>, Generates> {
        let request = request.0;
        let model = request.model.clone();
        let is_stream = request.stream.unwrap_or(false);
        let include_usage = request.includes_usage();
        let (generations, extras) = request.into_generations()?;
        let logprobs = generations.iter().any(|generation| generation.logprobs.is_some());
        let wanted = Wanted { logprobs, include_usage, extras };
        let running = Running::start(&self.0, &caller, &model, generations).await?;
        if let Some(keep_alive) = extras.keep_alive {
            running.lease.set_idle_timeout(keep_alive);
        }
        let head = Head::new("cmpl", &model, &running.lease);
        if is_stream {
            let began = Instant::now();
            let stream = CompletionStream { head, running, wanted, began };
            let events = Events::new(stream.chunks(), self.0.drain.clone());
            return Ok(Reply::new(Content(CompletionBody::Stream(events))));
        }
        let collected = running.collect(&self.0.drain).await?;
        let answer = Completion::new(head, collected, wanted);
        Ok(Reply::new(Content(CompletionBody::Full(Json(answer)))))
    }
}
