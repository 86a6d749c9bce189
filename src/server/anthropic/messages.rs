//! `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::OpenApi;

use super::{
    AnthropicTag,
    answer::{AnthropicAnswer, TokenCount},
    events::MessageEvent,
    render::MessageRender,
    request::{CountTokensRequest, MessagesRequest},
};
use crate::server::{
    AppState,
    auth::Caller,
    body::Json,
    desk::{Body, Counts, Desk, Generates, Served, count_tokens},
    reply::{Answer, Content, Reply},
    sse::Events,
};

/// One object, or a stream of events.
type MessageBody = Served<Json<AnthropicAnswer>, Events<MessageEvent>>;

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
        request: Body<MessagesRequest>,
    ) -> Answer<Content<MessageBody>, Generates> {
        let ask = request.0.into_ask()?;
        let served = Desk::new(&self.0, &caller).serve(ask, MessageRender::new).await?;
        Ok(Reply::new(Content(served.events(&self.0.drain))))
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
        let input_tokens =
            count_tokens(&self.0, &caller, Some(&model), (input, "messages")).await?;
        Ok(Reply::new(Json(TokenCount { input_tokens })))
    }
}
