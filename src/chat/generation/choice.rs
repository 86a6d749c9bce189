//! One choice on its way from tokens to text: detokenizer, reasoning, stop strings, tool calls,
//! log-probabilities.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chat::{Detokenizer, Ending, StopMatcher, TextModel};
use crate::engine::TokenLogprobs;

use super::beat::{Beat, Teller};
use super::logprobs::TextLogprobs;
use super::reader::{Reader, Split};
use super::request::{GenerationRequest, Prompt, PromptInput};

/// What follows from one token.
pub(super) struct Progress {
    /// None if the text is held back, as more may come to complete a character or a stop string.
    pub(super) beats: Vec<Beat>,
    /// Why the choice ends here.
    pub(super) stopped: Option<Stopped>,
}

/// What ends a choice before the engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Index of the stop string.
    String(usize),
    /// The only call that is wanted is there.
    Here,
    /// Its time is up.
    Late,
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
    reader: Reader,
    pub(super) teller: Teller,
    matcher: StopMatcher,
    stops: Vec<String>,
    include_stop: bool,
    min_tokens: u32,
    /// Tokens received, and those of them that are reasoning.
    pub(super) num_tokens: u32,
    pub(super) num_reasoning_tokens: u32,
    /// Sum of their log-probabilities, as far as known.
    pub(super) logprob_sum: f64,
    /// Bytes of text that the tokens amount to, and how many of them were sent.
    decoded: usize,
    sent: usize,
    /// Characters of text so far, those of an echoed prompt included.
    num_chars: u32,
    /// Of `decoded`, bytes that are no content: reasoning and marks around it.
    diverted: usize,
    pending: VecDeque<Pending>,
    show_logprobs: bool,
}

impl Choice {
    pub(super) fn new(
        index: u32,
        request: &GenerationRequest,
        prompt: &Prompt,
        text_model: &Arc<TextModel>,
    ) -> Self {
        let tokenizer = Arc::clone(&text_model.tokenizer);
        let detokenizer = if request.continues_text() {
            Detokenizer::continuing(tokenizer)
        } else {
            Detokenizer::new(tokenizer)
        };
        let detokenizer = match &request.prompt {
            PromptInput::Chat(_) if request.tools().is_some() => {
                detokenizer.showing(text_model.shown_tokens())
            }
            PromptInput::Chat(_) | PromptInput::Following { .. } => {
                detokenizer.showing(text_model.shown_reasoning_tokens())
            }
            PromptInput::Text(_) | PromptInput::Tokens(_) | PromptInput::Infill(_) => detokenizer,
        };
        let mut detokenizer = detokenizer;
        if request.echo {
            // The prompt may end within a character.
            prompt.tokens.iter().for_each(|id| drop(detokenizer.push(*id)));
        }
        Self {
            index,
            detokenizer,
            reader: Reader::new(request, text_model, prompt.in_reasoning),
            teller: Teller::new(request.tools().is_some()),
            text_model: Arc::clone(text_model),
            matcher: StopMatcher::new(request.stop.clone()),
            stops: request.stop.clone(),
            include_stop: request.include_stop,
            min_tokens: request.min_tokens,
            num_tokens: 0,
            num_reasoning_tokens: 0,
            logprob_sum: 0.0,
            decoded: 0,
            sent: 0,
            num_chars: prompt.text.chars().count() as u32,
            diverted: 0,
            pending: VecDeque::new(),
            show_logprobs: request.logprobs.is_some(),
        }
    }

    /// Whether the answer is calls of tools, the last of which is not cut.
    pub(super) fn has_whole_calls(&self) -> bool {
        self.reader.has_calls() && !self.reader.is_amid_call()
    }

    /// Takes a generated token.
    pub(super) fn push(&mut self, id: u32, logprobs: Option<&TokenLogprobs>) -> Progress {
        self.num_tokens += 1;
        self.logprob_sum += logprobs.map_or(0.0, |logprobs| f64::from(logprobs.logprob));
        let shown = logprobs.filter(|_| self.show_logprobs);
        self.pending.push_back(Pending {
            id,
            start: self.decoded,
            logprobs: shown.map(|shown| {
                TextLogprobs::new(&self.text_model.tokenizer, shown).at(self.num_chars)
            }),
        });
        let text = self.detokenizer.push(id);
        self.decoded += text.len();
        self.num_chars += text.chars().count() as u32;
        let was_reasoning = self.reader.in_reasoning();
        let split = self.reader.split(text);
        self.num_reasoning_tokens += u32::from(was_reasoning || self.reader.in_reasoning());
        let stopped = self.search(split);
        Progress { beats: self.teller.take(), stopped }
    }

    /// The tokens are at their end: tells what was held back. A character that was cut is left out.
    pub(super) fn finish(&mut self, ending: Ending) -> Progress {
        let rest = self.reader.split_rest(ending != Ending::Whole);
        let stopped = self.search(rest);
        if stopped.is_none() {
            let content = self.matcher.flush();
            self.tell(Split { reasoning: String::new(), content }, Some(ending));
            self.teller.finish();
        }
        Progress { beats: self.teller.take(), stopped }
    }

    fn search(&mut self, split: Split) -> Option<Stopped> {
        let Split { reasoning, content } = split;
        // What neither was sent nor is held or content now went elsewhere.
        let content_len = self.sent + self.matcher.held_len() + content.len();
        self.diverted = self.decoded.saturating_sub(self.reader.held_len() + content_len);
        if self.num_tokens <= self.min_tokens {
            self.tell(Split { reasoning, content }, None);
            return self.over();
        }
        let step = self.matcher.push(&content);
        let mut content = step.text;
        if let Some(stop) = step.matched.and_then(|matched| self.stops.get(matched))
            && self.include_stop
        {
            content.push_str(stop);
        }
        self.tell(Split { reasoning, content }, None);
        let Some(stop) = step.matched else { return self.over() };
        let rest = self.reader.parse(String::new(), Some(Ending::Stopped));
        rest.into_iter().for_each(|part| self.teller.part(part));
        self.teller.finish();
        // Their text is part of the stop string or behind it.
        self.pending.clear();
        Some(Stopped::String(stop))
    }

    fn over(&self) -> Option<Stopped> {
        self.reader.is_over().then_some(Stopped::Here)
    }

    /// Tells text with the tokens that begin in it; the `last` with all that are left.
    fn tell(&mut self, split: Split, last: Option<Ending>) {
        self.sent += split.content.len();
        let end = self.sent + self.diverted;
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        while let Some(token) =
            self.pending.pop_front_if(|token| last.is_some() || token.start < end)
        {
            tokens.push(token.id);
            logprobs.extend(token.logprobs);
        }
        self.teller.bring(tokens, logprobs);
        self.teller.think(&split.reasoning);
        for part in self.reader.parse(split.content, last) {
            self.teller.part(part);
        }
    }
}
