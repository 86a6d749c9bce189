//! `POST /v1/completions`.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::OpenApi;

use super::{
    OpenAiTag,
    completion_answer::{Completion, CompletionRender},
    completion_request::CompletionRequest,
};
use crate::server::{
    AppState,
    auth::Caller,
    body::Json,
    desk::{Body, Desk, Generates, Served},
    reply::{Answer, Content, Reply},
    sse::Events,
};

/// One object, or a stream of them.
type CompletionBody = Served<Json<Completion>, Events<Completion>>;

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
        let ask = request.0.into_ask()?;
        let served = Desk::new(&self.0, &caller).serve(ask, CompletionRender::new).await?;
        Ok(Reply::new(Content(served.events(&self.0.drain))))
    }
}
