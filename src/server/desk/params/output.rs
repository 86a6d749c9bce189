//! What answers are like: where they end, what may not be in them, their form, and what is told of
//! their tokens.

use std::time::Duration;

use serde_json::Value;

use super::{Row, U32, count};
use crate::{
    chat::{
        generation::{
            MAX_BAD_WORD_BYTES, MAX_BAD_WORDS, MAX_CHOICES, MAX_LOGPROBS, MAX_STOP_BYTES,
            MAX_STOP_TOKENS, MAX_STOPS,
        },
        grammar::Grammar,
    },
    engine::LogprobsOf,
    param::Kind,
    server::{
        desk::{
            form::{GrammarField, ResponseFormat, StructuredOutputs, by_look, schema_of, shape},
            wire,
        },
        lenient::read_at,
    },
};

const LOGPROBS_RANGE: (i64, i64) = (0, MAX_LOGPROBS as i64);
/// Milliseconds of a day.
const MAX_PREDICT_MS: i64 = 86_400_000;
/// Texts of a choice.
const MAX_GUIDED_CHOICE: usize = 10_000;

pub(crate) const MAX_TOKENS: Row = Row::integer(
    "max_tokens",
    "Tokens to generate at most; absent or -1: until the context is full.",
    (1, u32::MAX as i64),
    |draft, x| draft.request.max_tokens = count(x),
)
.unbounded();
/// As [`MAX_TOKENS`], of servers that take 0 as well.
pub(crate) const N_PREDICT: Row = Row::integer(
    "n_predict",
    "Another name of `max_tokens`; -1: until the context is full.",
    (-1, u32::MAX as i64),
    |draft, x| draft.request.max_tokens = count(x),
)
.remarking("-1: until the context is full")
.being("max_tokens");
pub(crate) const MIN_TOKENS: Row = Row::integer(
    "min_tokens",
    "The model may not stop before it has generated so many tokens.",
    U32,
    |draft, x| draft.request.min_tokens = x as u32,
)
.remarking("a grammar or a schema that has nothing more to say ends the answer before");
pub(crate) const N: Row =
    Row::integer("n", "How many answers to generate.", (1, MAX_CHOICES as i64), |draft, x| {
        draft.request.n = x as u32;
    })
    .remarking("up to 128");
pub(crate) const STOP: Row = Row::new(
    "stop",
    "Up to 16 texts that end the answer; they are not part of it.",
    Kind::Texts {
        max: MAX_STOPS,
        chars: (1, MAX_STOP_BYTES),
        or_one: true,
        set: |draft, texts| draft.request.stop = texts,
    },
)
.remarking(
    "up to 16; also within a grammar or a schema, whose text then ends incomplete, as in vLLM and \
     llama-server",
);
pub(crate) const STOP_TOKEN_IDS: Row = Row::new(
    "stop_token_ids",
    "Token ids that end the answer, beside the model's own.",
    Kind::Ids { max: MAX_STOP_TOKENS, set: |draft, ids| draft.request.stop_token_ids = ids },
)
.remarking("up to 256; a grammar may not let a token come that ends the answer");
pub(crate) const IGNORE_EOS: Row = Row::switch(
    "ignore_eos",
    "Go on after the model's end token, as long as the answer may be.",
    |draft, is_on| draft.request.ignore_eos = is_on,
)
.remarking("a complete grammar or schema still ends the answer");
pub(crate) const INCLUDE_STOP: Row = Row::switch(
    "include_stop_str_in_output",
    "The stop string that ended the answer is part of it.",
    |draft, is_on| draft.request.include_stop = is_on,
);
pub(crate) const BAD_WORDS: Row = Row::new(
    "bad_words",
    "Up to 256 words that may not occur in the answer.",
    Kind::Texts {
        max: MAX_BAD_WORDS,
        chars: (1, MAX_BAD_WORD_BYTES),
        or_one: false,
        set: |draft, texts| draft.request.bad_words = texts,
    },
)
.remarking("up to 256");
pub(crate) const T_MAX_PREDICT_MS: Row = Row::integer(
    "t_max_predict_ms",
    "End so many milliseconds after the first token, if there is a line break by then; 0 or -1: off.",
    (-1, MAX_PREDICT_MS),
    |draft, x| {
        let limit = u64::try_from(x).ok().filter(|limit| *limit > 0);
        draft.request.time_limit = limit.map(Duration::from_millis);
    },
)
.remarking("counts once there is a line break, as in llama-server; 0 and -1: off");
pub(crate) const N_INDENT: Row =
    Row::integer("n_indent", "Not supported: must be absent, null or 0.", (0, 0), |_, _| {})
        .refused("a text is not ended by its indentation; 0 is accepted");

pub(crate) const LOGPROBS: Row = Row::switch(
    "logprobs",
    "Return the log-probabilities of the answer's tokens.",
    |draft, is_on| draft.logprobs.is_wanted = is_on,
);
pub(crate) const TOP_LOGPROBS: Row = Row::integer(
    "top_logprobs",
    "Also return so many of the likeliest alternatives per token; needs `logprobs`.",
    LOGPROBS_RANGE,
    |draft, x| draft.logprobs.alternatives = Some(x as u32),
)
.remarking("up to 20");
/// Both in one, as text completions have it.
pub(crate) const NUM_LOGPROBS: Row = Row::integer(
    "logprobs",
    "Return the log-probabilities of the tokens and of so many alternatives.",
    LOGPROBS_RANGE,
    |draft, x| {
        draft.logprobs.is_wanted = true;
        draft.logprobs.alternatives = Some(x as u32);
    },
)
.remarking(
    "up to 20, and the token that stands there; with `echo` also those of the prompt; tokens within a \
     character are named `bytes:\\\\x…`, others of the same text `token_id:…`",
);
pub(crate) const N_PROBS: Row = Row::integer(
    "n_probs",
    "Another name for the number of alternatives whose log-probabilities are returned; 0: none.",
    LOGPROBS_RANGE,
    |draft, x| draft.logprobs.n_probs = x as u32,
)
.remarking("another name for the number of log-probabilities, up to 20");
pub(crate) const POST_SAMPLING_PROBS: Row = Row::switch(
    "post_sampling_probs",
    "Log-probabilities are those that the tokens were drawn by, after the samplers.",
    |draft, is_on| {
        draft.request.logprobs_of = if is_on { LogprobsOf::Draw } else { LogprobsOf::Model };
    },
)
.remarking("log-probabilities are those of the draw, in OpenAI's form");
pub(crate) const PROMPT_LOGPROBS: Row = Row::integer(
    "prompt_logprobs",
    "Return log-probabilities of the prompt's tokens and of so many alternatives; not streamed.",
    LOGPROBS_RANGE,
    |draft, x| draft.request.prompt_logprobs = Some(x as u32),
)
.remarking("vLLM's form; up to 20; not with `stream`");

pub(crate) const RESPONSE_FORMAT: Row = Row::json(
    "response_format",
    "The form of the answer. Only one parameter may ask for one.",
    wire::<ResponseFormat>(),
    |draft, value, place| {
        draft.shapes.extend(read_at::<ResponseFormat>(value, place)?.into_shape(place)?);
        Ok(())
    },
);
pub(crate) const GRAMMAR: Row = Row::json(
    "grammar",
    "A grammar of the answer: GBNF (or Lark if it has no `::=`), or an object with type and value.",
    wire::<GrammarField>(),
    |draft, value, place| {
        draft.shapes.push(read_at::<GrammarField>(value, place)?.into_shape(place)?);
        Ok(())
    },
);
/// As [`GRAMMAR`], as a text that may be empty.
pub(crate) const GRAMMAR_TEXT: Row = Row::text(
    "grammar",
    "GBNF, or Lark if it has no `::=`; empty: none.",
    usize::MAX,
    |draft, text| {
        if !text.trim().is_empty() {
            draft.shapes.push(shape("grammar", by_look(text)));
        }
    },
);
pub(crate) const GUIDED_JSON: Row = Row::json(
    "guided_json",
    "A JSON schema of the answer, or its text.",
    wire::<Value>(),
    |draft, value, place| {
        let schema = schema_of(value, place)?;
        draft.shapes.push(shape(&place.path, Grammar::JsonSchema(schema)));
        Ok(())
    },
);
pub(crate) const GUIDED_REGEX: Row = Row::text(
    "guided_regex",
    "A regular expression of the whole answer.",
    usize::MAX,
    |draft, text| draft.shapes.push(shape("guided_regex", Grammar::Regex(text))),
);
pub(crate) const GUIDED_CHOICE: Row = Row::new(
    "guided_choice",
    "The answer is one of these texts.",
    Kind::Texts {
        max: MAX_GUIDED_CHOICE,
        chars: (0, usize::MAX),
        or_one: false,
        set: |draft, texts| draft.shapes.push(shape("guided_choice", Grammar::Choice(texts))),
    },
);
pub(crate) const GUIDED_GRAMMAR: Row =
    Row::text("guided_grammar", "GBNF, or Lark if it has no `::=`.", usize::MAX, |draft, text| {
        draft.shapes.push(shape("guided_grammar", by_look(text)));
    });
pub(crate) const STRUCTURED_OUTPUTS: Row =
    Row::json("structured_outputs", "", wire::<StructuredOutputs>(), |draft, value, place| {
        draft.shapes.push(read_at::<StructuredOutputs>(value, place)?.into_shape(place)?);
        Ok(())
    })
    .remarking("`structural_tag` is refused");
