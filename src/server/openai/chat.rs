//! `POST /v1/chat/completions`.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::OpenApi;

use super::{
    InputTokens, OpenAiTag,
    chat_answer::{ChatCompletion, ChatCompletionChunk, ChatRender},
    chat_request::ChatCompletionRequest,
};
use crate::server::{
    AppState,
    auth::Caller,
    body::Json,
    desk::{Body, Counts, Desk, Generates, Served, count_tokens},
    reply::{Answer, Content, Reply},
    sse::Events,
};

/// One object, or a stream of chunks.
type ChatBody = Served<Json<ChatCompletion>, Events<ChatCompletionChunk>>;

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
        request: Body<ChatCompletionRequest>,
    ) -> Answer<Content<ChatBody>, Generates> {
        let ask = request.0.into_ask()?;
        let n = ask.prompts.first().map_or(1, |prompt| prompt.n);
        let desk = Desk::new(&self.0, &caller);
        let served = desk.serve(ask, |begun| ChatRender::new(begun, n)).await?;
        Ok(Reply::new(Content(served.events(&self.0.drain))))
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
        request: Body<ChatCompletionRequest>,
    ) -> Answer<Json<InputTokens>, Counts> {
        let request = request.0;
        let model = request.model.clone();
        let input = request.into_input()?;
        let count = count_tokens(&self.0, &caller, model.as_deref(), (input, "messages")).await?;
        Ok(Reply::new(Json(InputTokens::new(count))))
    }
}
