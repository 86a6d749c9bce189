//! A sequence as the worker sees it: how its tokens are chosen, and whom they are told to.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::draft::{Chances, Drafter, Drafts, Speculation};
use super::guide::MaskHelpers;
use super::job::{JobWriter, Prefill};
use super::pooler::Pooler;
use super::request::{FinishReason, Outcome, Request, Timings, TokenLogprobs, Usage};
use super::sampler::{SampleError, Sampler, Scratch, prompt_logprobs};
use super::scheduler::{Admitted, Piece, Scheduler};
use super::stats::Meters;
use crate::error::{Error, Kind};
use crate::model::Logits;

/// State of one sequence that scheduling does not need; it survives preemption untouched.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) writer: JobWriter,
    sampler: Sampler,
    drafter: Drafter,
    drafts: Drafts,
    prompt_len: usize,
    max_tokens: usize,
    num_generated: usize,
    num_cached: usize,
    parted_at: Option<usize>,
    /// Alternatives wanted for the prompt's tokens.
    num_prompt_logprobs: Option<u32>,
    /// Of the prompt from its second token on, as far as computed.
    prompt_logprobs: Vec<TokenLogprobs>,
    /// The job is for an embedding.
    pooler: Option<Pooler>,
    started: Option<Instant>,
    first_token: Option<Instant>,
}

/// What one step has for one sequence.
pub(super) struct Step<'a> {
    pub(super) piece: &'a Piece,
    /// Of the piece's rows in `logits`.
    pub(super) first_row: usize,
    pub(super) logits: &'a mut Logits,
    pub(super) scheduler: &'a mut Scheduler,
    pub(super) scratch: &'a mut Scratch,
    pub(super) speculation: &'a mut Speculation,
    pub(super) meters: &'a Meters,
}

impl Active {
    pub(super) fn new(request: &Request, sampler: Sampler, writer: JobWriter) -> Self {
        Self {
            writer,
            sampler,
            drafter: Drafter::predicting(request.prediction.clone(), request.prompt.len()),
            drafts: Drafts::default(),
            prompt_len: request.prompt.len(),
            max_tokens: request.max_tokens as usize,
            num_generated: 0,
            num_cached: 0,
            parted_at: None,
            num_prompt_logprobs: request.prompt_logprobs,
            prompt_logprobs: Vec::new(),
            pooler: None,
            started: None,
            first_token: None,
        }
    }

    /// Hidden states are pooled instead of tokens generated.
    pub(super) fn pooling(mut self, pooler: Option<Pooler>) -> Self {
        self.pooler = pooler;
        self
    }

    /// Takes the hidden states of a step; at the last the job ends.
    pub(super) fn pool(
        &mut self,
        rows: &[&[f32]],
        is_last: bool,
        meters: &Meters,
    ) -> Result<Option<FinishReason>, Error> {
        let Some(pooler) = &mut self.pooler else { return Ok(None) };
        rows.iter().for_each(|row| pooler.add(row));
        if !is_last {
            return Ok(None);
        }
        let embedding = pooler.embedding();
        if !embedding.iter().all(|value| value.is_finite()) {
            return Err(Error::internal("the model computed hidden states that are not numbers"));
        }
        self.writer.embedding(embedding);
        self.finish_prompt(meters);
        Ok(Some(FinishReason::Length))
    }

    /// It got its blocks for the first time.
    pub(super) fn start(&mut self, admitted: &Admitted) {
        self.started = Some(Instant::now());
        self.num_cached = admitted.num_cached;
        self.parted_at = admitted.parted_at;
    }

    /// KV of this many positions is written.
    pub(super) fn note_computed(&mut self, num_computed: usize) {
        if self.first_token.is_none() {
            self.writer.prefill(Prefill {
                processed: num_computed.min(self.prompt_len) as u32,
                cached: self.num_cached as u32,
                total: self.prompt_len as u32,
            });
        }
    }

    /// Guesses the tokens that may follow, few enough not to pass `max_tokens`.
    pub(super) fn guess(&mut self, tokens: &[u32], speculation: &Speculation) -> Chances {
        let left = self.max_tokens.saturating_sub(self.num_generated + 1);
        let sampler = &mut self.sampler;
        self.drafter.guess(tokens, || sampler.forced(), left, speculation)
    }

    /// The leading tokens of the guess, to be computed by the next step.
    pub(super) fn draft(&mut self, len: usize) -> Vec<u32> {
        self.drafter.draft(len)
    }

    /// Has the constraint's next mask computed beside the forward pass.
    pub(super) fn look_ahead(&mut self, helpers: &mut MaskHelpers, vocab_size: usize) {
        self.sampler.look_ahead(helpers, vocab_size);
    }

    /// Uses the logits of a step: the reason when the sequence ends with it.
    pub(super) fn advance(&mut self, step: &mut Step<'_>) -> Result<Option<FinishReason>, Error> {
        let positions =
            step.piece.start + step.piece.logits.start..step.piece.start + step.piece.num_rows;
        let num_prompt_rows = (self.prompt_len - 1).saturating_sub(positions.start);
        let num_prompt_rows = num_prompt_rows.min(positions.len());
        for row in 0..num_prompt_rows {
            self.report_prompt(step, row, positions.start + row)?;
        }
        if num_prompt_rows == positions.len() {
            return Ok(None);
        }
        self.finish_prompt(step.meters);
        if self.max_tokens == 0 {
            return Ok(Some(FinishReason::Length));
        }
        self.generate(step, num_prompt_rows)
    }

    pub(super) fn outcome(&self, reason: FinishReason) -> Outcome {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        Outcome {
            reason,
            usage: Usage {
                prompt_tokens: self.prompt_len as u32,
                cached_tokens: self.num_cached as u32,
                parted_at: self.parted_at.map(|at| at as u32),
                completion_tokens: self.num_generated as u32,
                drafts: self.drafts,
            },
            timings: Timings {
                queue_ms: ms(self.writer.submitted(), started),
                prefill_ms: ms(started, first),
                ttft_ms: ms(self.writer.submitted(), first),
                decode_ms: ms(first, now),
            },
        }
    }

    /// Samples the pending token's row and those behind it whose guess was right.
    fn generate(
        &mut self,
        step: &mut Step<'_>,
        first: usize,
    ) -> Result<Option<FinishReason>, Error> {
        let id = step.piece.sequence;
        let mut draft = step.scheduler.take_draft(id);
        draft.truncate(step.piece.num_draft);
        let mut chosen = Vec::with_capacity(draft.len() + 1);
        let end = loop {
            let row = step.logits.row_mut(step.first_row + first + chosen.len());
            let sampled = self.sampler.sample(row, step.scratch).map_err(error)?;
            if self.sampler.is_stop(sampled.token) {
                break Some(FinishReason::Stop);
            }
            step.scheduler.push(id, sampled.token);
            self.writer.token(sampled.token, sampled.logprobs);
            self.num_generated += 1;
            chosen.push(sampled.token);
            step.meters.generated_tokens.fetch_add(1, Relaxed);
            if self.sampler.is_complete() {
                break Some(FinishReason::Stop);
            }
            if self.num_generated >= self.max_tokens {
                break Some(FinishReason::Length);
            }
            if draft.get(chosen.len() - 1) != Some(&sampled.token) {
                break None;
            }
            step.scheduler.accept_draft(id);
        };
        let drafts = self.drafter.observe(&chosen, draft.len(), step.speculation);
        if drafts.computed > 0 {
            self.drafts += drafts;
            self.writer.drafts(self.drafts);
            step.meters.draft_tokens.fetch_add(u64::from(drafts.computed), Relaxed);
            step.meters.accepted_draft_tokens.fetch_add(u64::from(drafts.right), Relaxed);
        }
        Ok(end)
    }

    /// Takes the log-probability of the prompt's token after `position`.
    fn report_prompt(
        &mut self,
        step: &mut Step<'_>,
        row: usize,
        position: usize,
    ) -> Result<(), Error> {
        let (Some(count), true) =
            (self.num_prompt_logprobs, position == self.prompt_logprobs.len())
        else {
            return Ok(());
        };
        let sequence = step.scheduler.sequence(step.piece.sequence);
        let Some(token) = sequence.and_then(|s| s.token_at(position + 1)) else { return Ok(()) };
        let row = step.logits.row(step.first_row + row);
        let logprobs = prompt_logprobs(row, token, count, step.scratch).map_err(error)?;
        self.prompt_logprobs.push(logprobs);
        Ok(())
    }

    fn finish_prompt(&mut self, meters: &Meters) {
        if self.first_token.is_some() {
            return;
        }
        self.first_token = Some(Instant::now());
        meters.prompt_tokens.fetch_add(self.prompt_len as u64, Relaxed);
        if self.num_prompt_logprobs.is_some() {
            self.writer.prompt_logprobs(std::mem::take(&mut self.prompt_logprobs));
        }
    }
}

fn error(error: SampleError) -> Error {
    let kind = match error {
        // A grammar may prove too large for the limits of its parser only while it is followed.
        SampleError::AllBanned | SampleError::Constraint(_) => Kind::Invalid,
        SampleError::NotFinite => Kind::Internal,
    };
    Error::new(kind, error.to_string())
}
