//! `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{OpenApi, ResponseContent};

use super::{
    AnthropicTag, Generates,
    answer::{AnthropicAnswer, TokenCount},
    request::{CountTokensRequest, MessagesRequest},
    stream::{MessageEvent, MessageStream},
};
use crate::server::{
    AppState,
    auth::Caller,
    body::Json,
    openai::{Counts, Running, count_tokens, random_id},
    reply::{Answer, Content, Reply},
    sse::Events,
};

/// One object, or a stream of events.
#[derive(ResponseContent)]
#[expect(clippy::large_enum_variant, reason = "moved once an answer, never kept")]
pub(crate) enum MessageBody {
    Full(Json<AnthropicAnswer>),
    Stream(Events<MessageEvent>),
}

/// The routes of the dialect.
pub(crate) struct AnthropicApi(pub Arc<AppState>);

#[OpenApi]
impl AnthropicApi {
    /// Answer a conversation, as Anthropic does
    ///
    /// Renders the messages with the model's chat template and generates the assistant's next message.
    /// With `stream`, the answer comes as named server-sent events. The header `anthropic-version` is
    /// not needed: there is one version.
    #[oai(
        path = "/messages",
        method = "post",
        operation_id = "createMessage",
        tag = "AnthropicTag::Messages"
    )]
    async fn create(
        &self,
        caller: Data<&Caller>,
        request: Json<MessagesRequest>,
    ) -> Answer<Content<MessageBody>, Generates> {
        let request = request.0;
        let model = request.model.clone();
        let is_stream = request.stream.unwrap_or(false);
        let generation = request.into_generation()?;
        let running = Running::start(&self.0, &caller, &model, vec![generation]).await?;
        let id = format!("msg_{}", random_id());
        if is_stream {
            let stream = MessageStream::new(id, model, running);
            let events = Events::new(stream.events(), self.0.drain.clone());
            return Ok(Reply::new(Content(MessageBody::Stream(events))));
        }
        let context = running.lease.engine.spec().context_len;
        let collected = running.collect(&self.0.drain).await?;
        let answer = AnthropicAnswer::new(&id, &model, collected, context);
        Ok(Reply::new(Content(MessageBody::Full(Json(answer)))))
    }

    /// Count the tokens of a conversation, as Anthropic does
    ///
    /// Exactly the tokens that `/v1/messages` makes of the same request.
    #[oai(
        path = "/messages/count_tokens",
        method = "post",
        operation_id = "countMessageTokens",
        tag = "AnthropicTag::Messages"
    )]
    async fn count(
        &self,
        caller: Data<&Caller>,
        request: Json<CountTokensRequest>,
    ) -> Answer<Json<TokenCount>, Counts> {
        let request = request.0;
        let model = request.model.clone();
        let input = request.into_input()?;
        let input_tokens = count_tokens(&self.0, &caller, &model, input).await?;
        Ok(Reply::new(Json(TokenCount { input_tokens })))
    }
}
