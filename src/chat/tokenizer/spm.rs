//! SentencePiece BPE as Llama and Gemma have it: the adjacent pair whose joined text is the token
//! with the highest score merges first; what no token covers goes byte by byte.
//!
//! Pairs are looked up by their text and not in a merge list made from the scores, because tokens of
//! equal score must merge from the left, and because a pair may join characters that are no tokens
//! themselves; neither can be said with unique ranks between token ids.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::until::{Sink, Stopped};
use super::vocab::Vocab;

/// How a space is written.
const SPACE: &str = "\u{2581}";
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Symbol {
    prev: u32,
    next: u32,
    start: u32,
    len: u32,
}

#[derive(PartialEq, Eq)]
struct Candidate {
    score: Score,
    /// The leftmost of equal scores first.
    left: Reverse<u32>,
    right: u32,
    /// Bytes of the joined text, by which a candidate that the text outgrew is known.
    len: u32,
}

#[derive(PartialEq)]
struct Score(f32);

impl Eq for Score {}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.cmp(&other.score).then_with(|| self.left.cmp(&other.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How texts are cut before they are merged.
pub(super) struct Spm {
    by_words: bool,
}

impl Spm {
    pub(super) fn new(vocab: &Vocab) -> Self {
        Self { by_words: splits_at_spaces(vocab) }
    }

    /// Appends the tokens of `text`, in which spaces are U+2581 already.
    pub(super) fn encode(&self, text: &str, out: &mut Sink<'_>) -> Result<(), Stopped> {
        let mut rest = text;
        while !rest.is_empty() {
            let end = if self.by_words { word_end(rest) } else { rest.len() };
            let (piece, after) = rest.split_at(end);
            // A space of one byte is written with three.
            out.check_piece(piece.len() / SPACE.len())?;
            encode_piece(piece, out)?;
            out.check()?;
            rest = after;
        }
        Ok(())
    }
}

/// Whether no token holds the end of a word and the space behind it. Then no merge reaches over such
/// a place, and words can be taken one by one: the result is the same.
pub(super) fn splits_at_spaces(vocab: &Vocab) -> bool {
    let reaches_over = |text: &str| {
        text.match_indices(SPACE).any(|(at, _)| at > 0 && !text[..at].ends_with(SPACE))
    };
    !vocab
        .ids()
        .any(|id| !vocab.is_control(id) && str::from_utf8(vocab.text(id)).is_ok_and(reaches_over))
}

/// Where the first space is that follows something else.
pub(super) fn word_end(text: &str) -> usize {
    let start = text.find(|c| c != '\u{2581}').unwrap_or(text.len());
    text[start..].find(SPACE).map_or(text.len(), |at| start + at)
}

fn encode_piece(text: &str, out: &mut Sink<'_>) -> Result<(), Stopped> {
    let (vocab, unk) = (out.vocab, out.unk);
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (i, (start, c)) in text.char_indices().enumerate() {
        let i = i as u32;
        let (start, len) = (start as u32, c.len_utf8() as u32);
        symbols.push(Symbol { prev: i.wrapping_sub(1), next: i + 1, start, len });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    merge(text, &mut symbols, out)?;
    let mut at = 0;
    while let Some(symbol) = symbols.get(at as usize) {
        at = symbol.next;
        let piece = bytes(text, symbol.start, symbol.len);
        match vocab.plain_id(piece) {
            Some(id) => out.tokens.push(id),
            None => push_bytes(vocab, unk, piece, &mut out.tokens),
        }
    }
    Ok(())
}

fn bytes(text: &str, start: u32, len: u32) -> &[u8] {
    text.as_bytes().get(start as usize..(start + len) as usize).unwrap_or(&[])
}

fn merge(text: &str, symbols: &mut [Symbol], out: &Sink<'_>) -> Result<(), Stopped> {
    let vocab = out.vocab;
    let consider = |symbols: &[Symbol], left: u32| {
        let l = symbols.get(left as usize)?;
        let r = symbols.get(l.next as usize)?;
        let len = l.len + r.len;
        if len as usize > vocab.max_len() {
            return None;
        }
        let id = vocab.plain_id(bytes(text, l.start, len))?;
        let score = Score(vocab.score(id));
        Some(Candidate { score, left: Reverse(left), right: l.next, len })
    };
    let mut candidates: BinaryHeap<Candidate> =
        (0..symbols.len() as u32).filter_map(|left| consider(symbols, left)).collect();
    let mut num_taken = 0_u32;
    while let Some(Candidate { left: Reverse(left), right, len, .. }) = candidates.pop() {
        num_taken += 1;
        out.check_merges(num_taken)?;
        let (l, r) = (symbols[left as usize], symbols[right as usize]);
        if l.len == 0 || r.len == 0 || l.len + r.len != len {
            continue;
        }
        symbols[right as usize].len = 0;
        symbols[left as usize] = Symbol { len, next: r.next, ..l };
        if let Some(after) = symbols.get_mut(r.next as usize) {
            after.prev = left;
        }
        candidates.extend(consider(symbols, l.prev));
        candidates.extend(consider(symbols, left));
    }
    Ok(())
}

fn push_bytes(vocab: &Vocab, unk: Option<u32>, piece: &[u8], out: &mut Vec<u32>) {
    let before = out.len();
    for &byte in piece {
        match vocab.byte_id(byte).or_else(|| vocab.plain_id(&[byte])) {
            Some(id) => out.push(id),
            None => {
                // Without byte tokens one unknown token stands for the character.
                out.truncate(before);
                out.extend(unk);
                return;
            }
        }
    }
}
