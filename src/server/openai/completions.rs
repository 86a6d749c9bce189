//! `POST /v1/completions`.

use std::sync::Arc;

use poem_openapi::{OpenApi, ResponseContent};

use super::{
    Generates, OpenAiTag,
    answer::{Head, collect},
    completion_answer::{Completion, CompletionStream},
    completion_request::CompletionRequest,
    start::start_all,
    usage::Usage,
};
use crate::{
    error::Error,
    server::{
        AppState,
        body::Json,
        reply::{Answer, Content, Reply},
        sse::Events,
    },
};

/// One object, or a stream of them.
#[derive(ResponseContent)]
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
        request: Json<CompletionRequest>,
    ) -> Answer<Content<CompletionBody>, Generates> {
        let request = request.0;
        let model = request.model.clone();
        let is_stream = request.stream.unwrap_or(false);
        let include_usage = request.includes_usage();
        let generations = request.into_generations()?;
        let shape = generations.first().map(|first| (first.n, first.logprobs.is_some()));
        let (n, logprobs) = shape.unwrap_or((1, false));
        let mut running = start_all(&self.0, &model, generations).await?;
        let first = running.first().ok_or_else(|| Error::internal("no prompt"))?;
        let head = Head::new("cmpl", &model, &first.lease);
        if is_stream {
            let stream = CompletionStream { head, running, n, logprobs, include_usage };
            let events = Events::new(stream.chunks(), self.0.drain.clone());
            return Ok(Reply::new(Content(CompletionBody::Stream(events))));
        }
        // All run already; the order in which they are waited for does not matter.
        let (mut choices, mut usage) = (Vec::new(), Usage::default());
        for running in &mut running {
            let (of_prompt, its_usage) = collect(running, n, &self.0.drain).await?;
            choices.extend(of_prompt);
            usage.add_prompt(&its_usage);
        }
        let answer = Completion::new(head, choices, usage, logprobs);
        Ok(Reply::new(Content(CompletionBody::Full(Json(answer)))))
    }
}
