//! The wire request of `POST /v1/completions` and its translation: one generation for each prompt.

use poem_openapi::Object;
use serde::Deserialize;

use crate::{
    chat::{
        Infill,
        generation::{MAX_CHOICES, PromptInput},
    },
    error::{Error, Result},
    param::{Given, Scalar},
    server::{
        common::Prompt,
        desk::{
            Ask, Draft, Request, WireParam,
            params::{self, FORMS, LOCAL, LOCAL_SERVICE, SAMPLING, join},
        },
    },
};

/// Completions in one request: prompts times `n`.
const MAX_TOTAL: usize = 1024;
/// What OpenAI generates when it is not told how much.
const DEFAULT_MAX_TOKENS: i64 = 16;

/// A text completion request. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "CompletionRequest")]
pub(crate) struct CompletionParts {
    /// The engine to ask, by its `engine_id`; may be absent if there is only one.
    #[oai(nullable, validator(min_length = 1))]
    model: Option<String>,
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
        let Self { parts, draft, given } = self;
        let suffix = parts.suffix.filter(|suffix| !suffix.is_empty());
        let inputs = match suffix {
            None => parts.prompt.into_inputs("prompt")?,
            Some(_) if draft.request.echo => {
                return Err(Error::invalid("suffix", "suffix cannot be combined with echo"));
            }
            Some(suffix) => fill_in(parts.prompt.into_inputs("prompt")?, &suffix)?,
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
        Ok(draft.into_ask_of(parts.model, inputs))
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
