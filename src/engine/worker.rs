//! One engine without its thread: accepts submissions and runs steps, one call at a time.
//!
//! The engine thread drives it for real, simulations drive it directly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::EngineConfig;
use super::active::{Active, Step};
use super::batch;
use super::budget::StepBudget;
use super::draft::{Speculation, cost::RowCost};
use super::growth::Growth;
use super::guide::MaskHelpers;
use super::job::{Job, JobWriter, job};
use super::pooler::Pooler;
use super::request::{EmbedRequest, FinishReason, Outcome, Request};
use super::sampler::{self, Scratch};
use super::scheduler::{Plan, Scheduler, SchedulerConfig};
use super::sequence::{NewSequence, Sequence};
use super::stats::Meters;
use super::tenant::Owner;
use crate::error::Error;
use crate::model::{Logits, Runner, RunnerSpec};

/// Failed steps in a row after which the engine gives up.
const MAX_FAILED_STEPS: u32 = 3;

/// What a job is for.
#[derive(Debug)]
pub enum Work {
    Generate(Box<Request>),
    Embed(EmbedRequest),
}

impl From<Request> for Work {
    fn from(request: Request) -> Self {
        Self::Generate(Box::new(request))
    }
}

/// A request on its way to the engine.
#[derive(Debug)]
pub struct Submission {
    id: u64,
    work: Work,
    writer: JobWriter,
}

impl Submission {
    /// Makes the job of a validated request. `id` ascends in order of submission.
    ///
    /// # Errors
    /// `limit` jobs of the tenant, or twice as many of all, are in flight: their number.
    pub fn new(
        id: u64,
        owner: Owner,
        work: impl Into<Work>,
        meters: &Arc<Meters>,
        limit: usize,
    ) -> Result<(Job, Self), usize> {
        meters.enter(owner.tenant, limit)?;
        let (job, writer) = job(id, owner, Arc::clone(meters));
        Ok((job, Self { id, work: work.into(), writer }))
    }

    /// Ends the job with a failure.
    pub(super) fn refuse(self, error: Error) {
        self.writer.end(Err(error));
    }
}

/// Runner, scheduler and the sequences' state. It is not shared.
pub struct Worker {
    runner: Box<dyn Runner>,
    scheduler: Scheduler,
    budget: StepBudget,
    active: BTreeMap<u64, Active>,
    /// Ends that are told when the step's numbers are published.
    ended: Vec<(JobWriter, Result<Outcome, Error>)>,
    scratch: Scratch,
    mask_helpers: MaskHelpers,
    meters: Arc<Meters>,
    speculation: Speculation,
    max_running: usize,
    num_failed_steps: u32,
    growth: Growth,
}

impl Worker {
    #[must_use]
    pub fn new(runner: Box<dyn Runner>, config: &EngineConfig, meters: Arc<Meters>) -> Self {
        let spec = runner.spec();
        let max_running = spec.max_running(config.max_running);
        let scheduler = Scheduler::new(SchedulerConfig {
            num_blocks: spec.num_blocks,
            first_blocks: spec.first_blocks(),
            max_running,
            num_states: spec.num_states,
            prefix_cache: config.prefix_cache && !spec.sees_later,
            whole_sequences: spec.sees_later,
        });
        let max_rows = match spec.sees_later {
            true => spec.max_rows,
            false => config.max_batch_tokens.min(spec.max_rows),
        };
        let target = Duration::from_millis(u64::from(config.target_step_ms));
        let target = (config.target_step_ms > 0).then_some(target);
        let cost = if config.drafts_always { RowCost::free() } else { RowCost::default() };
        let worker = Self {
            budget: StepBudget::new(max_rows, target),
            runner,
            scheduler,
            active: BTreeMap::new(),
            ended: Vec::new(),
            scratch: Scratch::default(),
            mask_helpers: MaskHelpers::new(config.mask_threads),
            meters,
            speculation: Speculation::new(config.max_draft_tokens, cost),
            max_running,
            num_failed_steps: 0,
            growth: Growth::default(),
        };
        worker.publish();
        worker
    }

    #[must_use]
    pub fn spec(&self) -> &RunnerSpec {
        self.runner.spec()
    }

    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Whether there is nothing to step.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// Replaces the limits of the coming steps.
    pub fn set_budget(&mut self, budget: StepBudget) {
        self.budget = budget;
    }

    /// Takes a sequence in.
    pub fn accept(&mut self, submission: Submission) {
        let Submission { id, work, writer } = submission;
        let spec = self.runner.spec();
        let (mut request, pooler, second_from) = match work {
            Work::Generate(request) => (*request, None, None),
            Work::Embed(request) => {
                let second_from = request.second_from;
                let pooler = Pooler::new(spec.pooling, spec.hidden);
                (request.into_request(), Some(pooler), second_from)
            }
        };
        let embedded = pooler.is_some();
        let pools_all = pooler.as_ref().is_some_and(Pooler::wants_all_rows);
        let marks = marks(&request);
        let sampler = sampler::Sampler::new(&mut request);
        let owner = writer.owner();
        let active = Active::new(&request, sampler, writer).pooling(pooler);
        let submitted = self.scheduler.submit(NewSequence {
            id,
            owner,
            max_tokens: request.max_tokens as usize,
            salt: request.cache_salt,
            prompt_logits: request.prompt_logprobs.is_some() || pools_all,
            embedded,
            second_from,
            marks,
            prompt: request.prompt,
        });
        match submitted {
            Ok(()) => {
                self.active.insert(id, active);
            }
            Err((needed, pool)) => {
                let message =
                    format!("the request needs {needed} blocks of KV, the pool has {pool}");
                active.writer.end(Err(Error::invalid("max_tokens", message)));
            }
        }
    }

    /// Runs one step: drops what was cancelled, schedules, computes, samples, tells.
    ///
    /// # Errors
    /// Steps failed again and again: the engine cannot go on.
    pub fn step(&mut self) -> Result<(), String> {
        self.remove_cancelled();
        self.propose_drafts();
        self.grow();
        let plan = self.scheduler.schedule(&self.budget.budget());
        self.note_admitted(&plan);
        let result = if plan.pieces.is_empty() { Ok(()) } else { self.run(&plan) };
        self.publish();
        for (writer, end) in self.ended.drain(..) {
            writer.end(end);
        }
        result
    }

    /// Ends every job with a failure.
    pub fn fail_all(&mut self, error: &Error) {
        for (id, active) in std::mem::take(&mut self.active) {
            self.scheduler.remove(id);
            self.ended.push((active.writer, Err(error.clone())));
        }
        self.publish();
        for (writer, end) in self.ended.drain(..) {
            writer.end(end);
        }
    }

    /// Verifies the scheduler's invariants; without sequences, that no block is held either.
    ///
    /// # Errors
    /// A description of the first violated invariant.
    pub fn check(&self) -> Result<(), String> {
        self.scheduler.check()?;
        let sequences = self.scheduler.running().len() + self.scheduler.num_waiting();
        if sequences == self.active.len() {
            return Ok(());
        }
        Err(format!("{sequences} sequences for {} jobs", self.active.len()))
    }

    /// Violates an invariant.
    #[cfg(test)]
    pub(super) fn lose_a_block(&mut self) {
        self.scheduler.lose_a_block();
    }

    fn run(&mut self, plan: &Plan) -> Result<(), String> {
        let batch = batch::assemble(plan, &self.scheduler);
        let started = Instant::now();
        let computed = self.runner.forward(&batch).map_err(|error| error.to_string());
        self.meters.steps.fetch_add(1, Relaxed);
        self.meters.touch();
        let vocab_size = self.runner.spec().vocab_size;
        let wanted = batch.logit_rows.len() * vocab_size;
        let computed = computed.and_then(|logits| {
            let fits = logits.vocab_size == vocab_size && logits.data.len() == wanted;
            let got = logits.data.len();
            fits.then_some(logits).ok_or_else(|| format!("{got} logits for {wanted}"))
        });
        let hidden = if batch.hidden_rows.is_empty() { Vec::new() } else { self.runner.hidden() };
        let computed = computed.and_then(|logits| {
            let wanted = batch.hidden_rows.len() * self.runner.spec().hidden;
            let got = hidden.len();
            let fits = got == wanted;
            fits.then_some(logits).ok_or_else(|| format!("{got} hidden values for {wanted}"))
        });
        match computed {
            Ok(mut logits) => {
                self.num_failed_steps = 0;
                let elapsed = started.elapsed();
                self.budget.observe(batch.len(), elapsed);
                self.note_cost(plan, elapsed);
                self.scheduler.commit(plan);
                // Told before any sequence ends.
                let embedded = self.embedded(plan);
                self.pool(plan, &embedded, &hidden);
                self.sample(plan, &embedded, &mut logits);
                self.scheduler.settle(plan);
                self.runner.recycle(logits);
                Ok(())
            }
            Err(message) => self.fail_step(plan, message),
        }
    }

    /// Ends the jobs of a step that failed: the KV of their rows is in doubt.
    fn fail_step(&mut self, plan: &Plan, message: String) -> Result<(), String> {
        for piece in &plan.pieces {
            let error = Error::internal(format!("the model failed to compute a step: {message}"));
            self.end(piece.sequence, Err(error));
        }
        self.num_failed_steps += 1;
        if self.num_failed_steps < MAX_FAILED_STEPS { Ok(()) } else { Err(message) }
    }

    /// Sequences of a step whose hidden states were asked for, and not their logits.
    fn embedded(&self, plan: &Plan) -> Vec<u64> {
        let ids = plan.pieces.iter().map(|piece| piece.sequence);
        let is_embedded =
            |id: &u64| self.scheduler.sequence(*id).is_some_and(Sequence::is_embedded);
        ids.filter(is_embedded).collect()
    }

    /// Takes the hidden states of a step.
    fn pool(&mut self, plan: &Plan, embedded: &[u64], hidden: &[f32]) {
        let mut rows = hidden.chunks_exact(self.runner.spec().hidden.max(1));
        for piece in plan.pieces.iter().filter(|piece| embedded.contains(&piece.sequence)) {
            let id = piece.sequence;
            let rows: Vec<&[f32]> = rows.by_ref().take(piece.logits.len()).collect();
            let (Some(active), Some(sequence)) =
                (self.active.get_mut(&id), self.scheduler.sequence(id))
            else {
                continue;
            };
            active.note_computed(sequence.num_computed());
            let is_last = piece.start + piece.num_rows >= sequence.prompt_len();
            match active.pool(&rows, is_last, &self.meters) {
                Ok(None) => {}
                Ok(Some(reason)) => self.end(id, Ok(reason)),
                Err(error) => self.end(id, Err(error)),
            }
        }
    }

    fn sample(&mut self, plan: &Plan, embedded: &[u64], logits: &mut Logits) {
        let mut first_row = 0;
        for piece in plan.pieces.iter().filter(|piece| !embedded.contains(&piece.sequence)) {
            let rows = first_row..first_row + piece.logits.len();
            first_row = rows.end;
            let Some(active) = self.active.get_mut(&piece.sequence) else { continue };
            if let Some(sequence) = self.scheduler.sequence(piece.sequence) {
                active.note_computed(sequence.num_computed());
            }
            let mut step = Step {
                piece,
                first_row: rows.start,
                logits,
                scheduler: &mut self.scheduler,
                scratch: &mut self.scratch,
                speculation: &mut self.speculation,
                meters: &self.meters,
            };
            match active.advance(&mut step) {
                Ok(None) => {}
                Ok(Some(reason)) => self.end(piece.sequence, Ok(reason)),
                Err(error) => self.end(piece.sequence, Err(error)),
            }
        }
    }

    fn remove_cancelled(&mut self) {
        let cancelled = self.active.iter().filter(|(_, active)| active.writer.is_cancelled());
        for id in cancelled.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.end(id, Ok(FinishReason::Cancelled));
        }
    }

    fn note_admitted(&mut self, plan: &Plan) {
        for admitted in &plan.admitted {
            if let Some(active) = self.active.get_mut(&admitted.sequence)
                && admitted.is_first
            {
                active.start(admitted);
            }
        }
    }

    /// Makes the pool larger where the step would otherwise evict or preempt.
    fn grow(&mut self) {
        let (ready, wanted) = (self.scheduler.pool().num_ready(), self.scheduler.blocks_wanted());
        if wanted > ready {
            let (runner, asked) = (self.runner.as_mut(), &self.meters.room);
            self.scheduler.grow_to(self.growth.grow(runner, asked, [ready, wanted]));
        }
    }

    /// Gives sequences that decode the tokens that may follow, as far as computing them pays, and has
    /// the masks of constraints computed while the model computes.
    fn propose_drafts(&mut self) {
        if self.speculation.max_draft() > 0 {
            self.speculate();
        }
        let vocab_size = self.runner.spec().vocab_size;
        for active in self.active.values_mut() {
            active.look_ahead(&mut self.mask_helpers, vocab_size);
        }
    }

    fn speculate(&mut self) {
        let running = self.scheduler.running();
        let (mut ids, mut guesses) = (Vec::new(), Vec::new());
        for sequence in running.iter().filter(|sequence| sequence.num_pending() == 1) {
            if let Some(active) = self.active.get_mut(&sequence.id()) {
                ids.push(sequence.id());
                guesses.push(active.guess(sequence.tokens(), &self.speculation));
            }
        }
        let may_admit = self.scheduler.num_waiting() > 0 && running.len() < self.max_running;
        let beside_prompt = may_admit || ids.len() < running.len();
        let lengths = self.speculation.choose(&guesses, ids.len(), beside_prompt);
        for (id, length) in ids.into_iter().zip(lengths).filter(|(_, length)| *length > 0) {
            if let Some(active) = self.active.get_mut(&id) {
                self.scheduler.set_draft(id, active.draft(length));
            }
        }
    }

    /// Learns what rows cost from a step without prompts.
    fn note_cost(&mut self, plan: &Plan, elapsed: Duration) {
        if plan.num_decode == plan.pieces.len() {
            self.speculation.cost.observe(plan.num_rows, plan.num_decode, elapsed);
        } else {
            self.speculation.cost.interrupt();
        }
    }

    /// Gives the sequence's blocks back and keeps its end to be told after the step.
    fn end(&mut self, id: u64, end: Result<FinishReason, Error>) {
        self.scheduler.remove(id);
        if let Some(active) = self.active.remove(&id) {
            let end = end.map(|reason| active.outcome(reason));
            self.ended.push((active.writer, end));
        }
    }

    fn publish(&self) {
        let (pool, counts) = (self.scheduler.pool(), self.scheduler.counts());
        let meters = &self.meters;
        meters.running.store(self.scheduler.running().len() as u64, Relaxed);
        meters.blocks_total.store(pool.num_blocks() as u64, Relaxed);
        let unready = pool.num_blocks() - pool.num_ready();
        meters.blocks_free.store((pool.num_free() + unready) as u64, Relaxed);
        meters.blocks_used.store(pool.num_used() as u64, Relaxed);
        meters.blocks_cached.store(pool.num_cached() as u64, Relaxed);
        meters.prefix_queried.store(counts.prefix_queried, Relaxed);
        meters.prefix_hit.store(counts.prefix_hit, Relaxed);
        meters.preemptions.store(counts.preemptions, Relaxed);
    }
}

/// Where other prompts may part from this one: after its first message, which is what an application says
/// every time; after its last, behind which templates may write something else next time; and after the
/// one before, as the last is what people put in other words.
fn marks(request: &Request) -> Vec<u32> {
    let ends = request.prompt.iter().zip(1..);
    let ends = ends.filter(|(token, _)| request.stop_tokens.contains(token)).map(|(_, end)| end);
    let all: Vec<u32> = ends.collect();
    let last = all.len().saturating_sub(2).max(1).min(all.len());
    [&all[..all.len().min(1)], &all[last..]].concat()
}
