//! What ends a tokenizer's work before its text ends: a number of tokens, or a caller that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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

/// Tokens on their way out, as far as they are wanted.
pub(super) struct Sink<'a> {
    pub(super) tokens: Vec<u32>,
    until: &'a Until,
    /// Bytes of text that a token stands for at most; `None` where a token may stand for any number.
    longest: Option<usize>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(until: &'a Until, longest: Option<usize>) -> Self {
        Self { tokens: Vec::new(), until, longest }
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
