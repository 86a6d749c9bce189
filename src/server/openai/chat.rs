//! `POST /v1/chat/completions`.

use std::{sync::Arc, time::Instant};

use poem::web::Data;
use poem_openapi::{OpenApi, ResponseContent};

use super::{
    Counts, Generates, InputTokens, OpenAiTag,
    answer::{Head, Running, Wanted},
    chat_answer::{ChatCompletion, ChatCompletionChunk, ChatStream},
    chat_request::ChatCompletionRequest,
    count_tokens,
};
use crate::{
    chat::generation::PromptInput,
    error::Error,
    server::{
        AppState,
        auth::Caller,
        body::Json,
        reply::{Answer, Content, Reply},
        sse::Events,
    },
};

/// One object, or a stream of chunks.
#[derive(ResponseContent)]
#[expect(clippy::large_enum_variant, reason = "moved once an answer, never kept")]
pub(crate) enum ChatBody {
    Full(Json<ChatCompletion>),
    Stream(Events<ChatCompletionChunk>),
}

/// The chat route.
pub(crate) struct ChatApi(pub Arc<AppState>);

#[OpenApi]
impl ChatApi {
    /// Answer a conversation
    ///
    /// Renders the messages with the model's chat template and generates the assistant's next message.
    /// With `stream`, the answer comes as server-sent events: a chunk with the role, chunks with text,
    /// one with the finish reason, and `data: [DONE]`.
    #[oai(
        path = "/chat/completions",
        method = "post",
        operation_id = "createChatCompletion",
        tag = "OpenAiTag::Chat"
    )]
    async fn create(
        &self,
        caller: Data<&Caller>,
        request: Json<ChatCompletionRequest>,
    ) -> Answer<Content<ChatBody>, Generates> {
        let request = request.0;
        let model = request.model.clone();
        let is_stream = request.stream.unwrap_or(false);
        let include_usage = request.includes_usage();
        let (generation, extras) = request.into_generation()?;
        let n = generation.n;
        let wanted = Wanted { logprobs: generation.logprobs.is_some(), include_usage, extras };
        let running = Running::start(&self.0, &caller, &model, vec![generation]).await?;
        if let Some(keep_alive) = extras.keep_alive {
            running.lease.set_idle_timeout(keep_alive);
        }
        let head = Head::new("chatcmpl", &model, &running.lease);
        if is_stream {
            let began = Instant::now();
            let stream = ChatStream { head, running, n, wanted, began };
            let events = Events::new(stream.chunks(), self.0.drain.clone());
            return Ok(Reply::new(Content(ChatBody::Stream(events))));
        }
        let collected = running.collect(&self.0.drain).await?;
        let answer = ChatCompletion::new(head, collected, wanted);
        Ok(Reply::new(Content(ChatBody::Full(Json(answer)))))
    }

    /// Count the tokens of a conversation
    ///
    /// Exactly the prompt that `/v1/chat/completions` makes of the same request.
    #[oai(
        path = "/chat/completions/input_tokens",
        method = "post",
        operation_id = "countChatTokens",
        tag = "OpenAiTag::Chat"
    )]
    async fn input_tokens(
        &self,
        caller: Data<&Caller>,
        request: Json<ChatCompletionRequest>,
    ) -> Answer<Json<InputTokens>, Counts> {
        let request = request.0;
        let model = request.model.clone();
        let PromptInput::Chat(input) = request.into_generation()?.0.prompt else {
            return Err(Error::internal("a chat has messages").into());
        };
        let count = count_tokens(&self.0, &caller, &model, input).await?;
        Ok(Reply::new(Json(InputTokens::new(count))))
    }
}
