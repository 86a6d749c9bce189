//! The wire request of `POST /v1/completions` and its translation: one generation for each prompt.

use std::{collections::VecDeque, fmt, sync::Arc};

use poem_openapi::{Object, registry::MetaSchema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};
use serde_json::Value;

use super::{
    local::{Extras, with_local_fields},
    options::{StreamOptions, check_stream_options, log_labels},
    sampling::{LogitBias, SamplingFields},
    structured::{GrammarField, ResponseFormat, StructuredFields, StructuredOutputs},
};
use crate::{
    chat::{
        Infill,
        generation::{GenerationRequest, MAX_CHOICES, MAX_LOGPROBS, OutputRules, PromptInput},
    },
    error::{Error, Result},
    server::schema::{TextOr, optional_object, wire_type},
};

/// Prompts in one request.
const MAX_PROMPTS: usize = 256;
/// Completions in one request: prompts times `n`.
const MAX_TOTAL: usize = 1024;
/// What OpenAI generates when it is not told how much.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// One prompt or several, as text or as token ids.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

wire_type!(Prompt, "prompt", {
    let one_of = vec![
        String::schema_ref(),
        <Vec<String>>::schema_ref(),
        <Vec<u32>>::schema_ref(),
        <Vec<Vec<u32>>>::schema_ref(),
    ];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

/// An element of a prompt array.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string, a token id or an array of token ids")]
enum PromptItem {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;

        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, token ids, or an array of those")
            }

            fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Prompt, E> {
                Ok(Prompt::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
                let mut prompt: Option<Prompt> = None;
                while let Some(item) = items.next_element::<PromptItem>()? {
                    match (&mut prompt, item) {
                        (None, PromptItem::Text(text)) => prompt = Some(Prompt::Texts(vec![text])),
                        (None, PromptItem::Token(id)) => prompt = Some(Prompt::Tokens(vec![id])),
                        (None, PromptItem::Tokens(ids)) => {
                            prompt = Some(Prompt::TokenLists(vec![ids]));
                        }
                        (Some(Prompt::Texts(texts)), PromptItem::Text(text)) => texts.push(text),
                        (Some(Prompt::Tokens(ids)), PromptItem::Token(id)) => ids.push(id),
                        (Some(Prompt::TokenLists(lists)), PromptItem::Tokens(ids)) => {
                            lists.push(ids);
                        }
                        _ => {
                            let text = "texts, token ids and arrays must not be mixed";
                            return Err(serde::de::Error::custom(text));
                        }
                    }
                }
                Ok(prompt.unwrap_or(Prompt::Texts(Vec::new())))
            }
        }

        deserializer.deserialize_any(PromptVisitor)
    }
}

impl Prompt {
    fn into_inputs(self) -> Result<VecDeque<PromptInput>> {
        let inputs: VecDeque<_> = match self {
            Self::Text(text) => VecDeque::from([PromptInput::Text(text)]),
            Self::Texts(texts) => texts.into_iter().map(PromptInput::Text).collect(),
            Self::Tokens(ids) => VecDeque::from([PromptInput::Tokens(ids)]),
            Self::TokenLists(lists) => lists.into_iter().map(PromptInput::Tokens).collect(),
        };
        if inputs.len() > MAX_PROMPTS {
            let text = format!("prompt: {} prompts, limit {MAX_PROMPTS}", inputs.len());
            return Err(Error::invalid("prompt", text));
        }
        Ok(inputs)
    }
}

with_local_fields! {
/// A text completion request. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CompletionRequest {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// One prompt or up to 256, as text or as token ids. Each gets `n` completions.
    pub prompt: Prompt,
    /// Send the completions in pieces, as server-sent events.
    #[oai(nullable)]
    pub stream: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub stream_options: Option<StreamOptions>,
    /// Tokens to generate at most, for each completion; 16 if absent. 0 with `echo` scores the prompt.
    #[oai(nullable)]
    pub max_tokens: Option<u32>,
    /// The model may not stop before it has generated so many tokens.
    #[oai(nullable)]
    pub min_tokens: Option<u32>,
    /// How many completions of each prompt to return.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "128")))]
    pub n: Option<u32>,
    /// How many to generate, of which the `n` with the highest log-probability per token are returned.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "128")))]
    pub best_of: Option<u32>,
    /// Begin each completion with its prompt.
    #[oai(nullable)]
    pub echo: Option<bool>,
    /// Text that follows the completion, which fills the gap between; for models that have tokens for it.
    #[oai(nullable)]
    pub suffix: Option<String>,
    /// Return the log-probabilities of the tokens and of so many alternatives.
    #[oai(nullable, validator(maximum(value = "20")))]
    pub logprobs: Option<u32>,
    /// 0 always takes the likeliest token; 1 samples from the model's own distribution.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "2")))]
    pub temperature: Option<f64>,
    /// Sample from the likeliest tokens that together have this probability.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub top_p: Option<f64>,
    /// Sample from so many likeliest tokens; 0 or -1: all.
    #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "4294967295")))]
    pub top_k: Option<i64>,
    /// Drop tokens less likely than this share of the likeliest.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub min_p: Option<f64>,
    /// Taken off the score of tokens that have occurred in the completion.
    #[oai(nullable, validator(minimum(value = "-2"), maximum(value = "2")))]
    pub presence_penalty: Option<f64>,
    /// Taken off the score of a token for each time it has occurred in the completion.
    #[oai(nullable, validator(minimum(value = "-2"), maximum(value = "2")))]
    pub frequency_penalty: Option<f64>,
    /// Divides the score of tokens seen in prompt or completion; 1: off.
    #[oai(nullable, validator(minimum(value = "0.01"), maximum(value = "100")))]
    pub repetition_penalty: Option<f64>,
    /// Another name of `repetition_penalty`.
    #[oai(nullable, validator(minimum(value = "0.01"), maximum(value = "100")))]
    pub repeat_penalty: Option<f64>,
    /// Token ids and what to add to their scores, -100 to 100; -100 or false bans a token. Also as a list
    /// of pairs, in which a text stands for each of its tokens.
    #[oai(nullable)]
    pub logit_bias: Option<LogitBias>,
    /// Same request, same seed: same completion.
    #[oai(nullable)]
    pub seed: Option<i64>,
    /// Up to 16 strings that end a completion; they are not part of it.
    #[oai(nullable)]
    pub stop: Option<TextOr<String>>,
    /// Token ids that end a completion, beside the model's own.
    #[oai(nullable, validator(max_items = 256))]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Go on after the model's end token, until `max_tokens`.
    #[oai(nullable)]
    pub ignore_eos: Option<bool>,
    /// The form of the completion. Only one of this and the following six fields may ask for one.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub response_format: Option<ResponseFormat>,
    /// A grammar of the completion: GBNF (or Lark if it has no `::=`), or an object with type and value.
    #[oai(nullable)]
    pub grammar: Option<GrammarField>,
    /// A JSON schema of the completion, or its text.
    #[oai(nullable)]
    pub guided_json: Option<Value>,
    /// A regular expression of the whole answer.
    #[oai(nullable)]
    pub guided_regex: Option<String>,
    /// The completion is one of these texts.
    #[oai(nullable, validator(max_items = 10000))]
    pub guided_choice: Option<Vec<String>>,
    /// GBNF, or Lark if it has no `::=`.
    #[oai(nullable)]
    pub guided_grammar: Option<String>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub structured_outputs: Option<StructuredOutputs>,
    /// Requests share cached prefixes only with requests of the same salt.
    #[oai(nullable, validator(max_length = 1024))]
    pub cache_salt: Option<String>,
    /// Who asks; opaque to this server.
    #[oai(nullable)]
    pub user: Option<String>,
}
}

impl CompletionRequest {
    /// Checks everything that can be checked without the model; one request for each prompt.
    pub(crate) fn into_generations(mut self) -> Result<(Vec<GenerationRequest>, Extras)> {
        let is_stream = self.stream.unwrap_or(false);
        check_stream_options(is_stream, self.stream_options.as_ref())?;
        log_labels(self.user.as_deref(), None);
        let local = self.take_local();
        if self.n_predict.is_some() && self.max_tokens.is_some() {
            let text = "n_predict is another name of max_tokens; send one of them";
            return Err(Error::invalid("n_predict", text));
        }
        let suffix = self.suffix.filter(|suffix| !suffix.is_empty());
        if let Some(count) = self.logprobs.filter(|&count| count > MAX_LOGPROBS) {
            let text = format!("logprobs must be from 0 to {MAX_LOGPROBS}, is {count}");
            return Err(Error::invalid("logprobs", text));
        }
        let shape = StructuredFields {
            response_format: self.response_format,
            grammar: self.grammar,
            guided_json: self.guided_json,
            guided_regex: self.guided_regex,
            guided_choice: self.guided_choice,
            guided_grammar: self.guided_grammar,
            structured_outputs: self.structured_outputs,
        }
        .into_shape()?;
        let mut inputs = match suffix {
            None => self.prompt.into_inputs()?,
            Some(_) if self.echo == Some(true) => {
                return Err(Error::invalid("suffix", "suffix cannot be combined with echo"));
            }
            Some(suffix) => fill_in(self.prompt.into_inputs()?, &suffix)?,
        };
        let first = inputs
            .pop_front()
            .ok_or_else(|| Error::invalid("prompt", "prompt: at least one prompt is required"))?;
        let mut request = GenerationRequest {
            max_tokens: Some(self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)),
            min_tokens: self.min_tokens.unwrap_or(0),
            best_of: self.best_of,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            logprobs: self.logprobs,
            echo: self.echo.unwrap_or(false),
            rules: Some(Arc::new(OutputRules { shape, tools: None })),
            ..GenerationRequest::new(first)
        };
        SamplingFields {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            repeat_penalty: self.repeat_penalty,
            logit_bias: self.logit_bias,
            seed: self.seed,
            stop: self.stop,
            stop_token_ids: self.stop_token_ids,
            n: self.n,
            cache_salt: self.cache_salt,
        }
        .apply(&mut request)?;
        let extras = local.apply(&mut request)?;
        check_best_of(self.best_of, request.n, is_stream)?;
        let total = (inputs.len() + 1) * request.n.max(self.best_of.unwrap_or(1)) as usize;
        if total > MAX_TOTAL {
            let text = format!("{total} completions in one request, limit {MAX_TOTAL}");
            return Err(Error::invalid("n", text));
        }
        let others: Vec<_> = inputs
            .into_iter()
            .map(|prompt| GenerationRequest { prompt, ..request.clone() })
            .collect();
        Ok((std::iter::once(request).chain(others).collect(), extras))
    }

    /// Whether a stream ends with a chunk of token counts.
    pub(crate) fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true))
    }
}

/// Texts that go on with the same suffix behind a gap.
fn fill_in(inputs: VecDeque<PromptInput>, suffix: &str) -> Result<VecDeque<PromptInput>> {
    let infill = |input| match input {
        PromptInput::Text(prefix) => Ok(PromptInput::Infill(Infill {
            prefix,
            suffix: suffix.to_owned(),
            extra: Vec::new(),
            field: "suffix",
        })),
        _ => Err(Error::invalid("suffix", "suffix needs a prompt of text, not of token ids")),
    };
    inputs.into_iter().map(infill).collect()
}

fn check_best_of(best_of: Option<u32>, n: u32, is_stream: bool) -> Result<()> {
    match best_of {
        Some(best_of) if best_of < n || best_of > MAX_CHOICES => {
            let text = format!("best_of must be from n ({n}) to {MAX_CHOICES}, is {best_of}");
            Err(Error::invalid("best_of", text))
        }
        Some(best_of) if best_of > n && is_stream => {
            let text = "best_of above n cannot be streamed: the best is known at the end";
            Err(Error::invalid("best_of", text))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_four_forms() {
        let cases = [
            (r#""a""#, Some(Prompt::Text("a".into()))),
            (r#"["a", "b"]"#, Some(Prompt::Texts(vec!["a".into(), "b".into()]))),
            ("[1, 2]", Some(Prompt::Tokens(vec![1, 2]))),
            ("[[1], [2, 3]]", Some(Prompt::TokenLists(vec![vec![1], vec![2, 3]]))),
            ("[]", Some(Prompt::Texts(vec![]))),
            (r#"["a", 1]"#, None),
            ("[[1], 2]", None),
            ("[-1]", None),
            ("[[[1]]]", None),
            ("{}", None),
            ("5", None),
        ];
        for (json, expected) in cases {
            assert_eq!(serde_json::from_str::<Prompt>(json).ok(), expected, "{json}");
        }
    }
}
