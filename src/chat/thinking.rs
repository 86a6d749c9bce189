//! A bound on reasoning: when so many of its tokens have come, the model is made to close it.

use std::fmt;
use std::sync::Arc;

use super::{ReasoningTags, Special, Tokenizer};
use crate::engine::Constraint;

/// Lets reasoning have so many tokens, then writes what closes it; another constraint may hold beside.
pub(super) struct ThinkingBudget {
    tokenizer: Arc<Tokenizer>,
    tags: ReasoningTags,
    /// What closes reasoning.
    close: Vec<u32>,
    /// Tokens that reasoning may still have.
    left: u32,
    state: State,
    inner: Option<Box<dyn Constraint>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// No reasoning has begun; the end of what has come, in which its mark may have.
    Before {
        tail: String,
    },
    /// Reasoning; the end of it, in which its mark may have begun.
    Within {
        tail: String,
    },
    /// So many tokens of what closes it are written.
    Closing {
        written: usize,
    },
    After,
}

impl fmt::Debug for ThinkingBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("ThinkingBudget");
        f.field("state", &self.state).field("left", &self.left).finish_non_exhaustive()
    }
}

impl ThinkingBudget {
    /// At most `budget` tokens of reasoning, which the prompt opened if `in_reasoning`.
    pub(super) fn new(
        tokenizer: &Arc<Tokenizer>,
        (tags, in_reasoning): (ReasoningTags, bool),
        budget: u32,
        inner: Option<Box<dyn Constraint>>,
    ) -> Self {
        let tail = String::new();
        let state = match in_reasoning || tags.opens_always() {
            true => State::Within { tail },
            false => State::Before { tail },
        };
        let close = tokenizer.encode(tags.close, Special::Parse);
        let mut budget =
            Self { tokenizer: Arc::clone(tokenizer), tags, close, left: budget, state, inner };
        budget.close_if_spent();
        budget
    }

    fn close_if_spent(&mut self) {
        if self.left == 0 && matches!(self.state, State::Within { .. }) {
            self.state = State::Closing { written: 0 };
        }
    }

    /// The token that must come next.
    fn forced_token(&self) -> Option<u32> {
        match self.state {
            State::Closing { written } => self.close.get(written).copied(),
            _ => None,
        }
    }

    /// What a token adds to the text, control tokens as their names.
    fn text(&self, id: u32) -> String {
        let bytes = self.tokenizer.bytes(id);
        if bytes.is_empty() {
            return self.tokenizer.token(id).unwrap_or_default().to_owned();
        }
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The end of a text that is long enough for a mark to have begun in it.
    fn end_of(text: &str, mark: &str) -> String {
        let mut start = text.len().saturating_sub(mark.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        text[start..].to_owned()
    }

    fn follow(&mut self, token: u32) {
        match self.state.clone() {
            State::Before { tail } => {
                let text = tail + &self.text(token);
                let mark = self.tags.open.trim_end();
                if text.contains(mark) {
                    self.state = State::Within { tail: String::new() };
                    self.close_if_spent();
                } else if text.trim_start().len() > mark.len() {
                    // Reasoning comes first, or does not come.
                    self.state = State::After;
                } else {
                    self.state = State::Before { tail: text };
                }
            }
            State::Within { tail } => {
                let text = tail + &self.text(token);
                if text.contains(self.tags.close) {
                    self.state = State::After;
                    return;
                }
                self.left = self.left.saturating_sub(1);
                self.state = State::Within { tail: Self::end_of(&text, self.tags.close) };
                self.close_if_spent();
            }
            State::Closing { written } if written + 1 < self.close.len() => {
                self.state = State::Closing { written: written + 1 };
            }
            State::Closing { .. } | State::After => self.state = State::After,
        }
    }
}

impl Constraint for ThinkingBudget {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        if let Some(token) = self.forced_token() {
            mask.fill(0);
            let word = mask.get_mut(token as usize / 32).ok_or("a token that is none")?;
            *word = 1 << (token % 32);
            return Ok(());
        }
        match &mut self.inner {
            Some(inner) => inner.mask(mask),
            // Nothing asks for a mask then: see `is_free`.
            None => Err("every token may come".to_owned()),
        }
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        if self.forced_token().is_some_and(|forced| forced != token) {
            return Err("the reasoning must end here".to_owned());
        }
        self.follow(token);
        self.inner.as_mut().map_or(Ok(()), |inner| inner.accept(token))
    }

    fn is_finished(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_finished())
    }

    fn is_free(&self) -> bool {
        self.forced_token().is_none() && self.inner.as_ref().is_none_or(|inner| inner.is_free())
    }

    fn forced(&mut self) -> Vec<u32> {
        match self.state {
            State::Closing { written } => self.close[written..].to_vec(),
            _ => self.inner.as_mut().map(|inner| inner.forced()).unwrap_or_default(),
        }
    }
}
