//! Pages of state: which a step reads and writes, and where snapshots are taken.
//!
//! A sequence can be reused up to a block behind which a snapshot stands, so snapshots stand where other
//! prompts may part from this one or go on: at its marks (the ends of messages), at its end, every
//! [`INTERVAL`] blocks of a long one, and at the end of what another prompt shared with it (where KV was
//! known and no state). While a sequence generates, its last full block has one, which replaces the one
//! before.
//!
//! No snapshot copies anything while tokens are generated: the page becomes the snapshot, and the next
//! step writes to another. Within a prompt, the step leaves copies on its way.
//!
//! A guess that fails leaves a state that has read too much. So a step with guesses leaves the state
//! after the last known token in one page and that after all guesses in another. Where some guesses
//! were right and others not, the right ones are computed again.

use super::{BLOCK, Cached, Piece, Plan, Scheduler};
use crate::engine::sequence::Sequence;
use crate::model::{SpanState, StateSave};

/// Blocks between snapshots in a long prompt: 4,096 tokens.
const INTERVAL: usize = 128;

impl Scheduler {
    /// Whether the model's layers carry a state.
    pub(super) fn has_states(&self) -> bool {
        self.config.num_states > 0
    }

    /// Guesses that a step may compute for a decoding sequence: none beyond the block that its tokens are
    /// in, so that the state at the end of the block is had.
    pub(super) fn most_drafts(&self, sequence: &Sequence) -> usize {
        let len = sequence.tokens().len();
        if self.has_states() { len.next_multiple_of(BLOCK) - len } else { usize::MAX }
    }

    /// Leaves the blocks up to the last behind which a snapshot stands.
    pub(super) fn trim_to_state(&self, blocks: &mut Vec<u32>) {
        if self.has_states() {
            let last = blocks.iter().rposition(|&block| self.states.has(block));
            blocks.truncate(last.map_or(0, |last| last + 1));
        }
    }

    /// Whether a running sequence will take a snapshot that a waiting one could use.
    pub(super) fn is_state_computed_by_another(&self, sequence: &Sequence, cached: usize) -> bool {
        let most = sequence.num_cacheable();
        let is_shared = |other: &Sequence, blocks: usize| {
            other.hashes().get(blocks - 1) == sequence.hashes().get(blocks - 1)
        };
        self.running.iter().filter(|other| !other.has_collided).any(|other| {
            let mut coming = other.state.wanted.iter();
            coming.any(|&blocks| blocks > cached && blocks <= most && is_shared(other, blocks))
        })
    }

    /// Gives a sequence the state after its cached blocks, and plans its snapshots.
    pub(super) fn start_state(&mut self, sequence: &mut Sequence, cached: &Cached) {
        if !self.has_states() {
            return;
        }
        let num_cached = cached.blocks.len();
        let page = cached.blocks.last().and_then(|&block| self.states.reuse(block));
        sequence.state.page = page;
        sequence.state.num_saved = num_cached;
        sequence.state.trail = None;
        let last = (sequence.tokens().len() - 1) / BLOCK;
        let marks = sequence.marks.iter().map(|&mark| mark as usize / BLOCK);
        let wanted = marks.chain((INTERVAL..last).step_by(INTERVAL));
        let wanted = wanted.chain([cached.num_known, last]);
        let mut wanted: Vec<usize> =
            wanted.filter(|&blocks| blocks > num_cached && blocks <= last).collect();
        wanted.sort_unstable();
        wanted.dedup();
        sequence.state.wanted = if self.config.prefix_cache { wanted } else { Vec::new() };
    }

    /// Gives every piece of a plan its pages. There is one for each: pages are at least twice as many as
    /// sequences that run, and what no sequence holds can be dropped.
    pub(super) fn place_states(&mut self, plan: &mut Plan) {
        if !self.has_states() {
            return;
        }
        for piece in &mut plan.pieces {
            let Some(at) = self.running_index(piece.sequence) else { continue };
            let from = self.running[at].state.page;
            let may_write = from.filter(|&page| self.states.is_exclusive(page));
            let to = match may_write {
                Some(page) => page,
                None => self.states.take().expect("pages for all that run: this is a bug"),
            };
            piece.state = Some(SpanState { from, to, saves: Vec::new() });
        }
        for piece in &mut plan.pieces {
            let Some(at) = self.running_index(piece.sequence) else { continue };
            if piece.num_draft > 0 && !self.place_drafts(piece) {
                // Without a page there are no guesses.
                plan.num_rows -= piece.num_draft;
                piece.num_rows -= piece.num_draft;
                piece.logits.end -= piece.num_draft;
                piece.num_draft = 0;
            }
            self.place_saves(at, piece);
            self.running[at].state.flight.clone_from(&piece.state);
        }
    }

    /// The state after the known tokens stays where the step would write; that after the guesses goes to
    /// another page, if there is one.
    fn place_drafts(&mut self, piece: &mut Piece) -> bool {
        let Some(state) = &mut piece.state else { return false };
        let Some(page) = self.states.take() else { return false };
        let rows = (piece.num_rows - piece.num_draft) as u32;
        state.saves.push(StateSave { rows, page: state.to });
        state.to = page;
        true
    }

    /// Copies of the state at the snapshots that are wanted within a piece of a prompt.
    fn place_saves(&mut self, at: usize, piece: &mut Piece) {
        let Some(state) = piece.state.as_mut().filter(|_| piece.num_draft == 0) else { return };
        let end = piece.start + piece.num_rows;
        for &blocks in &self.running[at].state.wanted {
            let position = blocks * BLOCK;
            if position <= piece.start || position >= end {
                continue;
            }
            let Some(page) = self.states.take() else { return };
            let rows = (position - piece.start) as u32;
            state.saves.push(StateSave { rows, page });
        }
    }

    /// Takes note that a piece is computed: where the state is now, and what its copies are.
    pub(super) fn commit_state(&mut self, at: usize, piece: &Piece) {
        if piece.num_draft > 0 {
            // Which guesses are right is not known yet.
            return;
        }
        let Some(flight) = self.running[at].state.flight.take() else { return };
        self.move_state(at, flight.to);
        for save in flight.saves {
            let position = piece.start + save.rows as usize;
            self.keep_state(at, position / BLOCK, save.page);
        }
        self.freeze(at);
        // What is passed and had no page will not come any more: nobody is to wait for it.
        let sequence = &mut self.running[at];
        let computed = sequence.num_computed / BLOCK;
        sequence.state.wanted.retain(|&blocks| blocks > computed);
    }

    /// Takes note of which guesses of a step were right, after all tokens were chosen.
    pub fn settle(&mut self, plan: &Plan) {
        for piece in plan.pieces.iter().filter(|piece| piece.num_draft > 0) {
            let Some(at) = self.running_index(piece.sequence) else { continue };
            let Some(flight) = self.running[at].state.flight.take() else { continue };
            let known = piece.start + piece.num_rows - piece.num_draft;
            let num_right = self.running[at].num_computed - known;
            let [before] = &flight.saves[..] else { continue };
            if num_right == piece.num_draft {
                // The page of the state before the guesses was in part the sequence's own.
                self.move_state(at, flight.to);
                if flight.from != Some(before.page) {
                    self.states.release(before.page);
                }
            } else {
                self.move_state(at, before.page);
                self.states.release(flight.to);
                self.running[at].num_computed = known;
                self.running[at].num_repeated = num_right;
            }
            self.freeze(at);
        }
    }

    /// The sequence's state is in another page now.
    fn move_state(&mut self, at: usize, page: u32) {
        let before = self.running[at].state.page.replace(page);
        if let Some(before) = before.filter(|&before| before != page) {
            self.states.release(before);
        }
    }

    /// Where the state stands at the end of a full block and generated tokens begin or a snapshot is
    /// wanted, its page becomes one.
    fn freeze(&mut self, at: usize) {
        let sequence = &self.running[at];
        let (computed, prompt_len) = (sequence.num_computed(), sequence.prompt_len());
        let blocks = computed / BLOCK;
        if !computed.is_multiple_of(BLOCK) || blocks == 0 || !self.config.prefix_cache {
            return;
        }
        let is_wanted = sequence.state.wanted.contains(&blocks);
        if !is_wanted && computed < prompt_len {
            return;
        }
        let Some(page) = sequence.state.page else { return };
        let before = sequence.state.trail;
        self.states.share(page);
        self.keep_state(at, blocks, page);
        if is_wanted {
            return;
        }
        let block = self.running[at].blocks[blocks - 1];
        self.running[at].state.trail = Some(block);
        if let Some(before) = before.filter(|&before| before != block) {
            self.states.forget_unused(before);
        }
    }

    /// Makes a held page the snapshot behind the first `blocks` blocks of a sequence, if they can be found.
    fn keep_state(&mut self, at: usize, blocks: usize, page: u32) {
        let sequence = &mut self.running[at];
        sequence.state.wanted.retain(|&wanted| wanted > blocks);
        if blocks > sequence.num_committed {
            self.states.release(page);
            return;
        }
        let cost = blocks.saturating_sub(sequence.state.num_saved) * BLOCK;
        sequence.state.num_saved = blocks;
        let block = sequence.blocks[blocks - 1];
        self.states.keep(block, page, cost);
    }

    /// Gives all pages of a sequence back.
    pub(super) fn release_state(&mut self, sequence: &mut Sequence) {
        let own = sequence.state.page.take();
        let flight = sequence.state.flight.take();
        let in_flight = flight.iter().flat_map(written).filter(|page| Some(*page) != own);
        let pages: Vec<u32> = own.into_iter().chain(in_flight).collect();
        pages.into_iter().for_each(|page| self.states.release(page));
        sequence.state.wanted.clear();
        sequence.state.trail = None;
    }

    /// See [`Scheduler::check`].
    pub(super) fn check_states(&self) -> Result<(), String> {
        let in_flight = |sequence: &Sequence| {
            let own = sequence.state.page;
            let pages = sequence.state.flight.iter().flat_map(written);
            pages.filter(move |page| Some(*page) != own).collect::<Vec<_>>()
        };
        let held = self
            .running
            .iter()
            .flat_map(|sequence| sequence.state.page.into_iter().chain(in_flight(sequence)));
        self.states.check(held, |block| self.prefix.holds(block))?;
        let stateless = |sequence: &&Sequence| {
            self.has_states() && sequence.num_computed() > 0 && sequence.state.page.is_none()
        };
        match self.running.iter().find(stateless) {
            Some(sequence) => Err(format!("sequence {} has lost its state", sequence.id())),
            None => Ok(()),
        }
    }
}

/// Pages that a step writes.
fn written(state: &SpanState) -> impl Iterator<Item = u32> + '_ {
    state.saves.iter().map(|save| save.page).chain([state.to])
}
