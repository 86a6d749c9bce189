//! `POST /completion`, in llama-server's form: texts that go on.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Deserialize;

use super::{
    LlamaGenerates, NativeTag,
    llama_answer::{LlamaBody, answer},
};
use crate::{
    chat::generation::MAX_CHOICES,
    error::{Error, Result},
    param::Given,
    server::{
        AppState,
        auth::Caller,
        common::Prompt,
        desk::{
            Ask, Body, Draft, Request, WireParam,
            params::{self, FORMS, LLAMA, LOCAL, LOCAL_SERVICE, join},
        },
        reply::{Answer, Content},
    },
};

/// Texts to continue. Of parameters that are not listed here, those that decide what an answer is are
/// refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "LlamaCompletionRequest")]
pub(crate) struct LlamaCompletionParts {
    /// The engine to ask, by its `engine_id`; absent or any name if there is only one.
    #[oai(nullable)]
    model: Option<String>,
    /// One prompt or up to 256, as text or as token ids. Each gets `n_cmpl` texts.
    prompt: Prompt,
}

/// A request to continue texts.
pub(crate) struct LlamaCompletionRequest {
    parts: LlamaCompletionParts,
    draft: Draft,
}

const OWN: &[WireParam<Draft>] = &[
    params::N.named("n_cmpl").saying("How many texts to generate for each prompt."),
    params::GUIDED_JSON.named("json_schema").being("json_schema"),
];

impl Request for LlamaCompletionRequest {
    type Parts = LlamaCompletionParts;
    type Target = Draft;
    const PARAMS: &'static [WireParam<Draft>] =
        &join::<{ LLAMA.len() + OWN.len() + FORMS.len() + LOCAL.len() + LOCAL_SERVICE.len() }>(&[
            &LLAMA,
            OWN,
            &FORMS,
            &LOCAL,
            &LOCAL_SERVICE,
        ]);

    fn new(parts: LlamaCompletionParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { parts, draft })
    }
}

impl LlamaCompletionRequest {
    /// Checks everything that can be checked without the model; one request for each prompt.
    fn into_ask(self) -> Result<Ask> {
        let Self { parts, draft } = self;
        let inputs = parts.prompt.into_inputs("prompt")?;
        if inputs.is_empty() {
            return Err(Error::invalid("prompt", "prompt: at least one prompt is required"));
        }
        let total = inputs.len() * draft.request.n as usize;
        if total > MAX_CHOICES as usize {
            let text = format!("{total} texts in one request, limit {MAX_CHOICES}");
            return Err(Error::invalid("prompt", text));
        }
        Ok(draft.into_ask_of(parts.model, inputs))
    }
}

/// The route for texts that go on.
pub(crate) struct LlamaCompletionApi(pub Arc<AppState>);

#[OpenApi]
impl LlamaCompletionApi {
    /// Continue a text, as llama-server does
    ///
    /// Several prompts, or `n_cmpl` above 1, get a list. With `stream`, the texts come as server-sent
    /// events, of which the last of each text has `stop` set.
    #[oai(
        path = "/completion",
        method = "post",
        operation_id = "llamaCompletion",
        tag = "NativeTag::Llama"
    )]
    async fn complete(
        &self,
        caller: Data<&Caller>,
        request: Body<LlamaCompletionRequest>,
    ) -> Answer<Content<LlamaBody>, LlamaGenerates> {
        answer(&self.0, &caller, request.0.into_ask()?).await
    }
}
