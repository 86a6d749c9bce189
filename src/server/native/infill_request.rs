//! The wire request of `POST /infill` and its translation.

use poem_openapi::Object;
use serde::Deserialize;

use crate::{
    chat::{
        ExtraFile, Infill,
        generation::{OutputRules, PromptInput},
    },
    error::{Error, Result},
    param::Given,
    server::{
        desk::{
            Ask, Draft, Request, WireParam,
            params::{LLAMA, LOCAL, LOCAL_SERVICE, join},
        },
        schema::optional_objects,
    },
};

/// Other files of one request.
const MAX_EXTRA: usize = 256;

/// Another file of the same project.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ExtraInput {
    /// `tmp` if absent.
    #[oai(nullable)]
    pub filename: Option<String>,
    pub text: String,
}

/// A text with a gap. Of parameters that are not listed here, those that decide what an answer is
/// are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "InfillRequest")]
pub(crate) struct InfillParts {
    /// The engine to ask, by its `engine_id`; absent or any name if there is only one.
    #[oai(nullable)]
    model: Option<String>,
    /// The text before the gap.
    input_prefix: String,
    /// The text behind the gap.
    input_suffix: String,
    /// Other files that help to understand the text.
    #[oai(nullable, validator(max_items = 256))]
    #[serde(default, deserialize_with = "optional_objects")]
    input_extra: Option<Vec<ExtraInput>>,
    /// Added to the text before the gap.
    #[oai(nullable)]
    prompt: Option<String>,
}

/// A request to fill in a gap.
pub(crate) struct InfillRequest {
    parts: InfillParts,
    draft: Draft,
}

impl Request for InfillRequest {
    type Parts = InfillParts;
    type Target = Draft;
    const PARAMS: &'static [WireParam<Draft>] = &join::<
        { LLAMA.len() + LOCAL.len() + LOCAL_SERVICE.len() },
    >(&[&LLAMA, &LOCAL, &LOCAL_SERVICE]);

    fn new(parts: InfillParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { parts, draft })
    }
}

impl InfillRequest {
    pub(super) fn into_ask(self) -> Result<Ask> {
        let Self { parts, draft } = self;
        let extra = parts.input_extra.unwrap_or_default();
        if extra.len() > MAX_EXTRA {
            let text = format!("input_extra has {} files, limit {MAX_EXTRA}", extra.len());
            return Err(Error::invalid("input_extra", text));
        }
        let file = |ExtraInput { filename, text }| ExtraFile {
            name: filename.unwrap_or_else(|| "tmp".to_owned()),
            text,
        };
        let prompt = PromptInput::Infill(Infill {
            prefix: parts.input_prefix + &parts.prompt.unwrap_or_default(),
            suffix: parts.input_suffix,
            extra: extra.into_iter().map(file).collect(),
            field: "input_suffix",
        });
        let request = draft.request(prompt, OutputRules::default());
        Ok(draft.into_ask(parts.model, vec![request]))
    }
}
