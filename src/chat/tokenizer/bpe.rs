//! Byte-pair encoding: pieces of text, merged pair by pair in the order of the merge list.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::TokenizerError;
use super::hash::FastMap;
use super::pre::PreTokenizer;
use super::pre_table::PreType;
use super::until::{Sink, Stopped};
use super::vocab::Vocab;
use crate::model::gguf::Metadata;

/// Several times the longest published list.
const MAX_MERGES: usize = 1 << 22;
/// Pieces up to this length are remembered within one text; words repeat, long runs do not.
const REMEMBERED_LEN: usize = 32;
/// A symbol that is neither a token nor part of a merge.
const UNKNOWN: u32 = u32::MAX;
const NONE: u32 = u32::MAX;
/// How SPM-like vocabularies write a space.
const ESCAPED_SPACE: &str = "\u{2581}";

/// Merges over symbols. A symbol is a token id, or a number past the vocabulary for a text that only
/// occurs inside merges.
pub(super) struct Bpe {
    pre: PreTokenizer,
    kind: PreType,
    /// Two symbols to the rank of their merge and the symbol they become.
    merges: FastMap<u64, (u32, u32)>,
    /// Symbols of single bytes (byte alphabet) and tokens `<0x..>` (plain UTF-8).
    bytes: [u32; 256],
    /// Texts past the vocabulary.
    beyond: Vec<Box<[u8]>>,
    beyond_ids: FastMap<Box<[u8]>, u32>,
    /// Runs of line feeds that are one token stay one.
    whole_line_feeds: bool,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
    /// Bytes of the piece that it covers.
    start: u32,
    len: u32,
}

/// A possible merge: rank, left symbol, and the two ids it was seen with.
type Candidate = Reverse<(u32, u32, u32, u32)>;

#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate>,
    text: String,
}

impl Bpe {
    pub(super) fn load(
        meta: &Metadata,
        vocab: &Vocab,
        kind: PreType,
    ) -> Result<Self, TokenizerError> {
        let mut bpe = Self {
            pre: PreTokenizer::new(kind.passes)?,
            kind,
            merges: FastMap::default(),
            bytes: [UNKNOWN; 256],
            beyond: Vec::new(),
            beyond_ids: FastMap::default(),
            whole_line_feeds: kind.escape_spaces && kind.add_bos,
        };
        let merges = meta.strings("tokenizer.ggml.merges")?;
        let merges = match merges {
            Some(merges) => merges,
            None if kind.merges_optional => &[],
            None => return Err(TokenizerError::Missing("tokenizer.ggml.merges")),
        };
        if merges.len() > MAX_MERGES {
            let (found, limit) = (merges.len(), MAX_MERGES);
            return Err(TokenizerError::TooMany { what: "tokenizer.ggml.merges", found, limit });
        }
        bpe.merges.reserve(merges.len());
        for (index, merge) in merges.iter().enumerate() {
            bpe.add_merge(vocab, index, merge)?;
        }
        for byte in 0..=255u8 {
            let id = if kind.plain_utf8 {
                vocab.byte_id(byte)
            } else {
                let mut text = [0; 4];
                bpe.symbol(vocab, char_of(byte).encode_utf8(&mut text).as_bytes())
            };
            bpe.bytes[usize::from(byte)] = id.unwrap_or(UNKNOWN);
        }
        Ok(bpe)
    }

    fn add_merge(
        &mut self,
        vocab: &Vocab,
        index: usize,
        merge: &[u8],
    ) -> Result<(), TokenizerError> {
        // The first part may itself start with a space.
        let space = merge.iter().skip(1).position(|&b| b == b' ').map(|at| at + 1);
        let parts = space.map(|at| (&merge[..at], &merge[at + 1..]));
        let Some((left, right)) = parts.filter(|(_, right)| !right.is_empty()) else {
            let text = String::from_utf8_lossy(merge).into_owned();
            return Err(TokenizerError::Merge { index, text });
        };
        let joined = [left, right].concat();
        let (left, right) = (self.intern(vocab, left), self.intern(vocab, right));
        let merged = self.intern(vocab, &joined);
        self.merges.entry(pair(left, right)).or_insert((index as u32, merged));
        Ok(())
    }

    /// The symbol of a text, a new one if need be.
    fn intern(&mut self, vocab: &Vocab, text: &[u8]) -> u32 {
        if let Some(id) = self.symbol(vocab, text) {
            return id;
        }
        let id = (vocab.len() + self.beyond.len()) as u32;
        self.beyond.push(text.into());
        self.beyond_ids.insert(text.into(), id);
        id
    }

    fn symbol(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        vocab.plain_id(text).or_else(|| self.beyond_ids.get(text).copied())
    }

    /// Whether prompts start with BOS even if the file says otherwise: files of Gemma 4 do, wrongly.
    pub(super) fn forces_bos(&self) -> bool {
        self.whole_line_feeds
    }

    /// Tokens are plain text with U+2581 for spaces.
    pub(super) fn escapes_spaces(&self) -> bool {
        self.kind.escape_spaces
    }

    /// Whether every text of n bytes has at least one token, whatever stands in it.
    pub(super) fn covers_all(&self, vocab: &Vocab) -> bool {
        self.bytes.iter().all(|&id| (id as usize) < vocab.len())
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, text: &str, out: &mut Sink<'_>) -> Result<(), Stopped> {
        let escaped;
        let text = if self.kind.escape_spaces {
            escaped = text.replace(' ', ESCAPED_SPACE);
            escaped.as_str()
        } else {
            text
        };
        let mut scratch = Scratch::default();
        let mut seen: FastMap<&str, (u32, u32)> = FastMap::default();
        self.pre.split(text, &mut |piece| {
            if let Some(&(start, len)) = seen.get(piece) {
                let start = start as usize;
                out.tokens.extend_from_within(start..start + len as usize);
                return out.check();
            }
            let start = out.tokens.len();
            self.encode_piece(piece, &mut scratch, out)?;
            if piece.len() <= REMEMBERED_LEN {
                seen.insert(piece, (start as u32, (out.tokens.len() - start) as u32));
            }
            out.check()
        })
    }

    fn encode_piece(
        &self,
        piece: &str,
        scratch: &mut Scratch,
        out: &mut Sink<'_>,
    ) -> Result<(), Stopped> {
        let (vocab, unk) = (out.vocab, out.unk);
        if let Some(id) = self.whole(vocab, piece, &mut scratch.text) {
            out.tokens.push(id);
            return Ok(());
        }
        out.check_piece(piece.len())?;
        self.start(vocab, piece, scratch);
        self.merge(scratch, out)?;
        let out = &mut out.tokens;
        let mut at = if scratch.symbols.is_empty() { NONE } else { 0 };
        while let Some(symbol) = scratch.symbols.get(at as usize) {
            at = symbol.next;
            if (symbol.id as usize) < vocab.len() {
                out.push(symbol.id);
            } else {
                let (start, len) = (symbol.start as usize, symbol.len as usize);
                let bytes = piece.as_bytes().get(start..start + len).unwrap_or(&[]);
                self.push_bytes(vocab, unk, bytes, out);
            }
        }
        Ok(())
    }

    /// The token that the whole piece is, where merges do not decide.
    fn whole(&self, vocab: &Vocab, piece: &str, text: &mut String) -> Option<u32> {
        let line_feeds = self.whole_line_feeds && piece.bytes().all(|b| b == b'\n');
        if !(self.kind.ignore_merges || line_feeds) {
            return None;
        }
        if self.kind.plain_utf8 {
            return vocab.plain_id(piece.as_bytes());
        }
        text.clear();
        text.extend(piece.bytes().map(char_of));
        vocab.plain_id(text.as_bytes())
    }

    /// One symbol for each byte, or each character where tokens are plain UTF-8.
    fn start(&self, vocab: &Vocab, piece: &str, scratch: &mut Scratch) {
        let symbols = &mut scratch.symbols;
        symbols.clear();
        let mut push = |id, start: usize, len: usize| {
            let i = symbols.len() as u32;
            let (start, len) = (start as u32, len as u32);
            symbols.push(Symbol { id, prev: i.wrapping_sub(1), next: i + 1, start, len });
        };
        if self.kind.plain_utf8 {
            for (start, c) in piece.char_indices() {
                let bytes = &piece.as_bytes()[start..start + c.len_utf8()];
                push(self.symbol(vocab, bytes).unwrap_or(UNKNOWN), start, bytes.len());
            }
        } else {
            for (start, byte) in piece.bytes().enumerate() {
                push(self.bytes[usize::from(byte)], start, 1);
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
    }

    fn merge(&self, scratch: &mut Scratch, out: &Sink<'_>) -> Result<(), Stopped> {
        let Scratch { symbols, candidates, .. } = scratch;
        candidates.clear();
        let consider = |symbols: &[Symbol], candidates: &mut BinaryHeap<Candidate>, left: u32| {
            let Some(l) = symbols.get(left as usize) else { return };
            let Some(r) = symbols.get(l.next as usize) else { return };
            if let Some(&(rank, _)) = self.merges.get(&pair(l.id, r.id)) {
                candidates.push(Reverse((rank, left, l.id, r.id)));
            }
        };
        for left in 0..symbols.len() as u32 {
            consider(symbols, candidates, left);
        }
        let mut num_taken = 0_u32;
        while let Some(Reverse((_, left, left_id, right_id))) = candidates.pop() {
            num_taken += 1;
            out.check_merges(num_taken)?;
            let Some(&l) = symbols.get(left as usize).filter(|l| l.id == left_id && l.len > 0)
            else {
                continue;
            };
            let Some(&r) = symbols.get(l.next as usize).filter(|r| r.id == right_id) else {
                continue;
            };
            let Some(&(_, merged)) = self.merges.get(&pair(left_id, right_id)) else { continue };
            symbols[l.next as usize].len = 0;
            symbols[left as usize] = Symbol { id: merged, next: r.next, len: l.len + r.len, ..l };
            if let Some(after) = symbols.get_mut(r.next as usize) {
                after.prev = left;
            }
            consider(symbols, candidates, l.prev);
            consider(symbols, candidates, left);
        }
        Ok(())
    }

    /// What no token covers goes byte by byte.
    fn push_bytes(&self, vocab: &Vocab, unk: Option<u32>, bytes: &[u8], out: &mut Vec<u32>) {
        for &byte in bytes {
            let id = Some(self.bytes[usize::from(byte)]).filter(|&id| (id as usize) < vocab.len());
            out.extend(id.or(unk));
        }
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// The character that stands for a byte in byte-level vocabularies: itself if it prints, else one
/// from U+0100 on, in order.
pub(super) fn char_of(byte: u8) -> char {
    let code = match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character of a byte-level vocabulary stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let chars: std::collections::BTreeSet<char> = (0..=255).map(char_of).collect();
        assert_eq!(chars.len(), 256);
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(byte_of('▁'), None);
    }
}
