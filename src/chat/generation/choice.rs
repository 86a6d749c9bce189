//! One choice on its way from tokens to text: detokenizer, stop strings, log-probabilities.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chat::{Detokenizer, StopMatcher, TextModel, Tokenizer};
use crate::engine::TokenLogprobs;

use super::request::GenerationRequest;

/// Log-probability of a token and of its likeliest alternatives, with their text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextLogprobs {
    pub token: TokenText,
    /// Natural logarithm; `None` for the first token of an echoed prompt, which nothing precedes.
    pub logprob: Option<f32>,
    /// Likeliest first.
    pub top: Vec<(TokenText, f32)>,
}

/// A token as it reads on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText {
    pub id: u32,
    /// With U+FFFD where its bytes are not UTF-8 on their own; the vocabulary's text of a control
    /// token.
    pub text: String,
    /// Empty for control tokens.
    pub bytes: Vec<u8>,
}

impl TokenText {
    fn new(tokenizer: &Tokenizer, id: u32) -> Self {
        let bytes = tokenizer.bytes(id).to_vec();
        let text = if bytes.is_empty() {
            tokenizer.token(id).unwrap_or_default().to_owned()
        } else {
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self { id, text, bytes }
    }
}

impl TextLogprobs {
    pub(super) fn new(tokenizer: &Tokenizer, logprobs: &TokenLogprobs) -> Self {
        let top =
            logprobs.top.iter().map(|(id, logprob)| (TokenText::new(tokenizer, *id), *logprob));
        Self {
            token: TokenText::new(tokenizer, logprobs.id),
            logprob: Some(logprobs.logprob),
            top: top.collect(),
        }
    }

    /// The first token of a prompt.
    pub(super) fn first(tokenizer: &Tokenizer, id: u32) -> Self {
        Self { token: TokenText::new(tokenizer, id), logprob: None, top: Vec::new() }
    }
}

/// New text of a choice with the tokens it came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    pub index: u32,
    pub text: String,
    /// Tokens whose text begins in this delta or before and that were not in an earlier one.
    pub tokens: Vec<u32>,
    /// One for each of `tokens` if asked for, else empty.
    pub logprobs: Vec<TextLogprobs>,
}

impl Delta {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty()
    }
}

/// What follows from one token.
pub(super) struct Progress {
    /// `None`: the text is held back, as more may come to complete a character or a stop string.
    pub(super) delta: Option<Delta>,
    /// Index of the stop string that ends the choice here.
    pub(super) stopped: Option<usize>,
}

/// A token whose text has not been sent.
struct Pending {
    id: u32,
    /// Where its text begins, in bytes of this choice's text.
    start: usize,
    logprobs: Option<TextLogprobs>,
}

pub(super) struct Choice {
    pub(super) index: u32,
    pub(super) text_model: Arc<TextModel>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    stops: Vec<String>,
    include_stop: bool,
    min_tokens: u32,
    /// Tokens received.
    pub(super) num_tokens: u32,
    /// Sum of their log-probabilities, as far as known.
    pub(super) logprob_sum: f64,
    /// Bytes of text that the tokens amount to, and how many of them were sent.
    decoded: usize,
    sent: usize,
    pending: VecDeque<Pending>,
    show_logprobs: bool,
}

impl Choice {
    pub(super) fn new(
        index: u32,
        request: &GenerationRequest,
        text_model: &Arc<TextModel>,
    ) -> Self {
        let tokenizer = Arc::clone(&text_model.tokenizer);
        let detokenizer = if request.continues_text() {
            Detokenizer::continuing(tokenizer)
        } else {
            Detokenizer::new(tokenizer)
        };
        Self {
            index,
            detokenizer,
            text_model: Arc::clone(text_model),
            matcher: StopMatcher::new(request.stop.clone()),
            stops: request.stop.clone(),
            include_stop: request.include_stop,
            min_tokens: request.min_tokens,
            num_tokens: 0,
            logprob_sum: 0.0,
            decoded: 0,
            sent: 0,
            pending: VecDeque::new(),
            show_logprobs: request.logprobs.is_some(),
        }
    }

    /// Takes a generated token.
    pub(super) fn push(&mut self, id: u32, logprobs: Option<&TokenLogprobs>) -> Progress {
        self.num_tokens += 1;
        self.logprob_sum += logprobs.map_or(0.0, |logprobs| f64::from(logprobs.logprob));
        let shown = logprobs.filter(|_| self.show_logprobs);
        self.pending.push_back(Pending {
            id,
            start: self.decoded,
            logprobs: shown.map(|shown| TextLogprobs::new(&self.text_model.tokenizer, shown)),
        });
        let text = self.detokenizer.push(id);
        self.decoded += text.len();
        if self.num_tokens <= self.min_tokens {
            return Progress { delta: self.send(text, false), stopped: None };
        }
        self.search(&text)
    }

    /// The tokens are at their end: sends what was held back.
    pub(super) fn finish(&mut self) -> Progress {
        let text = self.detokenizer.flush();
        self.decoded += text.len();
        let mut progress = self.search(&text);
        if progress.stopped.is_none() {
            let held = self.matcher.flush();
            let last = self.send(held, true);
            progress.delta = join(progress.delta, last);
        }
        progress
    }

    fn search(&mut self, text: &str) -> Progress {
        let step = self.matcher.push(text);
        let mut safe = step.text;
        if let Some(stop) = step.matched.and_then(|matched| self.stops.get(matched))
            && self.include_stop
        {
            safe.push_str(stop);
        }
        let delta = self.send(safe, false);
        if step.matched.is_some() {
            // Their text is part of the stop string or behind it.
            self.pending.clear();
        }
        Progress { delta, stopped: step.matched }
    }

    /// Sends text with the tokens that begin in it, or with `all` that are left.
    fn send(&mut self, text: String, all: bool) -> Option<Delta> {
        self.sent += text.len();
        let mut delta = Delta { index: self.index, text, ..Delta::default() };
        while let Some(token) = self.pending.pop_front_if(|token| all || token.start < self.sent) {
            delta.tokens.push(token.id);
            delta.logprobs.extend(token.logprobs);
        }
        (!delta.is_empty()).then_some(delta)
    }
}

fn join(first: Option<Delta>, second: Option<Delta>) -> Option<Delta> {
    match (first, second) {
        (Some(mut first), Some(second)) => {
            first.text.push_str(&second.text);
            first.tokens.extend(second.tokens);
            first.logprobs.extend(second.logprobs);
            Some(first)
        }
        (first, second) => first.or(second),
    }
}
