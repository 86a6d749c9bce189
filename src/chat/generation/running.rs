//! One candidate under way: its job's events become output.

use std::time::{Duration, Instant};

use crate::chat::Ending;
use crate::engine::{
    Event, FinishReason as EngineReason, Job, Outcome, Request, Timings, TokenLogprobs, Usage,
};
use crate::error::Error;

use super::choice::{Choice, Delta, Progress, Stopped, TextLogprobs, TokenText};
use super::{FinishReason, Finished, Output};

/// One candidate.
pub(super) struct Running {
    /// Not submitted yet: it waits for the first of its group.
    pub(super) held: Option<Request>,
    /// `None` before it is submitted and once it is complete.
    pub(super) job: Option<Job>,
    pub(super) choice: Choice,
    /// The prompt, until it was echoed.
    pub(super) echo: Option<Echo>,
    pub(super) stops: Vec<String>,
    /// The request wants no tokens; the engine generates one nevertheless.
    pub(super) discard: bool,
    pub(super) usage: Usage,
    pub(super) watch: Watch,
    /// Once it is complete.
    pub(super) timings: Option<Timings>,
    pub(super) time_limit: Option<Duration>,
    /// There is a line break in its text.
    pub(super) has_line: bool,
    /// Of the prompt's tokens from the second on, if they are wanted beside the text.
    pub(super) prompt_logprobs: Option<Vec<TokenLogprobs>>,
    pub(super) first_prompt_token: u32,
}

/// Times of a job that is left before its end, when the engine's own are not known yet: what it spent
/// in the queue counts as prefill.
pub(super) struct Watch {
    pub(super) submitted: Instant,
    pub(super) first_token: Option<Instant>,
}

impl Watch {
    fn timings(&self) -> Timings {
        let first = self.first_token.unwrap_or(self.submitted);
        let ms =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        let ttft_ms = ms(self.submitted, first);
        Timings {
            queue_ms: 0.0,
            prefill_ms: ttft_ms,
            ttft_ms,
            decode_ms: ms(first, Instant::now()),
        }
    }
}

pub(super) struct Echo {
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
    /// Of all tokens but the first; `None` when not asked for.
    pub(super) logprobs: Option<Vec<TokenLogprobs>>,
}

impl Running {
    pub(super) fn take(&mut self, event: Option<Event>) -> Vec<Output> {
        let index = self.choice.index;
        match event {
            Some(Event::Prefill { processed, cached, total }) => {
                self.usage.cached_tokens = cached;
                vec![Output::Prefill { index, processed, cached, total }]
            }
            Some(Event::PromptLogprobs(logprobs)) => {
                if let Some(all) = &mut self.prompt_logprobs {
                    all.extend(logprobs.iter().cloned());
                }
                if let Some(Echo { logprobs: Some(all), .. }) = &mut self.echo {
                    all.extend(logprobs);
                }
                Vec::new()
            }
            Some(Event::Token { id, logprobs }) => self.token(id, logprobs.as_ref()),
            Some(Event::Finished(outcome)) => self.finished(&outcome),
            Some(Event::Failed(error)) => self.failed(error),
            None => self.failed(Error::internal("the engine ended the job without a word")),
        }
    }

    fn token(&mut self, id: u32, logprobs: Option<&TokenLogprobs>) -> Vec<Output> {
        let mut outputs: Vec<Output> = self.echo().into_iter().collect();
        self.watch.first_token.get_or_insert_with(Instant::now);
        if self.discard {
            return outputs;
        }
        self.usage.completion_tokens += 1;
        let Progress { delta, stopped } = self.choice.push(id, logprobs);
        self.has_line |= delta.as_ref().is_some_and(|delta| delta.text.contains('\n'));
        outputs.extend(delta.map(Output::Delta));
        if let Some(stopped) = stopped {
            outputs.push(self.stopped(stopped));
        } else if self.is_late() {
            outputs.extend(self.choice.finish(Ending::Cut).delta.map(Output::Delta));
            outputs.push(self.stopped(Stopped::Late));
        }
        outputs
    }

    /// Whether the time is up, which only counts once a line is complete.
    fn is_late(&self) -> bool {
        let began = self.watch.first_token.filter(|_| self.has_line);
        began.zip(self.time_limit).is_some_and(|(began, limit)| began.elapsed() >= limit)
    }

    /// Times of the choice so far.
    pub(super) fn timings(&self) -> Timings {
        self.timings.unwrap_or_else(|| self.watch.timings())
    }

    /// The choice ends; the engine does not know yet.
    fn stopped(&mut self, stopped: Stopped) -> Output {
        if let Some(job) = self.job.take() {
            // Dropping the job cancels it.
            self.usage.drafts = job.drafts();
        }
        let stop_string = match stopped {
            Stopped::String(stop) => self.stops.get(stop).cloned(),
            Stopped::Here | Stopped::Late => None,
        };
        let reason =
            if stopped == Stopped::Late { FinishReason::Length } else { self.stop_reason() };
        let timings = self.watch.timings();
        self.timings = Some(timings);
        Output::Finished(Finished {
            index: self.choice.index,
            reason,
            usage: self.usage,
            timings,
            stop_string,
        })
    }

    fn stop_reason(&self) -> FinishReason {
        if self.choice.has_whole_calls() { FinishReason::ToolCalls } else { FinishReason::Stop }
    }

    fn finished(&mut self, outcome: &Outcome) -> Vec<Output> {
        let mut outputs: Vec<Output> = self.echo().into_iter().collect();
        self.usage.cached_tokens = outcome.usage.cached_tokens;
        self.usage.drafts = outcome.usage.drafts;
        self.timings = Some(outcome.timings);
        let ending = match outcome.reason {
            EngineReason::Length => Ending::Cut,
            EngineReason::Stop | EngineReason::Cancelled => Ending::Whole,
        };
        let Progress { delta, stopped } = self.choice.finish(ending);
        outputs.extend(delta.map(Output::Delta));
        if let Some(stopped) = stopped {
            outputs.push(self.stopped(stopped));
            return outputs;
        }
        let reason = match outcome.reason {
            EngineReason::Stop if !self.discard => self.stop_reason(),
            EngineReason::Stop | EngineReason::Length => FinishReason::Length,
            EngineReason::Cancelled => {
                outputs.extend(self.failed(Error::unavailable("the request was cancelled", 1)));
                return outputs;
            }
        };
        self.job = None;
        outputs.push(Output::Finished(Finished {
            index: self.choice.index,
            reason,
            usage: self.usage,
            timings: outcome.timings,
            stop_string: None,
        }));
        outputs
    }

    /// Log-probabilities of the prompt's tokens, if they were wanted.
    pub(super) fn prompt_logprobs(&self) -> Option<Vec<TextLogprobs>> {
        let (rest, prompt) = (self.prompt_logprobs.as_ref()?, self.first_prompt_token);
        let tokenizer = &self.choice.text_model.tokenizer;
        let first = TextLogprobs::first(tokenizer, prompt);
        let rest = rest.iter().map(|logprobs| TextLogprobs::new(tokenizer, logprobs));
        Some(std::iter::once(first).chain(rest).collect())
    }

    pub(super) fn failed(&mut self, error: Error) -> Vec<Output> {
        self.job = None;
        vec![Output::Failed { index: self.choice.index, error }]
    }

    /// The prompt as the choice's first text, once.
    pub(super) fn echo(&mut self) -> Option<Output> {
        let Echo { text, tokens, logprobs } = self.echo.take()?;
        let tokenizer = &self.choice.text_model.tokenizer;
        let logprobs = logprobs.map_or_else(Vec::new, |rest| {
            let first = tokens.first().map(|id| TextLogprobs::first(tokenizer, *id));
            let rest = rest.iter().map(|logprobs| TextLogprobs::new(tokenizer, logprobs));
            let mut place = Place::new(&text);
            first.into_iter().chain(rest).map(|token| place.take(token)).collect()
        });
        let index = self.choice.index;
        Some(Output::Delta(Delta { index, text, tokens, logprobs, ..Delta::default() }))
    }
}

/// Follows the tokens of a prompt through its text.
struct Place<'t> {
    text: &'t str,
    /// Bytes of the text that tokens were found for.
    at: usize,
    num_chars: u32,
    counted: usize,
}

impl<'t> Place<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0, num_chars: 0, counted: 0 }
    }

    /// Tells a token where it begins. Not all of a token need stand in the text: some are added, and
    /// some begin with a space that is.
    fn take(&mut self, token: TextLogprobs) -> TextLogprobs {
        let start = self.text.floor_char_boundary(self.at);
        self.num_chars += self.text[self.counted..start].chars().count() as u32;
        self.counted = start;
        let TokenText { text, bytes, .. } = &token.token;
        let bytes = if bytes.is_empty() { text.as_bytes() } else { bytes };
        let rest = &self.text.as_bytes()[self.at..];
        let found = [bytes, bytes.strip_prefix(b" ").unwrap_or(bytes)];
        if let Some(found) = found.into_iter().find(|found| rest.starts_with(found)) {
            self.at += found.len();
        }
        token.at(self.num_chars)
    }
}
