//! The wire request of `POST /v1/completions` and its translation: one generation for each prompt.

use std::{fmt, sync::Arc};

use poem_openapi::{Object, registry::MetaSchema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};

use crate::{
    chat::{
        Infill,
        generation::{GenerationRequest, MAX_CHOICES, OutputRules, PromptInput},
    },
    error::{Error, Result},
    param::{Given, Scalar},
    server::{
        desk::{
            Ask, Draft, Request, WireParam,
            params::{self, FORMS, LOCAL, LOCAL_SERVICE, SAMPLING, join},
        },
        schema::wire_type,
    },
};

/// Prompts in one request.
const MAX_PROMPTS: usize = 256;
/// Completions in one request: prompts times `n`.
const MAX_TOTAL: usize = 1024;
/// What OpenAI generates when it is not told how much.
const DEFAULT_MAX_TOKENS: i64 = 16;

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
    fn into_inputs(self) -> Result<Vec<PromptInput>> {
        let inputs: Vec<_> = match self {
            Self::Text(text) => vec![PromptInput::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(PromptInput::Text).collect(),
            Self::Tokens(ids) => vec![PromptInput::Tokens(ids)],
            Self::TokenLists(lists) => lists.into_iter().map(PromptInput::Tokens).collect(),
        };
        if inputs.len() > MAX_PROMPTS {
            let text = format!("prompt: {} prompts, limit {MAX_PROMPTS}", inputs.len());
            return Err(Error::invalid("prompt", text));
        }
        Ok(inputs)
    }
}

/// A text completion request. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "CompletionRequest")]
pub(crate) struct CompletionParts {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    model: String,
    /// One prompt or up to 256, as text or as token ids. Each gets `n` completions.
    prompt: Prompt,
    /// Text that follows the completion, which fills the gap between; for models that have tokens for it.
    #[oai(nullable)]
    suffix: Option<String>,
}

/// A request to continue texts.
pub(crate) struct CompletionRequest {
    parts: CompletionParts,
    draft: Draft,
    given: Given,
}

type Row = WireParam<Draft>;

const OWN: &[Row] = &[
    params::STREAM,
    params::STREAM_OPTIONS,
    params::MAX_TOKENS
        .within(0.0, u32::MAX as f64)
        .saying("Tokens to generate at most, for each completion. 0 with `echo` scores the prompt.")
        .defaulting(Scalar::Integer(DEFAULT_MAX_TOKENS)),
    params::MIN_TOKENS,
    Row::integer(
        "best_of",
        "How many to generate, of which the `n` with the highest log-probability per token are returned.",
        (1, MAX_CHOICES as i64),
        |draft, x| draft.request.best_of = Some(x as u32),
    )
    .remarking("up to 128"),
    Row::switch("echo", "Begin each completion with its prompt.", |draft, is_on| {
        draft.request.echo = is_on;
    }),
    params::NUM_LOGPROBS,
    params::IGNORE_EOS,
    params::USER,
];

impl Request for CompletionRequest {
    type Parts = CompletionParts;
    type Target = Draft;
    const PARAMS: &'static [WireParam<Draft>] =
        &join::<{ OWN.len() + SAMPLING.len() + FORMS.len() + LOCAL.len() + LOCAL_SERVICE.len() }>(
            &[OWN, &SAMPLING, &FORMS, &LOCAL, &LOCAL_SERVICE],
        );

    fn new(parts: CompletionParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { parts, draft, given })
    }
}

impl CompletionRequest {
    /// Checks everything that can be checked without the model; one request for each prompt.
    pub(super) fn into_ask(self) -> Result<Ask> {
        let Self { parts, mut draft, given } = self;
        let suffix = parts.suffix.filter(|suffix| !suffix.is_empty());
        let inputs = match suffix {
            None => parts.prompt.into_inputs()?,
            Some(_) if draft.request.echo => {
                return Err(Error::invalid("suffix", "suffix cannot be combined with echo"));
            }
            Some(suffix) => fill_in(parts.prompt.into_inputs()?, &suffix)?,
        };
        if inputs.is_empty() {
            return Err(Error::invalid("prompt", "prompt: at least one prompt is required"));
        }
        let (n, best_of) = (draft.request.n, draft.request.best_of);
        if let Some(best_of) = best_of.filter(|best_of| *best_of < n) {
            let text = format!("must be from n ({n}) to {MAX_CHOICES}, is {best_of}");
            return Err(given.error("best_of", text));
        }
        if best_of.is_some_and(|best_of| best_of > n) && draft.is_stream() {
            let text = "above n cannot be streamed: the best is known at the end";
            return Err(given.error("best_of", text));
        }
        let total = inputs.len() * n.max(best_of.unwrap_or(1)) as usize;
        if total > MAX_TOTAL {
            let text = format!("{total} completions in one request, limit {MAX_TOTAL}");
            return Err(Error::invalid("n", text));
        }
        let shape = draft.shapes.pop();
        let rules = Arc::new(OutputRules { shape, tools: None });
        let prompts = inputs.into_iter().map(|prompt| GenerationRequest {
            prompt,
            rules: Some(Arc::clone(&rules)),
            ..draft.request.clone()
        });
        let prompts = prompts.collect();
        Ok(draft.into_ask(Some(parts.model), prompts))
    }
}

/// Texts that go on with the same suffix behind a gap.
fn fill_in(inputs: Vec<PromptInput>, suffix: &str) -> Result<Vec<PromptInput>> {
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
