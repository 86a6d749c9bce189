//! Decides what each step computes. Pure bookkeeping: it sees no tensor, no text and no clock.
//!
//! A step is built in this order:
//!
//! 1. one row for every running sequence that has one token pending (decoding);
//! 2. drafts, where rows and blocks are left over;
//! 3. chunks of prompts (or of what a preempted sequence must recompute), oldest first;
//! 4. admission of waiting sequences with blocks for all their tokens: first those whose tenant has
//!    fewest places, of these those whose request has fewest, of these the oldest.
//!
//! Before all this, where no place is free, whoever has most places gives one to a tenant, or to a
//! request of its own, that waits and has none. When a decoding sequence needs a block and there is none, the youngest running
//! sequence is preempted: it gives its blocks back, waits at its place by arrival and is recomputed
//! later. The oldest of all is thus never preempted for want of blocks, each tenant keeps or gets a place
//! for one of its requests, and these end: none starves.

mod plan;
mod states;

use std::collections::VecDeque;

pub use plan::{Admitted, Budget, Piece, Plan, SchedulerConfig, SchedulerCounts};

use super::block::BlockPool;
use super::prefix::{Insertion, PrefixCache};
use super::sequence::{NewSequence, Sequence};
use super::snapshot::StatePool;
use super::tenant::Places;
use crate::model::BLOCK;

/// Prompt rows of one sequence whose logits one step may ask for: logits are wide.
const MAX_PROMPT_LOGIT_ROWS: usize = 64;

/// Waiting sequences that one step looks at when those before are held back.
const MAX_ADMISSION_SCAN: usize = 64;

/// Sequences, their blocks, and whose turn it is.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    prefix: PrefixCache,
    /// Without pages where the model has no state.
    states: StatePool,
    /// By arrival.
    waiting: VecDeque<Sequence>,
    /// By arrival.
    running: Vec<Sequence>,
    counts: SchedulerCounts,
}

/// Leading blocks of a sequence in the prefix cache.
#[derive(Debug, Default)]
struct Cached {
    /// Those that can be reused.
    blocks: Vec<u32>,
    /// Those whose KV is there, with or without the state after them.
    num_known: usize,
    /// The last of them.
    last_known: Option<u32>,
}

impl Scheduler {
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            pool: BlockPool::growing(config.first_blocks, config.num_blocks),
            prefix: PrefixCache::new(config.num_blocks),
            states: StatePool::new(config.num_states),
            waiting: VecDeque::new(),
            running: Vec::new(),
            counts: SchedulerCounts::default(),
        }
    }

    /// Blocks that a sequence needs at its longest; its last token is never written.
    #[must_use]
    pub fn blocks_needed(prompt_len: usize, max_tokens: usize) -> usize {
        prompt_len.saturating_add(max_tokens.max(1)).saturating_sub(1).div_ceil(BLOCK).max(1)
    }

    /// Puts a sequence behind those that wait.
    ///
    /// # Errors
    /// An empty prompt, or a sequence that needs more blocks than there are: (needed, pool).
    pub fn submit(&mut self, new: NewSequence) -> Result<(), (usize, usize)> {
        let needed = Self::blocks_needed(new.prompt.len(), new.max_tokens);
        // The rest of the pool may never come.
        if needed > self.config.first_blocks || new.prompt.is_empty() {
            return Err((needed, self.config.first_blocks));
        }
        self.queue(Sequence::new(new));
        Ok(())
    }

    /// The sequence, waiting or running.
    #[must_use]
    pub fn sequence(&self, id: u64) -> Option<&Sequence> {
        let mut all = self.running.iter().chain(&self.waiting);
        all.find(|sequence| sequence.id() == id)
    }

    /// Running sequences by arrival.
    #[must_use]
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Violates an invariant.
    #[cfg(test)]
    pub(super) fn lose_a_block(&mut self) {
        let lost = self.pool.take();
        assert!(lost.is_some(), "there is a block to lose");
    }

    #[must_use]
    pub fn counts(&self) -> SchedulerCounts {
        self.counts
    }

    /// Sets the guessed continuation of a running sequence for the next step.
    pub fn set_draft(&mut self, id: u64, draft: Vec<u32>) {
        if let Some(sequence) = self.running_mut(id) {
            sequence.draft = draft;
        }
    }

    /// Takes the guess away, which holds for one step.
    pub fn take_draft(&mut self, id: u64) -> Vec<u32> {
        self.running_mut(id).map(|sequence| std::mem::take(&mut sequence.draft)).unwrap_or_default()
    }

    /// Blocks that would have to be there for the next step to take none from the cache nor from a
    /// sequence.
    #[must_use]
    pub fn blocks_wanted(&self) -> usize {
        let ready = self.pool.num_ready();
        if ready == self.pool.num_blocks() {
            return ready;
        }
        let missing = |sequence: &Sequence, held: usize| {
            let len = sequence.tokens().len() + sequence.draft.len();
            len.div_ceil(BLOCK).saturating_sub(held)
        };
        let running = self.running.iter().map(|sequence| missing(sequence, sequence.blocks.len()));
        let places = self.config.max_running.saturating_sub(self.running.len());
        let waiting = self.waiting.iter().take(places);
        let waiting =
            waiting.map(|sequence| missing(sequence, self.find_cached(sequence).blocks.len()));
        let mut sequences = self.running.len();
        // Each keeps a block to grow into.
        let needed = running.sum::<usize>() + waiting.inspect(|_| sequences += 1).sum::<usize>();
        let wanted = (needed + sequences).saturating_sub(self.pool.num_free());
        (ready + wanted).min(self.pool.num_blocks())
    }

    /// The pool has become larger.
    pub fn grow_to(&mut self, ready: usize) {
        self.pool.grow_to(ready);
    }

    /// Chooses the rows of the next step; it is empty only when there are no sequences.
    pub fn schedule(&mut self, budget: &Budget) -> Plan {
        let mut plan = Plan::default();
        self.make_place(&mut plan);
        let num_displaced = plan.preempted.len();
        self.schedule_decode(&mut plan, budget.max_rows);
        self.schedule_drafts(&mut plan, budget);
        let beside = plan.num_decode > 0;
        let chunk_rows =
            if beside { budget.chunk_rows_beside_decode } else { budget.chunk_rows }.max(1);
        let mut left = budget.max_rows.saturating_sub(plan.num_rows).min(chunk_rows);
        self.schedule_chunks(&mut plan, &mut left);
        if plan.preempted.len() == num_displaced {
            self.admit(&mut plan, &mut left);
        }
        self.place_states(&mut plan);
        plan
    }

    /// Takes note that the KV of a plan's known tokens is written, and caches full blocks.
    pub fn commit(&mut self, plan: &Plan) {
        for piece in &plan.pieces {
            let Some(at) = self.running_index(piece.sequence) else { continue };
            let sequence = &mut self.running[at];
            sequence.num_computed += piece.num_rows - piece.num_draft;
            sequence.num_repeated = 0;
            if !piece.logits.is_empty() {
                let done = sequence.num_computed.min(sequence.prompt_len());
                sequence.num_logits_done = sequence.num_logits_done.max(done);
            }
            self.commit_blocks(at);
            self.commit_state(at, piece);
        }
    }

    /// Appends a generated token to a running sequence.
    pub fn push(&mut self, id: u64, token: u32) {
        if let Some(sequence) = self.running_mut(id) {
            sequence.push(token);
        }
    }

    /// The token pushed last was guessed right: its KV is already written.
    pub fn accept_draft(&mut self, id: u64) {
        let Some(at) = self.running_index(id) else { return };
        self.running[at].num_computed += 1;
        self.commit_blocks(at);
    }

    /// Removes a sequence in whatever state and gives its blocks back.
    pub fn remove(&mut self, id: u64) -> bool {
        if let Some(at) = self.running_index(id) {
            let mut sequence = self.running.remove(at);
            self.release(&mut sequence);
            return true;
        }
        let waiting = self.waiting.iter().position(|sequence| sequence.id() == id);
        waiting.and_then(|at| self.waiting.remove(at)).is_some()
    }

    /// Verifies the invariants of pool, prefix cache and sequences.
    ///
    /// # Errors
    /// A description of the first violated invariant.
    pub fn check(&self) -> Result<(), String> {
        self.pool.check()?;
        self.prefix.check(&self.pool)?;
        self.check_states()?;
        if let Some(sequence) = self.waiting.iter().find(|sequence| !sequence.blocks.is_empty()) {
            return Err(format!("waiting sequence {} holds blocks", sequence.id()));
        }
        let mut used: Vec<u32> =
            self.running.iter().flat_map(|sequence| sequence.blocks.iter().copied()).collect();
        used.sort_unstable();
        used.dedup();
        if used.len() != self.pool.num_used() {
            let (held, used) = (used.len(), self.pool.num_used());
            return Err(format!("{used} blocks are in use, sequences hold {held}"));
        }
        for sequence in &self.running {
            let (id, num_blocks) = (sequence.id(), sequence.blocks.len());
            if sequence.num_pending() == 0 || sequence.num_computed > num_blocks * BLOCK {
                return Err(format!("sequence {id} has {num_blocks} blocks: {sequence:?}"));
            }
        }
        let waiting = self.waiting.iter().map(Sequence::id);
        let running = self.running.iter().map(Sequence::id);
        if !waiting.is_sorted() || !running.is_sorted() {
            return Err("sequences are out of order".to_owned());
        }
        Ok(())
    }

    /// Step 0: where all places are taken, the youngest sequence of whoever has most of them gives way to a
    /// tenant, or to another request of the same tenant, that waits and has none.
    fn make_place(&mut self, plan: &mut Plan) {
        if self.waiting.is_empty() || self.running.len() < self.config.max_running {
            return;
        }
        let places = Places::of(self.running.iter().map(Sequence::owner));
        let first = self.next_waiting(&places, &[]).map(|at| self.waiting[at].owner());
        let Some(gives) = first.and_then(|owner| places.whose(owner)) else { return };
        if let Some(at) = self.running.iter().rposition(|sequence| sequence.owner() == gives) {
            self.preempt(at, plan);
        }
    }

    /// Step 1: a row for everything that has one token pending, and those that must be computed once more,
    /// as far as there is a row for each that comes after.
    fn schedule_decode(&mut self, plan: &mut Plan, max_rows: usize) {
        let mut at = 0;
        while let Some(sequence) = self.running.get(at) {
            if !sequence.is_decoding() {
                at += 1;
                continue;
            }
            let Some(at_now) = self.grow(at, plan) else { continue };
            let after = self.running.len() - at_now - 1;
            let most = max_rows.saturating_sub(plan.num_rows + after).max(1);
            self.add_piece(plan, at_now, self.running[at_now].num_pending().min(most));
            at += 1;
        }
        plan.num_decode = plan.pieces.len();
    }

    /// Step 2: drafts behind decode rows, when they cost neither a preemption nor a cached block's
    /// place that a running sequence will need.
    fn schedule_drafts(&mut self, plan: &mut Plan, budget: &Budget) {
        for piece in &mut plan.pieces {
            let Some(at) = self.running.iter().position(|s| s.id() == piece.sequence) else {
                continue;
            };
            let reserve = self.running.len();
            let most = self.most_drafts(&self.running[at]);
            let sequence = &mut self.running[at];
            let left = budget.max_rows.saturating_sub(plan.num_rows);
            let wanted = sequence.draft.len().min(left).min(most);
            let needed = (sequence.tokens().len() + wanted).div_ceil(BLOCK);
            while sequence.blocks.len() < needed && self.pool.num_available() > reserve {
                let Some(taken) = self.pool.take() else { break };
                if taken.evicted {
                    self.prefix.forget(taken.block);
                    self.states.forget(taken.block);
                }
                sequence.blocks.push(taken.block);
            }
            let room = sequence.blocks.len() * BLOCK - sequence.tokens().len();
            let num_draft = wanted.min(room);
            piece.num_rows += num_draft;
            piece.num_draft = num_draft;
            piece.logits.end += num_draft;
            plan.num_rows += num_draft;
        }
    }

    /// Step 3: chunks of the running, which have their blocks.
    fn schedule_chunks(&self, plan: &mut Plan, left: &mut usize) {
        for at in 0..self.running.len() {
            if !self.running[at].is_decoding() {
                self.add_chunk(plan, at, left);
            }
        }
    }

    /// Step 4: new sequences, as long as rows, places and blocks are left.
    fn admit(&mut self, plan: &mut Plan, left: &mut usize) {
        if self.waiting.is_empty() || self.running.len() >= self.config.max_running {
            return;
        }
        let mut places = Places::of(self.running.iter().map(Sequence::owner));
        let mut passed = Vec::new();
        while *left > 0
            && self.running.len() < self.config.max_running
            && passed.len() < MAX_ADMISSION_SCAN
        {
            let Some(at) = self.next_waiting(&places, &passed) else { return };
            let sequence = &self.waiting[at];
            let cached = self.find_cached(sequence);
            if self.is_computed_by_another(sequence, &cached) {
                passed.push(sequence.id());
                continue;
            }
            // A later, smaller sequence must not overtake, or this one might starve.
            if !self.has_blocks_for(sequence, &cached.blocks) {
                return;
            }
            if self.config.whole_sequences && sequence.num_pending() > *left {
                if !plan.pieces.is_empty() {
                    return;
                }
                *left = sequence.num_pending();
            }
            let Some(sequence) = self.waiting.remove(at) else { return };
            places.add(sequence.owner());
            let (at_running, admitted) = self.start(sequence, cached);
            plan.admitted.push(admitted);
            self.add_chunk(plan, at_running, left);
        }
    }

    /// Whose turn it is: the first of those whose tenant, and of its requests those that, have fewest places.
    fn next_waiting(&self, places: &Places, passed: &[u64]) -> Option<usize> {
        let candidates = self.waiting.iter().enumerate();
        let candidates = candidates.filter(|(_, sequence)| !passed.contains(&sequence.id()));
        candidates.min_by_key(|(_, sequence)| places.count(sequence.owner())).map(|(at, _)| at)
    }

    /// Leading blocks of a sequence that the cache has, as far as they can be reused.
    fn find_cached(&self, sequence: &Sequence) -> Cached {
        let mut blocks: Vec<u32> = Vec::new();
        if !self.config.prefix_cache {
            return Cached::default();
        }
        for index in 0..sequence.num_cacheable() {
            let key = sequence.key(index, blocks.last().copied());
            let Some(block) = key.and_then(|key| self.prefix.find(&key)) else { break };
            blocks.push(block);
        }
        let (num_known, last_known) = (blocks.len(), blocks.last().copied());
        self.trim_to_state(&mut blocks);
        Cached { blocks, num_known, last_known }
    }

    /// See [`Admitted::parted_at`].
    fn parted_at(&self, sequence: &Sequence, cached: &Cached) -> Option<usize> {
        let start = cached.num_known * BLOCK;
        let rest = sequence.tokens().get(start..sequence.prompt_len())?;
        let common = self.prefix.parted(cached.last_known, sequence.salt(), rest)?;
        // A prompt that goes on where another ended is not another one.
        (common < rest.len().min(BLOCK)).then_some(start + common)
    }

    /// Whether a running sequence is about to compute what a waiting one could reuse. Waiting for
    /// it is cheaper than computing it twice, and it ends: running sequences make progress.
    fn is_computed_by_another(&self, sequence: &Sequence, cached: &Cached) -> bool {
        let index = cached.blocks.len();
        if !self.config.prefix_cache || index >= sequence.num_cacheable() {
            return false;
        }
        if self.has_states() {
            return self.is_state_computed_by_another(sequence, index);
        }
        let Some(hash) = sequence.hashes().get(index) else { return false };
        self.running.iter().any(|other| {
            !other.has_collided
                && other.num_committed <= index
                && other.hashes().get(index) == Some(hash)
        })
    }

    /// Whether all tokens of a waiting sequence fit beside the running ones, each of which keeps a
    /// block to grow into.
    fn has_blocks_for(&self, sequence: &Sequence, cached: &[u32]) -> bool {
        let needed = sequence.tokens().len().div_ceil(BLOCK) - cached.len();
        let revived = cached.iter().filter(|&&block| self.pool.is_unused(block)).count();
        let reserve = self.running.len();
        self.pool.num_available() >= needed + revived + reserve
    }

    /// Gives a sequence its blocks and a place among the running; [`Self::has_blocks_for`] holds.
    fn start(&mut self, mut sequence: Sequence, cached: Cached) -> (usize, Admitted) {
        for &block in &cached.blocks {
            self.pool.share(block);
        }
        let parted_at = self.parted_at(&sequence, &cached);
        self.start_state(&mut sequence, &cached);
        let num_cached = cached.blocks.len() * BLOCK;
        sequence.num_committed = cached.blocks.len();
        sequence.num_computed = num_cached;
        sequence.blocks = cached.blocks;
        while sequence.blocks.len() * BLOCK < sequence.tokens().len() {
            let block = self.take_block().expect("admission counted the blocks: this is a bug");
            sequence.blocks.push(block);
        }
        let is_first = !std::mem::replace(&mut sequence.was_admitted, true);
        if is_first && self.config.prefix_cache {
            self.counts.prefix_queried += sequence.prompt_len() as u64;
            self.counts.prefix_hit += num_cached as u64;
        }
        let admitted = Admitted { sequence: sequence.id(), num_cached, parted_at, is_first };
        let at = self.running.partition_point(|other| other.id() < sequence.id());
        self.running.insert(at, sequence);
        (at, admitted)
    }

    /// Makes sure that the running sequence `at` has a block for its next position, preempting the
    /// youngest where there is none. `None`: it was itself the youngest, and is gone.
    fn grow(&mut self, at: usize, plan: &mut Plan) -> Option<usize> {
        while self.running[at].blocks.len() * BLOCK < self.running[at].tokens().len() {
            if let Some(block) = self.take_block() {
                self.running[at].blocks.push(block);
                continue;
            }
            let youngest = self.running.len() - 1;
            self.preempt(youngest, plan);
            if youngest == at {
                return None;
            }
        }
        Some(at)
    }

    /// Lets a running sequence wait again, without blocks.
    fn preempt(&mut self, at: usize, plan: &mut Plan) {
        let mut victim = self.running.remove(at);
        self.release(&mut victim);
        plan.preempted.push(victim.id());
        self.counts.preemptions += 1;
        self.queue(victim);
    }

    fn take_block(&mut self) -> Option<u32> {
        let taken = self.pool.take()?;
        if taken.evicted {
            self.prefix.forget(taken.block);
            self.states.forget(taken.block);
        }
        Some(taken.block)
    }

    /// Gives all blocks back, the last first, so that the cache loses ends before beginnings.
    fn release(&mut self, sequence: &mut Sequence) {
        self.release_state(sequence);
        for block in sequence.reset().into_iter().rev() {
            self.pool.release(block);
        }
    }

    /// Makes the full and written blocks of a running sequence findable.
    fn commit_blocks(&mut self, at: usize) {
        let sequence = &mut self.running[at];
        while self.config.prefix_cache
            && !sequence.has_collided
            && (sequence.num_committed + 1) * BLOCK <= sequence.num_computed
        {
            let index = sequence.num_committed;
            let parent = index.checked_sub(1).map(|before| sequence.blocks[before]);
            let block = sequence.blocks[index];
            let Some(key) = sequence.key(index, parent) else { return };
            match self.prefix.insert(block, &key) {
                Insertion::New => self.pool.commit(block),
                // The same KV twice: hold the one that others can find.
                Insertion::Duplicate(other) => {
                    self.pool.share(other);
                    self.pool.release(block);
                    sequence.blocks[index] = other;
                }
                Insertion::Collision => {
                    sequence.has_collided = true;
                    return;
                }
            }
            sequence.num_committed += 1;
        }
    }

    /// Adds the next rows of a running sequence, as many as fit.
    fn add_chunk(&self, plan: &mut Plan, at: usize, left: &mut usize) {
        let sequence = &self.running[at];
        let mut num_rows = sequence.num_pending().min(*left);
        if sequence.logits_from() < sequence.tokens().len() && !sequence.is_embedded() {
            num_rows = num_rows.min(MAX_PROMPT_LOGIT_ROWS);
        }
        if num_rows > 0 {
            *left -= num_rows;
            self.add_piece(plan, at, num_rows);
        }
    }

    fn add_piece(&self, plan: &mut Plan, at: usize, num_rows: usize) {
        let sequence = &self.running[at];
        let start = sequence.num_computed;
        let end = start + num_rows;
        let last = if end == sequence.tokens().len() { end - 1 } else { end };
        let logits = last.min(sequence.logits_from().max(start)) - start..num_rows;
        plan.num_rows += num_rows;
        plan.pieces.push(Piece {
            sequence: sequence.id(),
            start,
            num_rows,
            num_draft: 0,
            logits,
            state: None,
        });
    }

    /// Puts a sequence among the waiting, at its place by arrival.
    fn queue(&mut self, sequence: Sequence) {
        let at = self.waiting.partition_point(|other| other.id() < sequence.id());
        self.waiting.insert(at, sequence);
    }

    fn running_index(&self, id: u64) -> Option<usize> {
        self.running.iter().position(|sequence| sequence.id() == id)
    }

    fn running_mut(&mut self, id: u64) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|sequence| sequence.id() == id)
    }
}
