//! Which parameters decide what an answer is.

use std::{collections::HashSet, sync::LazyLock};

use super::params;
use crate::param::Effect;

/// Names that decide what an answer is, beside those of the table: structures, names that single
/// dialects have, and what only other servers have.
const DECISIVE: [&str; 38] = [
    "audio",
    "banned_tokens",
    "best_of",
    "chat_template",
    "conversation",
    "echo",
    "format",
    "function_call",
    "functions",
    "image",
    "images",
    "json_schema",
    "max_chunks_per_doc",
    "max_completion_tokens",
    "max_new_tokens",
    "max_output_tokens",
    "mcp_servers",
    "messages",
    "modalities",
    "moderation",
    "n_threads",
    "num_predict",
    "prompt",
    "rank_fields",
    "regex",
    "stop_sequences",
    "structural_tag",
    "suffix",
    "template",
    "tool_choice",
    "tools",
    "web_search_options",
    "lora",
    "truncate_prompt_tokens",
    "logprobs",
    "max_tokens",
    "min_tokens",
    "top_logprobs",
];

/// Whether a parameter of this name decides what an answer is: where a request cannot have it, an
/// answer without it would be a lie.
pub(crate) fn decides(name: &str) -> bool {
    static NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let table = [&params::SAMPLING[..], &params::FORMS, &params::LOCAL].concat();
        let decisive = table.into_iter().filter(|param| param.effect == Effect::Decides);
        decisive.map(|param| param.name).chain(DECISIVE).collect()
    });
    NAMES.contains(name)
}
