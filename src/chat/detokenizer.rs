//! Token ids to text, one at a time.

use std::sync::Arc;

use super::Tokenizer;

/// Longest UTF-8 sequence.
const MAX_CHAR_LEN: usize = 4;

/// Incremental decoder: what it returns, put together, is what [`Tokenizer::decode`] makes of all ids
/// at once, and each return is complete UTF-8.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The beginning of a character whose other bytes have not come; fewer than four bytes.
    pending: Vec<u8>,
    /// The next byte, if a space, is the one that the tokenizer added.
    at_start: bool,
    /// Control tokens that are shown as their text, ascending.
    shown: Arc<[u32]>,
}

impl Detokenizer {
    /// A decoder of a text from its beginning: a space that the vocabulary adds in front of a text
    /// is taken away.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let at_start = tokenizer.space_prefix();
        let shown = Arc::default();
        Self { tokenizer, pending: Vec::with_capacity(MAX_CHAR_LEN), at_start, shown }
    }

    /// A decoder of what follows other text: spaces stay.
    pub fn continuing(tokenizer: Arc<Tokenizer>) -> Self {
        Self { at_start: false, ..Self::new(tokenizer) }
    }

    /// Shows these control tokens (ascending ids) as their text, for a parser of the output.
    pub fn showing(self, shown: Arc<[u32]>) -> Self {
        Self { shown, ..self }
    }

    /// Takes one token and returns the text that is complete now.
    pub fn push(&mut self, id: u32) -> String {
        // The tokenizer is shared, so this clone is a counter.
        let tokenizer = Arc::clone(&self.tokenizer);
        let mut bytes = tokenizer.bytes(id);
        if bytes.is_empty() && self.shown.binary_search(&id).is_ok() {
            bytes = tokenizer.token(id).unwrap_or_default().as_bytes();
        }
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.push_bytes(bytes)
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut keep = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && may_go_on(invalid) {
                keep = invalid.len();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.drain(..self.pending.len() - keep);
        text
    }

    /// The rest: U+FFFD if the last character was cut off.
    pub fn flush(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Whether more bytes could make `bytes` a character.
fn may_go_on(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => false,
        Err(error) => error.error_len().is_none(),
    }
}
