//! Constraints that hold in a part of an output: after the reasoning, or within tool calls.

use std::fmt;
use std::sync::Arc;

use super::grammar::CompiledGrammar;
use super::{ReasoningTags, Tokenizer};
use crate::engine::Constraint;

/// Text before which an output is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The constraint begins behind this text, wherever it stands.
    Marker(String),
    /// It holds from the first letter on if that is this one.
    Start(char),
}

/// How an answer of a reasoning model begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReasoningStart {
    /// The prompt opened the reasoning.
    pub(super) in_reasoning: bool,
    /// Calls may follow the reasoning.
    pub(super) calls: bool,
    /// The answer may end within it.
    pub(super) may_end: bool,
}

/// Lets an output be free until something comes that a constraint follows on.
pub(super) struct Gate {
    tokenizer: Arc<Tokenizer>,
    wait: Wait,
    inner: Box<dyn Constraint>,
    /// Opens the free part; `None` if it is open from the beginning or cannot be.
    opener: Option<u32>,
    state: State,
    /// The answer may end while it is free.
    may_end: bool,
    /// Makes the next constraint when one is complete.
    again: Option<CompiledGrammar>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has come.
    Start,
    /// Free; this is the end of what has come, in which a marker may have begun.
    Free {
        tail: String,
    },
    Constrained,
    /// Nothing may follow.
    Over,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Gate {
    /// `inner` holds for what follows the reasoning.
    pub(super) fn after_reasoning(
        tokenizer: &Arc<Tokenizer>,
        tags: ReasoningTags,
        start: ReasoningStart,
        inner: Box<dyn Constraint>,
    ) -> Self {
        let state = if start.in_reasoning || tags.opens_always() { free() } else { State::Start };
        Self {
            tokenizer: Arc::clone(tokenizer),
            wait: Wait::Marker(tags.ends_before(start.calls).to_owned()),
            inner,
            opener: tokenizer.special_id(tags.open),
            state,
            may_end: start.may_end,
            again: None,
        }
    }

    /// `grammar` holds for what follows each marker; without `parallel`, the first call is the end.
    pub(super) fn to_calls(
        tokenizer: Arc<Tokenizer>,
        wait: Wait,
        grammar: CompiledGrammar,
        parallel: bool,
    ) -> Self {
        let inner = grammar.constraint();
        // A call that starts an answer is all of it.
        let repeats = parallel && matches!(wait, Wait::Marker(_));
        let state = if matches!(wait, Wait::Marker(_)) { free() } else { State::Start };
        let again = repeats.then_some(grammar);
        Self { tokenizer, wait, inner, opener: None, state, may_end: true, again }
    }

    /// What a token adds to the text, control tokens as their names.
    fn text(&self, id: u32) -> String {
        let bytes = self.tokenizer.bytes(id);
        if bytes.is_empty() {
            return self.tokenizer.token(id).unwrap_or_default().to_owned();
        }
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Everything but what would end the answer too early.
    fn allow_all(&self, mask: &mut [u32]) {
        let size = self.tokenizer.vocab_size();
        let (whole, rest) = mask.split_at_mut((size / 32).min(mask.len()));
        whole.fill(u32::MAX);
        rest.fill(0);
        for id in whole.len() * 32..size {
            set(mask, id as u32, true);
        }
        if !self.may_end {
            self.tokenizer.eog().iter().for_each(|id| set(mask, *id, false));
        }
    }

    /// Bans tokens that hold the end of the marker and text behind it, which the constraint could not
    /// judge.
    fn ban_overlaps(&self, marker: &str, tail: &str, mask: &mut [u32]) {
        let len = begun_len(marker, tail);
        if len == 0 {
            return;
        }
        let missing = &marker.as_bytes()[len..];
        for id in 0..self.tokenizer.vocab_size() as u32 {
            let rest = self.tokenizer.bytes(id).strip_prefix(missing);
            if rest.is_some_and(|rest| !rest.trim_ascii().is_empty()) {
                set(mask, id, false);
            }
        }
    }

    /// Takes a token of the free part.
    fn listen(&mut self, tail: &str, token: u32) -> Result<(), String> {
        let Wait::Marker(marker) = &self.wait else { return Ok(()) };
        let mut text = tail.to_owned() + &self.text(token);
        if let Some(at) = text.find(marker.as_str()) {
            let rest = text.split_off(at + marker.len());
            self.state = State::Constrained;
            return self.feed(rest.trim_start());
        }
        let mut start = text.len().saturating_sub(marker.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        self.state = State::Free { tail: text.split_off(start) };
        Ok(())
    }

    /// Gives text to the constraint that came in one token with the marker.
    fn feed(&mut self, text: &str) -> Result<(), String> {
        for token in self.tokenizer.encode(text, super::Special::Plain) {
            self.pass(token)?;
        }
        Ok(())
    }

    fn pass(&mut self, token: u32) -> Result<(), String> {
        self.inner.accept(token)?;
        if !self.inner.is_finished() {
            return Ok(());
        }
        match &self.again {
            Some(grammar) => {
                self.inner = grammar.constraint();
                self.state = free();
            }
            None => self.state = State::Over,
        }
        Ok(())
    }

    /// Whether a token begins the constrained part that starts with `first`.
    fn begins(&self, token: u32, first: char) -> bool {
        self.text(token).trim_start().starts_with(first)
    }
}

impl Constraint for Gate {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        match (&self.state, &self.wait) {
            (State::Constrained | State::Over, _) => self.inner.mask(mask),
            (State::Free { tail }, Wait::Marker(marker)) => {
                self.allow_all(mask);
                if !tail.is_empty() {
                    self.ban_overlaps(marker, tail, mask);
                }
                Ok(())
            }
            (State::Free { .. }, Wait::Start(_)) => {
                self.allow_all(mask);
                Ok(())
            }
            (State::Start, Wait::Marker(_)) => {
                self.inner.mask(mask)?;
                if let Some(opener) = self.opener {
                    set(mask, opener, true);
                }
                Ok(())
            }
            (State::Start, Wait::Start(first)) => {
                let first = *first;
                self.inner.mask(mask)?;
                for id in 0..self.tokenizer.vocab_size() as u32 {
                    // Control tokens announce calls that this constraint would not see.
                    if !self.begins(id, first) && !self.tokenizer.is_control(id) {
                        set(mask, id, true);
                    }
                }
                self.tokenizer.eog().iter().for_each(|id| set(mask, *id, true));
                Ok(())
            }
        }
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        match (self.state.clone(), &self.wait) {
            (State::Free { tail }, _) => self.listen(&tail, token),
            (State::Start, Wait::Marker(_)) if self.opener == Some(token) => {
                self.state = free();
                Ok(())
            }
            (State::Start, Wait::Start(first)) if !self.begins(token, *first) => {
                if !self.text(token).trim().is_empty() {
                    self.state = free();
                }
                Ok(())
            }
            (State::Start | State::Constrained | State::Over, _) => {
                self.state = State::Constrained;
                self.pass(token)
            }
        }
    }

    fn is_free(&self) -> bool {
        match &self.state {
            // A token may hold the end of the marker and more.
            State::Free { tail } if self.may_end => match &self.wait {
                Wait::Marker(marker) => begun_len(marker, tail) == 0,
                Wait::Start(_) => true,
            },
            State::Constrained => self.inner.is_free(),
            _ => false,
        }
    }

    fn forced(&mut self) -> Vec<u32> {
        if self.state == State::Constrained { self.inner.forced() } else { Vec::new() }
    }

    fn is_finished(&self) -> bool {
        match self.state {
            State::Over => true,
            State::Constrained => self.inner.is_finished(),
            State::Start | State::Free { .. } => false,
        }
    }
}

/// Bytes of the marker that the end of the text may be the beginning of.
fn begun_len(marker: &str, tail: &str) -> usize {
    let lens = (1..marker.len()).rev().filter(|len| marker.is_char_boundary(*len));
    lens.into_iter().find(|len| tail.ends_with(&marker[..*len])).unwrap_or(0)
}

fn free() -> State {
    State::Free { tail: String::new() }
}

fn set(mask: &mut [u32], id: u32, allowed: bool) {
    if let Some(word) = mask.get_mut(id as usize / 32) {
        let bit = 1 << (id % 32);
        if allowed {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }
}
