//! One candidate under way: its job's events become beats.

use std::time::{Duration, Instant};

use crate::chat::{AnswerPart, Ending};
use crate::engine::{
    Event, FinishReason as EngineReason, Job, Outcome, Request, Timings, TokenLogprobs, Usage,
};
use crate::error::Error;

use super::beat::{Beat, BlockKind, End, FinishReason, Step};
use super::choice::{Choice, Progress, Stopped};
use super::logprobs::{TextLogprobs, TokenText};

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
    pub(super) fn take(&mut self, event: Option<Event>) -> Vec<Step> {
        match event {
            Some(Event::Prefill { processed, cached, total }) => {
                self.usage.cached_tokens = cached;
                vec![self.step(vec![Beat::Progress { processed, cached, total }])]
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
            Some(Event::Failed(error)) => vec![self.failed(error)],
            None => vec![self.failed(Error::internal("the engine ended the job without a word"))],
        }
    }

    fn step(&self, beats: Vec<Beat>) -> Step {
        Step { index: self.choice.index, beats }
    }

    fn told(&self, beats: Vec<Beat>) -> Option<Step> {
        (!beats.is_empty()).then(|| self.step(beats))
    }

    fn token(&mut self, id: u32, logprobs: Option<&TokenLogprobs>) -> Vec<Step> {
        let mut steps: Vec<Step> = self.echo().into_iter().collect();
        self.watch.first_token.get_or_insert_with(Instant::now);
        if self.discard {
            return steps;
        }
        self.usage.completion_tokens += 1;
        let Progress { beats, stopped } = self.choice.push(id, logprobs);
        self.has_line |= beats.iter().any(has_line);
        steps.extend(self.told(beats));
        if let Some(stopped) = stopped {
            steps.push(self.stopped(stopped));
        } else if self.is_late() {
            let beats = self.choice.finish(Ending::Cut).beats;
            steps.extend(self.told(beats));
            steps.push(self.stopped(Stopped::Late));
        }
        steps
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
    fn stopped(&mut self, stopped: Stopped) -> Step {
        let stop_string = match stopped {
            Stopped::String(stop) => self.stops.get(stop).cloned(),
            Stopped::Here | Stopped::Late => None,
        };
        let reason =
            if stopped == Stopped::Late { FinishReason::Length } else { self.stop_reason() };
        self.leave(reason, stop_string)
    }

    /// Somebody ends the choice; `None` if it has ended.
    pub(super) fn cancel(&mut self) -> Option<Step> {
        let is_live = self.held.take().is_some() || self.job.is_some();
        is_live.then(|| self.leave(FinishReason::Cancelled, None))
    }

    fn leave(&mut self, reason: FinishReason, stop_string: Option<String>) -> Step {
        if let Some(job) = self.job.take() {
            // Dropping the job cancels it.
            self.usage.drafts = job.drafts();
        }
        let timings = self.watch.timings();
        self.timings = Some(timings);
        self.end(reason, stop_string)
    }

    fn end(&mut self, reason: FinishReason, stop_string: Option<String>) -> Step {
        self.choice.teller.close(reason);
        let mut beats = self.choice.teller.take();
        let (usage, timings) = (self.usage, self.timings());
        beats.push(Beat::End(End { reason, usage, timings, stop_string }));
        self.step(beats)
    }

    fn stop_reason(&self) -> FinishReason {
        if self.choice.has_whole_calls() { FinishReason::ToolCalls } else { FinishReason::Stop }
    }

    fn finished(&mut self, outcome: &Outcome) -> Vec<Step> {
        let mut steps: Vec<Step> = self.echo().into_iter().collect();
        self.usage.cached_tokens = outcome.usage.cached_tokens;
        self.usage.parted_at = outcome.usage.parted_at;
        self.usage.drafts = outcome.usage.drafts;
        self.timings = Some(outcome.timings);
        let ending = match outcome.reason {
            EngineReason::Length => Ending::Cut,
            EngineReason::Stop | EngineReason::Cancelled => Ending::Whole,
        };
        let Progress { beats, stopped } = self.choice.finish(ending);
        steps.extend(self.told(beats));
        if let Some(stopped) = stopped {
            steps.push(self.stopped(stopped));
            return steps;
        }
        self.job = None;
        steps.push(match outcome.reason {
            EngineReason::Stop if !self.discard => self.end(self.stop_reason(), None),
            EngineReason::Stop | EngineReason::Length => self.end(FinishReason::Length, None),
            EngineReason::Cancelled => {
                self.failed(Error::unavailable("the request was cancelled", 1))
            }
        });
        steps
    }

    /// Log-probabilities of the prompt's tokens, if they were wanted.
    pub(super) fn prompt_logprobs(&self) -> Option<Vec<TextLogprobs>> {
        let (rest, prompt) = (self.prompt_logprobs.as_ref()?, self.first_prompt_token);
        let tokenizer = &self.choice.text_model.tokenizer;
        let first = TextLogprobs::first(tokenizer, prompt);
        let rest = rest.iter().map(|logprobs| TextLogprobs::new(tokenizer, logprobs));
        Some(std::iter::once(first).chain(rest).collect())
    }

    pub(super) fn failed(&mut self, error: Error) -> Step {
        self.job = None;
        self.step(vec![Beat::Failed(error)])
    }

    /// The prompt as the choice's first text, once.
    pub(super) fn echo(&mut self) -> Option<Step> {
        let Echo { text, tokens, logprobs } = self.echo.take()?;
        let tokenizer = &self.choice.text_model.tokenizer;
        let logprobs = logprobs.map_or_else(Vec::new, |rest| {
            let first = tokens.first().map(|id| TextLogprobs::first(tokenizer, *id));
            let rest = rest.iter().map(|logprobs| TextLogprobs::new(tokenizer, logprobs));
            let mut place = Place::new(&text);
            first.into_iter().chain(rest).map(|token| place.take(token)).collect()
        });
        self.choice.teller.bring(tokens, logprobs);
        self.choice.teller.part(AnswerPart::Text(text));
        let beats = self.choice.teller.take();
        self.told(beats)
    }
}

fn has_line(beat: &Beat) -> bool {
    matches!(beat, Beat::Piece(piece) if piece.kind == BlockKind::Text && piece.text.contains('\n'))
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
