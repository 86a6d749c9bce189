//! SentencePiece unigram as T5 has it: the segmentation with the highest sum of scores (Viterbi).

use super::TokenizerError;
use super::prefix::PrefixIndex;
use super::spm::{splits_at_spaces, word_end};
use super::until::{Sink, Stopped};
use super::vocab::{Kind, Vocab};
use crate::model::gguf::Metadata;

/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

pub(super) struct Ugm {
    tokens: PrefixIndex,
    user_defined: PrefixIndex,
    characters: CharacterMap,
    unknown_score: f64,
    space_prefix: bool,
    merge_spaces: bool,
    /// No token reaches over the beginning of a word: the best way to it is known when it is reached.
    by_words: bool,
}

/// The best way to reach a place in the text.
#[derive(Clone, Copy)]
struct Best {
    /// `None` for an unknown character.
    id: Option<u32>,
    from: usize,
    score: f64,
}

impl Ugm {
    pub(super) fn load(meta: &Metadata, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let of = |kinds: &[Kind]| {
            vocab.ids().filter(|&id| kinds.contains(&vocab.kind(id))).collect::<Vec<_>>()
        };
        let normal = of(&[Kind::Normal]);
        let worst = normal.iter().map(|&id| vocab.score(id)).fold(f32::MAX, f32::min);
        Ok(Self {
            tokens: PrefixIndex::new(vocab, of(&[Kind::Normal, Kind::User, Kind::Unused])),
            user_defined: PrefixIndex::new(vocab, of(&[Kind::User])),
            characters: CharacterMap::load(meta)?,
            unknown_score: f64::from(worst - UNKNOWN_PENALTY),
            space_prefix: meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(false),
            merge_spaces: meta.bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
            by_words: splits_at_spaces(vocab),
        })
    }

    pub(super) fn encode(&self, text: &str, out: &mut Sink<'_>) -> Result<(), Stopped> {
        let (vocab, unk) = (out.vocab, out.unk);
        let text = self.normalised(vocab, text);
        let mut rest = text.as_str();
        // The score of what came before is part of each sum, as if the text were one piece.
        let (mut score, mut after_unknown) = (0.0, false);
        while !rest.is_empty() {
            let end = if self.by_words { word_end(rest) } else { rest.len() };
            let (piece, after) = rest.split_at(end);
            out.check_patience()?;
            let best = self.search(vocab, piece, score);
            score = best.last().map_or(score, |last| last.score);
            push_way(&best, unk, &mut after_unknown, &mut out.tokens);
            out.check()?;
            rest = after;
        }
        Ok(())
    }

    /// For each byte of the text and its end, the best way to it from the beginning, which has `score`.
    fn search(&self, vocab: &Vocab, text: &str, score: f64) -> Vec<Best> {
        let unreached = Best { id: None, from: 0, score: f64::MIN };
        let mut best = vec![unreached; text.len() + 1];
        best[0].score = score;
        for (at, c) in text.char_indices() {
            let score = best[at].score;
            let mut covered = false;
            self.tokens.each(vocab, &text.as_bytes()[at..], |len, id| {
                covered |= len == c.len_utf8();
                // User-defined tokens are free, all others cost their log probability.
                let own =
                    if vocab.kind(id) == Kind::User { 0.0 } else { f64::from(vocab.score(id)) };
                if score + own > best[at + len].score {
                    best[at + len] = Best { id: Some(id), from: at, score: score + own };
                }
            });
            let end = at + c.len_utf8();
            if !covered && score + self.unknown_score > best[end].score {
                best[end] = Best { id: None, from: at, score: score + self.unknown_score };
            }
        }
        best
    }

    /// The text with the model's character map applied and spaces as U+2581.
    fn normalised(&self, vocab: &Vocab, text: &str) -> String {
        const SPACE: &str = "\u{2581}";
        let mut out = String::with_capacity(text.len() * 2);
        let (mut prefixed, mut in_word) = (false, false);
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let mut user_defined = 0;
            self.user_defined.each(vocab, rest.as_bytes(), |len, _| user_defined = len);
            let (piece, used) = if user_defined > 0 {
                (&rest[..user_defined], user_defined)
            } else {
                self.characters
                    .replace(rest)
                    .unwrap_or((&rest[..first.len_utf8()], first.len_utf8()))
            };
            for c in piece.chars() {
                if c == ' ' || (self.merge_spaces && c.is_whitespace()) {
                    in_word = false;
                    if !self.merge_spaces {
                        out.push_str(SPACE);
                    }
                    continue;
                }
                // A mark that the text has already is not doubled.
                let is_marked = c == '\u{2581}';
                if !in_word && !is_marked && ((self.space_prefix && !prefixed) || self.merge_spaces)
                {
                    out.push_str(SPACE);
                    prefixed = true;
                }
                in_word = true;
                out.push(c);
            }
            rest = &rest[used..];
        }
        out
    }
}

/// Appends the tokens of the best way. A run of unknown characters is one unknown token;
/// `after_unknown` tells of what came before, and then of what comes after.
fn push_way(best: &[Best], unk: Option<u32>, after_unknown: &mut bool, out: &mut Vec<u32>) {
    let mut steps = Vec::new();
    let mut at = best.len() - 1;
    while at > 0 {
        steps.push(best[at].id);
        at = best[at].from;
    }
    for step in steps.into_iter().rev() {
        match step {
            Some(id) => out.push(id),
            None if *after_unknown => {}
            None => out.extend(unk),
        }
        *after_unknown = step.is_none();
    }
}

/// `tokenizer.ggml.precompiled_charsmap`: a double array of prefixes, and what to put in their place.
///
/// Layout: u32 size of the array in bytes, the array of u32, then strings that end in NUL. In a node,
/// bits 0–7 and 31 are the label, bit 8 says that a value hangs below, bits 10–31 are the offset to
/// the children, shifted by 8 if bit 9 is set.
#[derive(Default)]
struct CharacterMap {
    nodes: Vec<u32>,
    replacements: String,
}

impl CharacterMap {
    fn load(meta: &Metadata) -> Result<Self, TokenizerError> {
        let Some(bytes) = meta.i32s("tokenizer.ggml.precompiled_charsmap")? else {
            return Ok(Self::default());
        };
        let bytes: Vec<u8> = bytes.iter().map(|&b| b as u8).collect();
        let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
            return Err(TokenizerError::CharacterMap("it is shorter than its header"));
        };
        let size = u32::from_le_bytes(*size) as usize;
        let Some((nodes, replacements)) = rest.split_at_checked(size) else {
            return Err(TokenizerError::CharacterMap("its array is longer than the whole"));
        };
        let nodes = nodes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let replacements = String::from_utf8(replacements.to_vec())
            .map_err(|_| TokenizerError::CharacterMap("a replacement is not UTF-8"))?;
        Ok(Self { nodes: nodes.collect(), replacements })
    }

    /// What the longest known prefix of `text` becomes, and its length.
    fn replace(&self, text: &str) -> Option<(&str, usize)> {
        let node = |at: u32| self.nodes.get(at as usize).copied();
        let offset = |node: u32| (node >> 10) << ((node & (1 << 9)) >> 6);
        let mut at = offset(node(0)?);
        let mut found = None;
        for (i, byte) in text.bytes().enumerate() {
            at ^= u32::from(byte);
            let Some(current) =
                node(at).filter(|n| byte != 0 && n & 0x8000_00ff == u32::from(byte))
            else {
                break;
            };
            at ^= offset(current);
            if current & (1 << 8) != 0 {
                found = node(at).map(|value| (value & 0x7fff_ffff, i + 1));
            }
        }
        let (start, len) = found?;
        let replacement = self.replacements.get(start as usize..)?.split('\0').next()?;
        // A prefix that ends inside a character is no prefix of text.
        text.is_char_boundary(len).then_some((replacement, len))
    }
}
