//! Ollama's requests for embeddings.

use poem_openapi::Object;
use serde::Deserialize;

use super::request::{NUM_CTX, OllamaOptions};
use crate::{
    chat::embedding::EmbedInput,
    error::Result,
    param::{Given, Kind},
    server::{
        desk::{Request, WireParam},
        schema::{TextOr, optional_object},
        span::Span,
    },
};

/// A request for embeddings. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "OllamaEmbedRequest")]
pub(crate) struct EmbedParts {
    /// The engine to ask; `:latest` may follow its `engine_id`.
    #[oai(validator(min_length = 1))]
    model: String,
    /// One text or up to 2048.
    input: TextOr<String>,
    #[oai(nullable)]
    keep_alive: Option<Span>,
}

/// A request for embeddings.
pub(crate) struct OllamaEmbedRequest {
    pub model: String,
    pub keep_alive: Option<Span>,
    pub dimensions: Option<u32>,
    input: TextOr<String>,
    options: OllamaOptions,
}

impl Request for OllamaEmbedRequest {
    type Parts = EmbedParts;
    type Target = Option<u32>;
    const PARAMS: &'static [WireParam<Option<u32>>] = &[
        WireParam::integer(
            "dimensions",
            "Keep so many leading values of each vector; all if absent.",
            (1, u32::MAX as i64),
            |dimensions: &mut Option<u32>, x| *dimensions = Some(x as u32),
        ),
        WireParam::switch(
            "truncate",
            "Inputs are never cut: must be absent, null or false.",
            |_: &mut Option<u32>, _| {},
        )
        .refused("inputs are never cut; false is accepted"),
        WireParam::new(
            "options",
            "",
            Kind::Table {
                title: "EmbedOptions",
                params: &[WireParam::integer(
                    NUM_CTX.name,
                    NUM_CTX.doc,
                    (0, u32::MAX as i64),
                    |_, _| {},
                )],
            },
        ),
    ];

    fn new(parts: EmbedParts, dimensions: Option<u32>, given: Given) -> Result<Self> {
        let EmbedParts { model, input, keep_alive } = parts;
        Ok(Self { model, keep_alive, dimensions, input, options: OllamaOptions::of(&given) })
    }
}

/// A request for one embedding. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaEmbeddingsRequest {
    /// The engine to ask; `:latest` may follow its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// The text.
    pub prompt: String,
    #[oai(nullable)]
    pub keep_alive: Option<Span>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub options: Option<EmbedOptions>,
}

/// Options of a request for embeddings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Object)]
#[serde(default, deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct EmbedOptions {
    /// The context that is needed; refused if the engine's is smaller.
    #[oai(nullable)]
    pub num_ctx: Option<u32>,
}

impl OllamaEmbedRequest {
    pub(super) fn inputs(&self) -> Vec<EmbedInput> {
        match &self.input {
            TextOr::Text(text) => vec![EmbedInput::Text(text.clone())],
            TextOr::Items(texts) => texts.iter().cloned().map(EmbedInput::Text).collect(),
        }
    }

    pub(super) fn options(&self) -> OllamaOptions {
        self.options
    }
}

impl OllamaEmbeddingsRequest {
    pub(super) fn options(&self) -> OllamaOptions {
        context_of(self.options.as_ref())
    }
}

fn context_of(options: Option<&EmbedOptions>) -> OllamaOptions {
    OllamaOptions { num_ctx: options.and_then(|options| options.num_ctx) }
}
