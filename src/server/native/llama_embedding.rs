//! `POST /embedding`, in llama-server's form: a list with a list of vectors for each text.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::NativeTag;
use crate::{
    chat::embedding::EmbedForm,
    error::Result,
    param::Given,
    server::{
        AppState,
        auth::Caller,
        body::Json,
        common::Prompt,
        desk::{Body, Desk, Embeds, Request, WireParam, unless_only},
        reply::{Answer, Reply},
    },
};

/// Texts to embed. Of parameters that are not listed here, those that decide what an answer is are
/// refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "LlamaEmbeddingRequest")]
pub(crate) struct LlamaEmbeddingParts {
    /// The engine to ask, by its `engine_id`; absent or any name if there is only one.
    #[oai(nullable)]
    model: Option<String>,
    /// One text or up to 2048, as text or as token ids; none of them empty or longer than the context.
    content: Prompt,
}

/// A request for vectors.
pub(crate) struct LlamaEmbeddingRequest(LlamaEmbeddingParts);

impl Request for LlamaEmbeddingRequest {
    type Parts = LlamaEmbeddingParts;
    type Target = ();
    const PARAMS: &'static [WireParam<()>] = &[WireParam::integer(
        "embd_normalize",
        "How vectors are brought to one length: by their Euclidean norm, which is 2. Nothing else.",
        (2, 2),
        |(), _| {},
    )
    .refused("vectors have the length one; 2 is accepted")];

    fn new(parts: LlamaEmbeddingParts, (): (), _: Given) -> Result<Self> {
        Ok(Self(parts))
    }
}

/// The vector of one text.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct LlamaEmbedding {
    /// Which text this is.
    pub index: usize,
    /// One vector of length one: those of the text's tokens, pooled as the model file says.
    pub embedding: Vec<Vec<f32>>,
}

/// The route for vectors.
pub(crate) struct LlamaEmbeddingApi(pub Arc<AppState>);

#[OpenApi]
impl LlamaEmbeddingApi {
    /// Embed texts, as llama-server does
    #[oai(
        path = "/embedding",
        method = "post",
        operation_id = "llamaEmbedding",
        tag = "NativeTag::Llama"
    )]
    async fn embed(
        &self,
        caller: Data<&Caller>,
        request: Body<LlamaEmbeddingRequest>,
    ) -> Answer<Json<Vec<LlamaEmbedding>>, Embeds> {
        let LlamaEmbeddingParts { model, content } = request.0.0;
        let inputs = content.into_embed_inputs("content")?;
        let model = unless_only(&self.0, &caller, model);
        let desk = Desk::new(&self.0, &caller);
        let seat = desk.seat(model.as_deref()).await?;
        let embedded = desk.embed(&seat, inputs, EmbedForm::default()).await?;
        let vectors = embedded.vectors.into_iter().enumerate();
        let all = vectors.map(|(index, vector)| LlamaEmbedding { index, embedding: vec![vector] });
        Ok(Reply::new(Json(all.collect())))
    }
}
