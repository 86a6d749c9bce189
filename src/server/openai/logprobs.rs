//! Log-probabilities on the wire, in the chat's form and in the older form of text completions.

use std::collections::BTreeMap;

use poem_openapi::Object;
use serde::Serialize;

use crate::{
    chat::generation::{TextLogprobs, TokenText},
    server::desk::finite,
};

/// Log-probabilities of an answer's tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Object)]
pub(crate) struct ChatLogprobs {
    pub content: Vec<TokenLogprob>,
    /// Always null: models do not refuse in a channel of their own.
    #[oai(nullable)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// Log-probability of one token of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct TokenLogprob {
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// The token's bytes; a token may be a part of a character.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place, likeliest first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// Log-probability of one likely token.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct TopLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

/// Log-probabilities of a text completion: parallel lists, one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Object)]
pub(crate) struct CompletionLogprobs {
    /// Texts of the tokens; `bytes:` with escaped bytes where these are a part of a character.
    pub tokens: Vec<String>,
    /// Null for the first token of an echoed prompt, which follows nothing.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens at each place and the one that stands there, with their log-probabilities.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins, in characters of the text; within a character, where that begins.
    pub text_offset: Vec<u32>,
}

impl ChatLogprobs {
    pub(crate) fn new(tokens: &[TextLogprobs]) -> Self {
        let top = |(token, logprob): &(TokenText, f32)| TopLogprob {
            token: token.text.clone(),
            logprob: finite(*logprob),
            bytes: token.bytes.clone(),
        };
        let token = |token: &TextLogprobs| TokenLogprob {
            token: token.token.text.clone(),
            logprob: finite(token.logprob.unwrap_or(0.0)),
            bytes: token.token.bytes.clone(),
            top_logprobs: token.top.iter().map(top).collect(),
        };
        Self { content: tokens.iter().map(token).collect(), refusal: None }
    }
}

impl CompletionLogprobs {
    pub(crate) fn new(tokens: &[TextLogprobs]) -> Self {
        let mut lists = Self::default();
        for token in tokens {
            lists.text_offset.push(token.offset);
            lists.tokens.push(name(&token.token));
            lists.token_logprobs.push(token.logprob.map(finite));
            lists.top_logprobs.push(token.logprob.map(|logprob| likeliest(token, logprob)));
        }
        lists
    }
}

/// The likeliest tokens by name, and the one that was chosen. Of several of the same name, the less
/// likely ones are named by their ids.
fn likeliest(token: &TextLogprobs, logprob: f32) -> BTreeMap<String, f32> {
    let is_listed = token.top.iter().any(|(other, _)| other.id == token.token.id);
    let chosen = (!is_listed).then_some((&token.token, logprob));
    let mut named = BTreeMap::new();
    let top = token.top.iter().map(|(token, logprob)| (token, *logprob));
    for (token, logprob) in top.chain(chosen) {
        let name = name(token);
        let name = if named.contains_key(&name) { format!("token_id:{}", token.id) } else { name };
        named.insert(name, finite(logprob));
    }
    named
}

/// A token as OpenAI names it: its text, or its bytes where they are a part of a character.
fn name(token: &TokenText) -> String {
    if token.bytes.is_empty() || str::from_utf8(&token.bytes).is_ok() {
        return token.text.clone();
    }
    let bytes = token.bytes.iter().map(|byte| format!("\\x{byte:02x}"));
    format!("bytes:{}", bytes.collect::<String>())
}
