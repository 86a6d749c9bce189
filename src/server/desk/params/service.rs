//! How answers are given, and what is handed on or has no effect.

use std::collections::BTreeMap;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{I64, Row, U32, count};
use crate::{
    error::Result,
    param::{Kind, Place},
    server::{
        desk::wire,
        lenient::read_at,
        schema::{FreeObject, wire_type},
        span::Span,
    },
};

/// Characters of a cache salt, and of a request's id.
const MAX_SALT: usize = 1024;
/// Characters of a chat template.
const MAX_TEMPLATE: usize = 128 << 10;
const MAX_ID: usize = 512;
/// Labels of a request.
const MAX_METADATA: usize = 16;
/// What a template takes of reasoning.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

pub(crate) const REASONING_EFFORT: Row = Row::new(
    "reasoning_effort",
    "How much a reasoning model thinks. Handed to the chat template, which may know it.",
    Kind::Choice { words: EFFORTS, open: false, set: |draft, word| draft.effort = Some(word) },
)
.remarking(
    "handed to the chat template, which may know it; `none` also as `enable_thinking` and `thinking`, \
     both false",
);
pub(crate) const REASONING_BUDGET: Row = Row::integer(
    "reasoning_budget",
    "Tokens of reasoning at most, after which the model is made to answer; -1: no bound.",
    (-1, u32::MAX as i64),
    |draft, x| draft.thinking = count(x),
)
.remarking("0 ends it at once; refused where the model writes no reasoning");
pub(crate) const THINKING_TOKEN_BUDGET: Row =
    also_budget("thinking_token_budget").remarking("vLLM's name");
pub(crate) const THINKING_BUDGET_TOKENS: Row =
    also_budget("thinking_budget_tokens").remarking("llama-server's other name");
pub(crate) const THINKING_BUDGET: Row =
    also_budget("thinking_budget").remarking("the name of Qwen's API");
pub(crate) const VERBOSITY: Row = Row::new(
    "verbosity",
    "How many words the answer has. Handed to the chat template, which may know it.",
    Kind::Choice {
        words: &["low", "medium", "high"],
        open: false,
        set: |draft, word| draft.verbosity = Some(word),
    },
)
.remarking("handed to the chat template, which may know it");
pub(crate) const CHAT_TEMPLATE_KWARGS: Row = Row::json(
    "chat_template_kwargs",
    "Handed to the chat template as variables.",
    wire::<FreeObject>(),
    |draft, value, place| {
        draft.kwargs = read_at::<FreeObject>(value, place)?.0;
        Ok(())
    },
);

pub(crate) const CHAT_TEMPLATE: Row = Row::text(
    "chat_template",
    "A chat template in place of the engine's, by its text or its name, where the configuration allows it.",
    MAX_TEMPLATE,
    |draft, text| draft.template = Some(text).filter(|text| !text.is_empty()),
)
.remarking("refused unless `engine.request_templates` is on");

pub(crate) const STREAM: Row =
    Row::switch("stream", "Send the answer in pieces, as server-sent events.", |draft, is_on| {
        draft.stream = Some(is_on);
    })
    .serves();
pub(crate) const STREAM_OPTIONS: Row = Row::new(
    "stream_options",
    "Options of a streamed answer; only with `stream`.",
    Kind::Table {
        title: "StreamOptions",
        params: &[INCLUDE_USAGE, CONTINUOUS_USAGE_STATS, INCLUDE_OBFUSCATION],
    },
)
.serves()
.remarking("`include_obfuscation` is refused");
const INCLUDE_USAGE: Row = Row::switch(
    "include_usage",
    "Send the token counts in a last chunk without choices.",
    |draft, is_on| draft.wanted.include_usage = is_on,
)
.serves();
const CONTINUOUS_USAGE_STATS: Row = Row::switch(
    "continuous_usage_stats",
    "Send the token counts so far in every chunk; only with `include_usage`.",
    |draft, is_on| draft.wanted.continuous_usage = is_on,
)
.serves()
.remarking("vLLM's; only with `include_usage`");
pub(crate) const INCLUDE_OBFUSCATION: Row = Row::switch(
    "include_obfuscation",
    "Pad events to hide their length; not supported: must be absent, null or false.",
    |_, _| {},
)
.refused("padding is not supported");
pub(crate) const TIMINGS_PER_TOKEN: Row = Row::switch(
    "timings_per_token",
    "Send `timings` with every piece of a stream, and not with the last alone.",
    |draft, is_on| draft.wanted.timings = is_on,
)
.serves()
.remarking("`timings` come with the last piece in any case");
pub(crate) const RETURN_PROGRESS: Row = Row::switch(
    "return_progress",
    "Send how much of the prompt has been read; only with `stream`.",
    |draft, is_on| draft.wanted.progress = is_on,
)
.serves()
.remarking("only with `stream`");
pub(crate) const RETURN_TOKEN_IDS: Row = Row::switch(
    "return_token_ids",
    "Return the ids of the prompt's and the answer's tokens.",
    |draft, is_on| draft.wanted.tokens = is_on,
)
.serves()
.remarking("vLLM's form");
pub(crate) const RETURN_TOKENS: Row =
    RETURN_TOKEN_IDS.named("return_tokens").saying("Another name of `return_token_ids`.");
pub(crate) const KEEP_ALIVE: Row = Row::json(
    "keep_alive",
    "How long the engine stays loaded afterwards: seconds or a text such as `5m`; negative: for ever.",
    wire::<Span>(),
    |draft, value, place| {
        draft.keep_alive = Some(read_at(value, place)?);
        Ok(())
    },
)
.serves()
.remarking("Ollama's form");
pub(crate) const TTL: Row = Row::integer("ttl", "`keep_alive` in seconds.", U32, |draft, x| {
    draft.ttl_s = u64::try_from(x).ok();
})
.serves()
.remarking("LM Studio's form");
pub(crate) const CACHE_PROMPT: Row = Row::switch(
    "cache_prompt",
    "False: take nothing from the prefix cache; true if absent.",
    |draft, is_on| draft.request.cache_apart = !is_on,
)
.serves();
pub(crate) const CACHE_SALT: Row = Row::text(
    "cache_salt",
    "Requests share cached prefixes only with requests of the same salt.",
    MAX_SALT,
    |draft, text| draft.request.cache_salt = Some(text),
)
.serves()
.remarking("up to 1024 characters");

pub(crate) const USER: Row =
    Row::text("user", "Who asks; opaque to this server.", usize::MAX, |draft, text| {
        draft.labels.user = Some(text);
    })
    .idle("who asks is opaque to this server; the log at level debug shows it");
pub(crate) const METADATA: Row = Row::json(
    "metadata",
    "Up to 16 labels of the request; kept in the log alone, as answers are not stored.",
    wire::<RequestLabels>(),
    |draft, value, place| {
        draft.labels.metadata = Some(RequestLabels::read(value, place)?.0);
        Ok(())
    },
)
.idle("answers are not stored; the log at level debug shows the labels");
pub(crate) const SAFETY_IDENTIFIER: Row =
    Row::text("safety_identifier", "Who asks; opaque to this server.", usize::MAX, |_, _| {})
        .idle("who asks is opaque to this server");
pub(crate) const PROMPT_CACHE_KEY: Row = Row::text(
    "prompt_cache_key",
    "A hint where to look for a cached prefix; this server looks in one cache and finds it without.",
    usize::MAX,
    |_, _| {},
)
.idle("every cached prefix is found without");
pub(crate) const PROMPT_CACHE_RETENTION: Row = Row::new(
    "prompt_cache_retention",
    "No effect: prefixes stay in memory until others need the room.",
    Kind::Choice { words: &["in_memory", "in-memory", "24h"], open: true, set: |_, _| {} },
)
.idle("prefixes stay in memory until others need the room");
pub(crate) const SERVICE_TIER: Row = Row::new(
    "service_tier",
    "There is one tier, whatever is asked for: `default`.",
    Kind::Choice {
        words: &["auto", "default", "flex", "scale", "priority"],
        open: true,
        set: |_, _| {},
    },
)
.idle("there is one tier; the answer says `default`");
pub(crate) const PRIORITY: Row = Row::integer(
    "priority",
    "No effect but in the log: requests are served in their order.",
    I64,
    |draft, x| draft.labels.priority = Some(x),
)
.idle("requests are served in their order; the log at level debug shows it");
pub(crate) const REQUEST_ID: Row =
    Row::text("request_id", "No effect but in the log.", MAX_ID, |draft, text| {
        draft.labels.request_id = Some(text);
    })
    .idle("up to 512 characters; the log at level debug shows it; the answer's id is the server's");
pub(crate) const ID_SLOT: Row = Row::integer(
    "id_slot",
    "No effect: there are no slots, and every cached prefix is found without.",
    I64,
    |_, _| {},
)
.idle("there are no slots; every cached prefix is found without");
pub(crate) const N_KEEP: Row =
    Row::integer("n_keep", "No effect: a context is never cut.", I64, |_, _| {})
        .idle("a context is never cut");
pub(crate) const N_DISCARD: Row = N_KEEP.named("n_discard").being("n_discard");

const fn also_budget(name: &'static str) -> Row {
    REASONING_BUDGET
        .named(name)
        .being("reasoning_budget")
        .saying("Another name of `reasoning_budget`.")
}

/// Labels of a request: texts by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct RequestLabels(BTreeMap<String, String>);

wire_type!(RequestLabels, "labels", {
    let text = MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")));
    MetaSchema {
        additional_properties: Some(Box::new(text)),
        max_properties: Some(MAX_METADATA),
        ..MetaSchema::new("object")
    }
});

impl RequestLabels {
    fn read(value: Value, place: &Place) -> Result<Self> {
        let labels: Self = read_at(value, place)?;
        match labels.0.len() {
            0..=MAX_METADATA => Ok(labels),
            count => Err(place.error(format!("{count} entries, limit {MAX_METADATA}"))),
        }
    }
}
