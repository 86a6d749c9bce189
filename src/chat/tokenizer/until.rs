//! What ends a tokenizer's work before its text ends: a number of tokens, or a caller that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::vocab::Vocab;

/// Whether somebody still waits for a result; clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<AtomicBool>);

impl Patience {
    /// Nobody waits any more.
    pub fn end(&self) {
        self.0.store(true, Relaxed);
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// When to stop reading a text.
#[derive(Clone, Debug)]
pub struct Until {
    /// No more tokens than this are wanted.
    pub max_tokens: usize,
    pub patience: Patience,
}

impl Default for Until {
    /// The end of the text.
    fn default() -> Self {
        Self { max_tokens: usize::MAX, patience: Patience::default() }
    }
}

/// Why a text was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It has more tokens than are wanted: as many as this or more.
    TooLong { at_least: usize },
    /// Nobody waits for them.
    GivenUp,
}

/// Merges of a piece between two looks at whether somebody waits for it.
const MERGES_BETWEEN: u32 = 1 << 14;

/// Tokens of a vocabulary on their way out, as far as they are wanted.
pub(super) struct Sink<'a> {
    pub(super) vocab: &'a Vocab,
    /// Stands for what no token covers.
    pub(super) unk: Option<u32>,
    pub(super) tokens: Vec<u32>,
    until: &'a Until,
    /// Bytes of text that a token stands for at most; `None` where a token may stand for any number.
    longest: Option<usize>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(
        (vocab, unk): (&'a Vocab, Option<u32>),
        until: &'a Until,
        longest: Option<usize>,
    ) -> Self {
        Self { vocab, unk, tokens: Vec::new(), until, longest }
    }

    /// Whether to go on; asked after each piece of text.
    pub(super) fn check(&self) -> Result<(), Stopped> {
        if self.tokens.len() > self.until.max_tokens {
            return Err(Stopped::TooLong { at_least: self.tokens.len() });
        }
        self.check_patience()
    }

    pub(super) fn check_patience(&self) -> Result<(), Stopped> {
        if self.until.patience.has_ended() { Err(Stopped::GivenUp) } else { Ok(()) }
    }

    /// As [`Self::check_patience`], at some of the merges of a piece: after `num_merges`.
    pub(super) fn check_merges(&self, num_merges: u32) -> Result<(), Stopped> {
        if num_merges.is_multiple_of(MERGES_BETWEEN) { self.check_patience() } else { Ok(()) }
    }

    /// Whether to begin with a piece of this many bytes, which may take long before its first token is
    /// known: not if even the longest tokens are too many.
    pub(super) fn check_piece(&self, bytes: usize) -> Result<(), Stopped> {
        let least = self.longest.map_or(0, |longest| bytes.div_ceil(longest));
        let at_least = self.tokens.len() + least;
        if at_least > self.until.max_tokens {
            return Err(Stopped::TooLong { at_least });
        }
        self.check_patience()
    }
}
