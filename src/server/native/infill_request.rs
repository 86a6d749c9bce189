//! The wire request of `POST /infill` and its translation.

use poem_openapi::Object;
use serde::Deserialize;

use crate::{
    chat::{
        ExtraFile, Infill,
        generation::{GenerationRequest, PromptInput},
    },
    error::{Error, Result},
    server::{
        openai::{Extras, LogitBias, SamplingFields, with_local_fields},
        schema::{TextOr, optional_objects},
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

with_local_fields! {
/// A text with a gap. Of parameters that are not listed here, those that decide what an answer is
/// are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct InfillRequest {
    /// The engine to ask, by its `engine_id`; may be absent if there is only one.
    #[oai(nullable)]
    pub model: Option<String>,
    /// The text before the gap.
    pub input_prefix: String,
    /// The text behind the gap.
    pub input_suffix: String,
    /// Other files that help to understand the text.
    #[oai(nullable, validator(max_items = 256))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub input_extra: Option<Vec<ExtraInput>>,
    /// Added to the text before the gap.
    #[oai(nullable)]
    pub prompt: Option<String>,
    /// Send the text in pieces, as server-sent events.
    #[oai(nullable)]
    pub stream: Option<bool>,
    /// Another name of `n_predict`.
    #[oai(nullable)]
    pub max_tokens: Option<u32>,
    /// 0 always takes the likeliest token; 0.8 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "2")))]
    pub temperature: Option<f64>,
    /// Sample from the likeliest tokens that together have this probability; 0.95 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub top_p: Option<f64>,
    /// Sample from so many likeliest tokens; 0 or -1: all; 40 if absent.
    #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "4294967295")))]
    pub top_k: Option<i64>,
    /// Drop tokens less likely than this share of the likeliest; 0.05 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub min_p: Option<f64>,
    /// Taken off the score of tokens that have occurred in the text.
    #[oai(nullable, validator(minimum(value = "-2"), maximum(value = "2")))]
    pub presence_penalty: Option<f64>,
    /// Taken off the score of a token for each time it has occurred in the text.
    #[oai(nullable, validator(minimum(value = "-2"), maximum(value = "2")))]
    pub frequency_penalty: Option<f64>,
    /// Divides the score of tokens seen before; 1: off.
    #[oai(nullable, validator(minimum(value = "0.01"), maximum(value = "100")))]
    pub repeat_penalty: Option<f64>,
    /// Token ids or texts and what to add to their scores, -100 to 100; false bans a token.
    #[oai(nullable)]
    pub logit_bias: Option<LogitBias>,
    /// Same request, same seed: same text; negative: random.
    #[oai(nullable)]
    pub seed: Option<i64>,
    /// Up to 16 strings that end the text; they are not part of it.
    #[oai(nullable)]
    pub stop: Option<TextOr<String>>,
    /// Go on after the model's end token, until `n_predict`.
    #[oai(nullable)]
    pub ignore_eos: Option<bool>,
}
}

impl InfillRequest {
    pub(super) fn into_generation(mut self) -> Result<(GenerationRequest, Extras)> {
        let local = self.take_local();
        if self.n_predict.is_some() && self.max_tokens.is_some() {
            let text = "max_tokens is another name of n_predict; send one of them";
            return Err(Error::invalid("max_tokens", text));
        }
        let extra = self.input_extra.unwrap_or_default();
        if extra.len() > MAX_EXTRA {
            let text = format!("input_extra has {} files, limit {MAX_EXTRA}", extra.len());
            return Err(Error::invalid("input_extra", text));
        }
        let file = |ExtraInput { filename, text }| ExtraFile {
            name: filename.unwrap_or_else(|| "tmp".to_owned()),
            text,
        };
        let mut request = GenerationRequest {
            max_tokens: self.max_tokens,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            ..GenerationRequest::new(PromptInput::Infill(Infill {
                prefix: self.input_prefix + &self.prompt.unwrap_or_default(),
                suffix: self.input_suffix,
                extra: extra.into_iter().map(file).collect(),
                field: "input_suffix",
            }))
        };
        SamplingFields {
            temperature: self.temperature.or(Some(0.8)),
            top_p: self.top_p.or(Some(0.95)),
            top_k: self.top_k.or(Some(40)),
            min_p: self.min_p.or(Some(0.05)),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repeat_penalty: self.repeat_penalty,
            logit_bias: self.logit_bias,
            seed: self.seed.filter(|seed| *seed >= 0),
            stop: self.stop,
            ..SamplingFields::default()
        }
        .apply(&mut request)?;
        let extras = local.apply(&mut request)?;
        Ok((request, extras))
    }
}
