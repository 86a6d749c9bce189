//! `POST /infill`, in llama-server's form: a text whose middle is to be filled in.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::OpenApi;

use super::{
    LlamaGenerates, NativeTag,
    infill_request::InfillRequest,
    llama_answer::{LlamaBody, answer},
};
use crate::server::{
    AppState,
    auth::Caller,
    desk::Body,
    reply::{Answer, Content},
};

/// The route for gaps.
pub(crate) struct InfillApi(pub Arc<AppState>);

#[OpenApi]
impl InfillApi {
    /// Fill in the middle of a text
    ///
    /// For models that have tokens for it, such as those for code. With `stream`, the text comes as
    /// server-sent events, of which the last has `stop` set.
    #[oai(path = "/infill", method = "post", operation_id = "infill", tag = "NativeTag::Llama")]
    async fn infill(
        &self,
        caller: Data<&Caller>,
        request: Body<InfillRequest>,
    ) -> Answer<Content<LlamaBody>, LlamaGenerates> {
        answer(&self.0, &caller, request.0.into_ask()?).await
    }
}
