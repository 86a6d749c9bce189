//! `POST /v1/embeddings`.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, registry::MetaSchema};
use serde::{Deserialize, Serialize};

use super::{OpenAiTag, models::ListKind};
use crate::{
    chat::embedding::EmbedForm,
    error::Result,
    param::{Given, Kind},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        common::Prompt,
        desk::{
            Body, Desk, Embeds, Request, WireParam,
            params::{asker, tokens, truncating},
        },
        reply::{Answer, Reply},
        schema::{wire_enum, wire_type},
    },
};

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum EmbeddingKind {
        Embedding = "embedding",
    }
}

/// A request for embeddings. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "EmbeddingRequest")]
pub(crate) struct EmbeddingParts {
    /// The engine to ask, by its `engine_id`; may be absent if there is only one.
    #[oai(nullable, validator(min_length = 1))]
    model: Option<String>,
    /// One text or up to 2048, as text or as token ids; none of them empty or longer than the context.
    input: Prompt,
}

/// How vectors are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VectorForm {
    is_base64: bool,
    dimensions: Option<u32>,
    /// Tokens of an input that are read.
    max_tokens: Option<usize>,
}

/// A request for embeddings.
pub(crate) struct EmbeddingRequest {
    model: Option<String>,
    input: Prompt,
    form: VectorForm,
}

impl Request for EmbeddingRequest {
    type Parts = EmbeddingParts;
    type Target = VectorForm;
    const PARAMS: &'static [WireParam<VectorForm>] = &[
        WireParam::new(
            "encoding_format",
            "How vectors are written: arrays of numbers, also if absent, or their 32-bit floats, the lowest \
             byte first, in base64.",
            Kind::Choice {
                words: &["float", "base64"],
                open: false,
                set: |form: &mut VectorForm, word| form.is_base64 = word == "base64",
            },
        ),
        WireParam::integer(
            "dimensions",
            "Keep so many leading values of each vector; all if absent.",
            (1, u32::MAX as i64),
            |form: &mut VectorForm, x| form.dimensions = Some(x as u32),
        ),
        truncating(
            "Cut inputs to so many tokens, from their end; -1: to what the model takes. Absent: one that is \
             too long is an error.",
            |form: &mut VectorForm, x| form.max_tokens = Some(tokens(x)),
        ),
        asker(),
    ];

    fn new(parts: EmbeddingParts, form: VectorForm, _: Given) -> Result<Self> {
        Ok(Self { model: parts.model, input: parts.input, form })
    }
}

/// A vector, as asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

wire_type!(Vector, "vector", {
    let one_of = vec![<Vec<f32>>::schema_ref(), String::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

impl Vector {
    fn new(values: Vec<f32>, is_base64: bool) -> Self {
        if !is_base64 {
            return Self::Floats(values);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::Base64(STANDARD.encode(&bytes))
    }
}

/// The embedding of one input.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Embedding {
    pub object: EmbeddingKind,
    /// A vector of length one.
    pub embedding: Vector,
    /// Which input this is.
    pub index: usize,
}

/// Tokens that a request took.
#[derive(Clone, Copy, Debug, Serialize, Object)]
pub(crate) struct EmbeddingUsage {
    /// Tokens of all inputs.
    pub prompt_tokens: u32,
    pub total_tokens: u32,
}

/// Embeddings in the order of the inputs.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct EmbeddingList {
    pub object: ListKind,
    pub data: Vec<Embedding>,
    pub model: String,
    pub usage: EmbeddingUsage,
}

/// The embedding route.
pub(crate) struct EmbeddingApi(pub Arc<AppState>);

#[OpenApi]
impl EmbeddingApi {
    /// Embed texts
    ///
    /// Turns each input into a vector of length one; texts of similar meaning have vectors of similar
    /// direction. The vector is pooled from the hidden states of the tokens as the model file says, by
    /// their mean if it says nothing.
    #[oai(
        path = "/embeddings",
        method = "post",
        operation_id = "createEmbedding",
        tag = "OpenAiTag::Embeddings"
    )]
    async fn create(
        &self,
        caller: Data<&Caller>,
        request: Body<EmbeddingRequest>,
    ) -> Answer<Json<EmbeddingList>, Embeds> {
        let request = request.0;
        let model = request.model.clone();
        let VectorForm { is_base64, dimensions, max_tokens } = request.form;
        let form = EmbedForm { dimensions: dimensions.map(|count| count as usize), max_tokens };
        let inputs = request.input.into_embed_inputs("input")?;
        let desk = Desk::new(&self.0, &caller);
        let seat = desk.seat(model.as_deref()).await?;
        let embedded = desk.embed(&seat, inputs, form).await?;
        let data = embedded.vectors.into_iter().enumerate().map(|(index, values)| Embedding {
            object: EmbeddingKind::Embedding,
            embedding: Vector::new(values, is_base64),
            index,
        });
        let tokens = embedded.prompt_tokens;
        Ok(Reply::new(Json(EmbeddingList {
            object: ListKind::List,
            data: data.collect(),
            model: seat.model,
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in cases {
            assert_eq!(STANDARD.encode(bytes.as_bytes()), text);
        }
        assert_eq!(STANDARD.encode([0xff, 0xfe, 0xfb]), "//77");
    }
}
