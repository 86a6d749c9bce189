//! The one pipeline under all dialects: a request for text becomes jobs of the engine, and their
//! tokens become text again.
//!
//! ```text
//! GenerationRequest ─ checks, template, tokenizer ─▶ engine::Request × candidates ─▶ Job
//!             Step ◀─ stop strings ◀─ detokenizer ◀──────────────── Event ◀───────────┘
//! ```
//!
//! A list of prompts is a list of requests: [`generate_all`] numbers their choices through, those of
//! the first request first, so that a dialect sees one stream in any case.

mod beat;
mod choice;
mod collect;
mod cutting;
mod logprobs;
mod reader;
mod request;
mod rules;
mod running;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{FutureExt, select_all};

pub use crate::chat::Callable;
pub use beat::{Beat, Block, BlockKind, End, FinishReason, Piece, Step, Teller};
pub use collect::{Collected, CollectedBlock, CollectedChoice, Fold};
pub use logprobs::{TextLogprobs, TokenText};
pub use request::{
    GenerationRequest, MAX_BAD_WORD_BYTES, MAX_BAD_WORDS, MAX_BREAKER_BYTES, MAX_BREAKERS,
    MAX_CHOICES, MAX_LOGPROBS, MAX_STOP_BYTES, MAX_STOP_TOKENS, MAX_STOPS, PromptInput,
    ThinkingBound,
};
pub use rules::{OutputRules, Shape, ToolUse};

use crate::chat::TextModel;
use crate::engine::{Engine, Event, Job, Timings, Usage};
use crate::error::{Error, Result};

use choice::Choice;
use request::{Prompt, prepare};
use running::{Echo, Running, Watch};

/// Prompts of one call at most.
pub const MAX_PROMPTS: usize = 1024;
/// From this length on, the first choice reads the prompt alone and the others take it from the prefix
/// cache, instead of all reading it at once.
const MIN_SHARED_TOKENS: usize = 64;

/// What all choices together took so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Each prompt counts once, whatever `n` is.
    pub usage: Usage,
    /// Of the completion tokens, those that are reasoning.
    pub reasoning_tokens: u32,
    /// The longest of each kind among the choices, in milliseconds.
    pub timings: Timings,
    /// Where the first prompt left the cached one that has most in common with it; known at the end.
    pub parted: Option<Parted>,
}

/// The first token of a prompt that another one, which is cached, has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parted {
    /// Its position.
    pub at: u32,
    /// It and what follows, as text.
    pub text: String,
}

/// Jobs under way and what is to be told of them; dropping it cancels them.
pub struct Generation {
    text: Arc<TextModel>,
    engine: Engine,
    running: Vec<Running>,
    steps: VecDeque<Step>,
    groups: Vec<Group>,
    /// Whose turn it is to be looked at first, so that no choice starves the others.
    turn: usize,
    notes: Vec<String>,
}

/// The candidates of one request.
struct Group {
    first: usize,
    num_candidates: usize,
    n: usize,
    prompt: Vec<u32>,
}

/// Starts what one request asks for.
///
/// # Errors
/// 400 with the field's path for a request that the model cannot serve, with the code
/// `context_length_exceeded` when prompt and `max_tokens` exceed the context; 503 when the engine's
/// queue is full or the engine is gone.
pub async fn generate(
    text: &Arc<TextModel>,
    engine: &Engine,
    request: GenerationRequest,
) -> Result<Generation> {
    generate_all(text, engine, vec![request]).await
}

/// Starts what several requests ask for, as one generation. Either all are started or none; of a
/// request for several choices that share a long prompt, only the first counts as that: the others are
/// submitted when it has read the prompt, and fail one by one if the queue is full then.
///
/// # Errors
/// As [`generate`].
pub async fn generate_all(
    text: &Arc<TextModel>,
    engine: &Engine,
    mut requests: Vec<GenerationRequest>,
) -> Result<Generation> {
    requests.iter_mut().for_each(|request| request.settle(text));
    if requests.is_empty() || requests.len() > MAX_PROMPTS {
        let text = format!("prompts must be from 1 to {MAX_PROMPTS}, are {}", requests.len());
        return Err(Error::invalid("prompt", text));
    }
    for request in &requests {
        request.validate(text, engine.spec())?;
    }
    let (model, spec) = (Arc::clone(text), engine.spec().clone());
    let compiled = rules::compile_all(text, &requests).await?;
    // Templates and tokenizers take as long as the prompt is: not a matter for the async threads.
    let bytes = requests.iter().map(|request| request.prompt.num_bytes()).sum();
    let prepared = text.preparations().run(bytes, move |patience| {
        let prompts = requests.iter().map(|request| prepare(request, &model, &spec, patience));
        prompts.collect::<Result<Vec<Prompt>>>().map(|prompts| (requests, prompts))
    });
    let (requests, mut prompts) = prepared.await?;
    let share = text.share(requests.iter().map(|r| r.num_candidates() as usize).sum());
    prompts.iter_mut().for_each(|prompt| prompt.max_tokens = prompt.max_tokens.min(share));
    let left_out = prompts.iter().flat_map(|prompt| prompt.left_out.clone());
    let loosened = compiled.iter().flatten().flat_map(|rules| rules.notes.clone());
    let mut generation = Generation {
        text: Arc::clone(text),
        engine: engine.grouped(),
        running: Vec::new(),
        steps: VecDeque::new(),
        groups: Vec::new(),
        turn: 0,
        notes: loosened.chain(left_out).collect(),
    };
    for ((request, prompt), compiled) in requests.iter().zip(prompts).zip(compiled) {
        generation.start(text, request, Prompt { compiled, ..prompt })?;
    }
    Ok(generation)
}

impl Generation {
    /// What of the requests is not heeded, as paths of theirs.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn start(
        &mut self,
        text: &Arc<TextModel>,
        request: &GenerationRequest,
        prompt: Prompt,
    ) -> Result<()> {
        let prompt_tokens = prompt.tokens.len() as u32;
        let num_candidates = request.num_candidates() as usize;
        self.groups.push(Group {
            first: self.running.len(),
            num_candidates,
            n: request.n as usize,
            prompt: prompt.tokens.clone(),
        });
        let shares = prompt.tokens.len() >= MIN_SHARED_TOKENS;
        for (i, engine_request) in request.requests(&prompt, text).into_iter().enumerate() {
            let index = self.running.len() as u32;
            let (held, job) = if shares && i > 0 {
                (Some(engine_request), None)
            } else {
                (None, Some(self.engine.submit(engine_request)?))
            };
            let echo = request.echo.then(|| Echo {
                text: prompt.text.clone(),
                tokens: prompt.tokens.clone(),
                logprobs: request.logprobs.map(|_| Vec::new()),
            });
            let mut running = Running {
                held,
                job,
                choice: Choice::new(index, request, &prompt, text),
                echo,
                stops: request.stop.clone(),
                discard: prompt.max_tokens == 0,
                usage: Usage { prompt_tokens, ..Usage::default() },
                watch: Watch { submitted: Instant::now(), first_token: None },
                timings: None,
                time_limit: request.time_limit,
                has_line: false,
                prompt_logprobs: request.prompt_logprobs.map(|_| Vec::new()),
                first_prompt_token: prompt.tokens.first().copied().unwrap_or(0),
            };
            if running.echo.as_ref().is_some_and(|echo| echo.logprobs.is_none()) {
                self.steps.extend(running.echo());
            }
            self.running.push(running);
        }
        Ok(())
    }

    /// What happens next; `None` when all choices are complete. May be dropped and called again
    /// without loss.
    pub async fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            let (at, event) = self.next_event().await?;
            let running = self.running.get_mut(at)?;
            let steps = running.take(event);
            let has_read_prompt = running.job.is_none() || running.watch.first_token.is_some();
            self.steps.extend(steps);
            if has_read_prompt {
                self.release(at);
            }
        }
    }

    /// Ends all choices that have not ended; [`Self::next`] tells it.
    pub fn cancel(&mut self) {
        self.steps.extend(self.running.iter_mut().filter_map(Running::cancel));
    }

    /// What was taken so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for group in &self.groups {
            tally.usage.prompt_tokens += group.prompt.len() as u32;
            // The first; its siblings find in the cache what it computed.
            tally.usage.cached_tokens +=
                self.running.get(group.first).map_or(0, |first| first.usage.cached_tokens);
        }
        for running in &self.running {
            tally.usage.completion_tokens += running.usage.completion_tokens;
            tally.usage.drafts += running.usage.drafts;
            tally.reasoning_tokens += running.choice.num_reasoning_tokens;
            tally.timings = longest(&tally.timings, &running.timings());
        }
        tally.parted = self.parted();
        tally
    }

    fn parted(&self) -> Option<Parted> {
        /// Tokens that are shown.
        const SHOWN: usize = 8;
        let (group, first) = (self.groups.first()?, self.running.first()?);
        let at = first.usage.parted_at?;
        let tokens = group.prompt.get(at as usize..)?;
        let tokenizer = &self.text.tokenizer;
        let shown = tokens.iter().take(SHOWN).flat_map(|id| match tokenizer.bytes(*id) {
            // A control token has its name alone.
            [] => tokenizer.token(*id).unwrap_or_default().as_bytes(),
            bytes => bytes,
        });
        let bytes: Vec<u8> = shown.copied().collect();
        Some(Parted { at, text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Choices under way, those of all requests.
    #[must_use]
    pub fn num_choices(&self) -> usize {
        self.running.len()
    }

    /// Tokens of the prompt of a choice.
    #[must_use]
    pub fn prompt(&self, index: u32) -> &[u32] {
        let index = index as usize;
        let group = self.groups.iter().rev().find(|group| group.first <= index);
        group.map_or(&[], |group| &group.prompt)
    }

    /// The prompt of the first of a group is in the prefix cache: its siblings may read it there.
    fn release(&mut self, first: usize) {
        let Some(group) = self.groups.iter().find(|group| group.first == first) else { return };
        let siblings = group.first..group.first + group.num_candidates;
        for running in self.running.get_mut(siblings).unwrap_or_default() {
            let Some(request) = running.held.take() else { continue };
            running.watch.submitted = Instant::now();
            match self.engine.submit(request) {
                Ok(job) => running.job = Some(job),
                Err(error) => self.steps.push_back(running.failed(error)),
            }
        }
    }

    /// The next event of any job, with the candidate it is about.
    async fn next_event(&mut self) -> Option<(usize, Option<Event>)> {
        let turn = self.turn;
        let mut live: Vec<(usize, &mut Job)> = self
            .running
            .iter_mut()
            .enumerate()
            .filter_map(|(at, running)| Some((at, running.job.as_mut()?)))
            .collect();
        if let [(at, job)] = live.as_mut_slice() {
            return Some((*at, job.next_event().await));
        }
        if live.is_empty() {
            return None;
        }
        let first = live.iter().position(|(at, _)| *at >= turn).unwrap_or(0);
        live.rotate_left(first);
        let events =
            live.into_iter().map(|(at, job)| job.next_event().map(move |e| (at, e)).boxed());
        let ((at, event), _, _) = select_all(events).await;
        self.turn = at + 1;
        Some((at, event))
    }
}

fn longest(a: &Timings, b: &Timings) -> Timings {
    Timings {
        queue_ms: a.queue_ms.max(b.queue_ms),
        prefill_ms: a.prefill_ms.max(b.prefill_ms),
        ttft_ms: a.ttft_ms.max(b.ttft_ms),
        decode_ms: a.decode_ms.max(b.decode_ms),
    }
}
