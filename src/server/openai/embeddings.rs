//! `POST /v1/embeddings`.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, registry::MetaSchema};
use serde::{Deserialize, Serialize};

use super::{OpenAiTag, completion_request::Prompt, models::ListKind};
use crate::{
    chat::embedding::{EmbedInput, MAX_INPUTS},
    error::{Error, Result},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{Desk, Embeds},
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

wire_enum! {
    /// How vectors are written.
    pub(crate) enum EncodingFormat {
        /// An array of numbers.
        Float = "float",
        /// 32-bit floats, the lowest byte first, in base64.
        Base64 = "base64",
    }
}

/// A request for embeddings. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct EmbeddingRequest {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// One text or up to 2048, as text or as token ids; none of them empty or longer than the context.
    pub input: Prompt,
    /// `float` if absent.
    #[oai(nullable)]
    pub encoding_format: Option<EncodingFormat>,
    /// Keep so many leading values of each vector; all if absent.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub dimensions: Option<u32>,
    /// Who asks; opaque to this server.
    #[oai(nullable)]
    pub user: Option<String>,
}

impl EmbeddingRequest {
    fn into_inputs(self) -> Result<Vec<EmbedInput>> {
        let inputs: Vec<EmbedInput> = match self.input {
            Prompt::Text(text) => vec![EmbedInput::Text(text)],
            Prompt::Texts(texts) => texts.into_iter().map(EmbedInput::Text).collect(),
            Prompt::Tokens(ids) => vec![EmbedInput::Tokens(ids)],
            Prompt::TokenLists(lists) => lists.into_iter().map(EmbedInput::Tokens).collect(),
        };
        if inputs.is_empty() || inputs.len() > MAX_INPUTS {
            let text = format!("input: from 1 to {MAX_INPUTS} texts, are {}", inputs.len());
            return Err(Error::invalid("input", text));
        }
        Ok(inputs)
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
    fn new(values: Vec<f32>, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Floats(values),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(&bytes))
            }
        }
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
        request: Json<EmbeddingRequest>,
    ) -> Answer<Json<EmbeddingList>, Embeds> {
        let request = request.0;
        let model = request.model.clone();
        let format = request.encoding_format.unwrap_or(EncodingFormat::Float);
        let dimensions = request.dimensions.map(|count| count as usize);
        let inputs = request.into_inputs()?;
        let desk = Desk::new(&self.0, &caller);
        let seat = desk.seat(Some(&model)).await?;
        let embedded = desk.embed(&seat, inputs, dimensions).await?;
        let data = embedded.vectors.into_iter().enumerate().map(|(index, values)| Embedding {
            object: EmbeddingKind::Embedding,
            embedding: Vector::new(values, format),
            index,
        });
        let tokens = embedded.prompt_tokens;
        Ok(Reply::new(Json(EmbeddingList {
            object: ListKind::List,
            data: data.collect(),
            model,
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
