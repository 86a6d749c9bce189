//! Texts over which repetitions do not reach, as tokens.
//!
//! A text may lie within a token, be one, or begin in one and go on in others; llama.cpp's DRY sampler
//! reads its `dry_sequence_breakers` so.

use super::tokenizer::{Special, Tokenizer};
use crate::engine::sampling::Breakers;

/// What llama.cpp's server uses if nothing else is asked for.
pub const DEFAULT_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Tokens after the one in which a breaker begins.
const MAX_TAIL: usize = 20;

/// Every way in which the vocabulary writes one of the texts: first token to what follows it.
pub(super) fn find(tokenizer: &Tokenizer, texts: &[String]) -> Breakers {
    let mut breakers = Breakers::new();
    let ids = (0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX))
        .filter(|id| !tokenizer.is_control(*id));
    for id in ids {
        let bytes = tokenizer.bytes(id);
        for text in texts.iter().filter(|text| !text.is_empty()) {
            for tail in tails(tokenizer, bytes, text) {
                let known = breakers.entry(id).or_default();
                if !known.contains(&tail) {
                    known.push(tail);
                }
            }
        }
    }
    breakers
}

/// What must follow a token of these bytes to complete the text.
fn tails(tokenizer: &Tokenizer, bytes: &[u8], text: &str) -> Vec<Vec<u32>> {
    if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
        return vec![Vec::new()];
    }
    let begun = (1..text.len())
        .filter(|len| text.is_char_boundary(*len) && bytes.ends_with(&text.as_bytes()[..*len]));
    let rest = |len: usize| {
        let mut tail = tokenizer.encode(&text[len..], Special::Plain);
        tail.truncate(MAX_TAIL);
        tail
    };
    begun.map(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gguf::{Array, Metadata};

    #[test]
    fn a_breaker_lies_in_a_token_or_begins_in_one() {
        let texts = ["a", "b", "xa", "ab", "c", "bc"];
        let mut meta = Metadata::new();
        let tokens: Vec<Box<[u8]>> = texts.iter().map(|text| text.as_bytes().into()).collect();
        meta.set("tokenizer.ggml.model", "gpt2");
        meta.set("tokenizer.ggml.pre", "gpt-2");
        meta.set("tokenizer.ggml.tokens", Array::String(tokens));
        meta.set("tokenizer.ggml.merges", Array::String(Vec::new()));
        let tokenizer = Tokenizer::from_gguf(&meta).expect("a vocabulary");
        let found = find(&tokenizer, &["ab".to_owned()]);
        let expected: Breakers = [(0, vec![vec![1]]), (2, vec![vec![1]]), (3, vec![vec![]])].into();
        assert_eq!(found, expected);
    }
}
