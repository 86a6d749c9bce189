//! WordPiece as BERT has it: words, then the longest token from the left again and again.
//!
//! GGUF writes the vocabulary the SentencePiece way: a token that starts a word starts with U+2581,
//! one that continues a word is bare.

use tokenizers::normalizers::BertNormalizer;
use tokenizers::{NormalizedString, Normalizer};

use super::TokenizerError;
use super::prefix::PrefixIndex;
use super::unicode::{self, PUNCTUATION, SYMBOL};
use super::until::{Sink, Stopped};
use super::vocab::Vocab;
use crate::model::gguf::Metadata;

/// Before what starts a word.
const START: &[u8] = "\u{2581}".as_bytes();
/// Bytes of text that are normalised at a time, rounded up to the end of a word.
const PART_BYTES: usize = 64 << 10;

/// How words are written before the search.
pub(super) struct Wpm {
    lower_case: bool,
    strip_accents: bool,
    /// Longer words are unknown as a whole.
    max_word_chars: usize,
    tokens: PrefixIndex,
}

impl Wpm {
    pub(super) fn load(meta: &Metadata, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let lower_case = meta.bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let strip_accents = meta.bool("tokenizer.ggml.normalizer.strip_accents")?;
        let max_word_chars = meta.u32("tokenizer.kolosal.max_word_chars")?;
        Ok(Self {
            lower_case,
            strip_accents: strip_accents.unwrap_or(lower_case),
            max_word_chars: max_word_chars.map_or(usize::MAX, |count| count as usize),
            tokens: PrefixIndex::new(vocab, vocab.ids().collect()),
        })
    }

    pub(super) fn encode(&self, text: &str, out: &mut Sink<'_>) -> Result<(), Stopped> {
        let mut rest = text;
        while !rest.is_empty() {
            // White space decomposes to itself, so that parts which end with it can be taken alone.
            let from = rest.ceil_char_boundary(PART_BYTES);
            let end = rest[from..].find([' ', '\n']).map_or(rest.len(), |at| from + at + 1);
            let (part, after) = rest.split_at(end);
            self.encode_part(part, out)?;
            rest = after;
        }
        Ok(())
    }

    fn encode_part(&self, text: &str, out: &mut Sink<'_>) -> Result<(), Stopped> {
        let mut word = String::new();
        for c in self.normalised(text).chars() {
            if c.is_whitespace() {
                self.push_word(&mut word, out)?;
            } else if unicode::is(c, PUNCTUATION) || (c.is_ascii() && unicode::is(c, SYMBOL)) {
                self.push_word(&mut word, out)?;
                word.push(c);
                self.push_word(&mut word, out)?;
            } else {
                word.push(c);
            }
        }
        self.push_word(&mut word, out)
    }

    /// As BERT's own normalizer has it: control characters left out, spaces around ideographs, and in
    /// models that ignore accents no marks that take no room. Vowel signs that do (category Mc) stay.
    fn normalised(&self, text: &str) -> String {
        if text.is_ascii() {
            let is_kept = |c: &char| !c.is_ascii_control() || matches!(c, '\t' | '\n' | '\r');
            let kept = text.chars().filter(is_kept);
            return kept
                .map(|c| if self.lower_case { c.to_ascii_lowercase() } else { c })
                .collect();
        }
        let rules = BertNormalizer::new(true, true, Some(self.strip_accents), self.lower_case);
        let mut text = NormalizedString::from(text);
        // It has no way to fail.
        rules.normalize(&mut text).ok();
        text.get().to_owned()
    }

    /// Appends the tokens of `word` and clears it; a word with a part that is no token is unknown.
    fn push_word(&self, word: &mut String, out: &mut Sink<'_>) -> Result<(), Stopped> {
        let (vocab, unk) = (out.vocab, out.unk);
        if word.is_empty() {
            return Ok(());
        }
        if word.chars().nth(self.max_word_chars).is_some() {
            word.clear();
            out.tokens.extend(unk);
            return out.check();
        }
        let marked = format!("\u{2581}{word}");
        word.clear();
        let before = out.tokens.len();
        let mut rest = marked.as_bytes();
        while !rest.is_empty() {
            out.check_patience()?;
            // What starts a word continues none, even where a text has the mark in it.
            let is_start = rest.len() == marked.len();
            let mut found = None;
            if is_start || !rest.starts_with(START) {
                self.tokens.each(vocab, rest, |len, id| {
                    if !vocab.is_control(id) {
                        found = Some((id, len));
                    }
                });
            }
            let Some((id, len)) = found else {
                out.tokens.truncate(before);
                out.tokens.extend(unk);
                break;
            };
            out.tokens.push(id);
            rest = &rest[len..];
        }
        out.check()
    }
}
