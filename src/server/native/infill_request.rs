//! The wire request of `POST /infill` and its translation.

use poem_openapi::Object;
use serde::Deserialize;

use crate::{
    chat::{
        ExtraFile, Infill,
        generation::{OutputRules, PromptInput},
    },
    error::{Error, Result},
    param::{Given, Scalar},
    server::{
        desk::{
            Ask, Draft, Request, WireParam,
            params::{self, LOCAL, LOCAL_SERVICE, join},
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
    /// The engine to ask, by its `engine_id`; may be absent if there is only one.
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

const OWN: &[WireParam<Draft>] = &[
    params::STREAM,
    params::MAX_TOKENS.within(0.0, u32::MAX as f64).saying("Another name of `n_predict`."),
    params::TEMPERATURE.defaulting(Scalar::Number(0.8)),
    params::TOP_P.defaulting(Scalar::Number(0.95)),
    params::TOP_K.defaulting(Scalar::Integer(40)),
    params::MIN_P.defaulting(Scalar::Number(0.05)),
    params::PRESENCE_PENALTY,
    params::FREQUENCY_PENALTY,
    params::REPEAT_PENALTY,
    params::LOGIT_BIAS,
    params::SEED_OR_RANDOM,
    params::STOP,
    params::IGNORE_EOS,
];

impl Request for InfillRequest {
    type Parts = InfillParts;
    type Target = Draft;
    const PARAMS: &'static [WireParam<Draft>] =
        &join::<{ OWN.len() + LOCAL.len() + LOCAL_SERVICE.len() }>(&[OWN, &LOCAL, &LOCAL_SERVICE]);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{desk, ignored::Ignored};

    #[test]
    fn sampling_is_llama_servers_where_nothing_is_said() {
        let body = br#"{"model": "m", "input_prefix": "a", "input_suffix": "b"}"#;
        let request: InfillRequest = desk::read(body, &Ignored::default()).unwrap();
        let ask = request.into_ask().unwrap();
        let sampling = &ask.prompts.first().unwrap().sampling;
        let got = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p);
        assert_eq!(got, (0.8, 40, 0.95, 0.05));
    }
}
