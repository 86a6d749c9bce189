//! Bookkeeping of KV blocks: which are free, in use, or kept for reuse. It holds no KV.
//!
//! ```text
//!            take                    release (not committed)
//!   free ───────────► used (refs ≥ 1) ───────────────────────► free
//!                      ▲   │ release (committed)
//!                share │   ▼
//!                     cached (refs = 0) ── take, oldest first ─► used
//! ```
//!
//! Every block is in exactly one of the three states: free + used + cached = pool. Blocks of a pool that
//! grows are in none of them until they are there: those with the highest numbers.

/// No neighbour in the list of cached blocks.
const NONE: u32 = u32::MAX;

/// The KV blocks of one engine.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// Least recently used cached block, or [`NONE`].
    oldest: u32,
    /// Most recently used cached block, or [`NONE`].
    newest: u32,
    num_cached: usize,
    /// Blocks that are there.
    num_ready: usize,
}

#[derive(Clone, Debug)]
struct Block {
    refs: u32,
    /// Its content can be found by hash, so it is kept when the last reference goes.
    committed: bool,
    /// Neighbours in the list of cached blocks.
    older: u32,
    newer: u32,
}

/// A block taken from the pool with one reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub block: u32,
    /// It was cached until now: its hash must be forgotten.
    pub evicted: bool,
}

impl BlockPool {
    /// A pool of free blocks numbered from 0; at most `u32::MAX - 1` of them.
    #[must_use]
    pub fn new(num_blocks: usize) -> Self {
        let num_blocks = u32::try_from(num_blocks).unwrap_or(NONE).min(NONE - 1);
        let empty = Block { refs: 0, committed: false, older: NONE, newer: NONE };
        Self {
            blocks: vec![empty; num_blocks as usize],
            free: (0..num_blocks).rev().collect(),
            oldest: NONE,
            newest: NONE,
            num_cached: 0,
            num_ready: num_blocks as usize,
        }
    }

    /// A pool of `most` blocks, of which the first `ready` are there.
    #[must_use]
    pub fn growing(ready: usize, most: usize) -> Self {
        let mut pool = Self::new(most);
        pool.num_ready = ready.min(pool.blocks.len());
        pool.free.retain(|&block| (block as usize) < ready);
        pool
    }

    /// The first `ready` blocks are there now. They are taken after those that were in use before, whose
    /// memory is warm.
    pub fn grow_to(&mut self, ready: usize) {
        let ready = ready.min(self.blocks.len());
        if ready > self.num_ready {
            self.free.splice(0..0, (self.num_ready as u32..ready as u32).rev());
            self.num_ready = ready;
        }
    }

    /// Blocks at most, those included that are not there yet.
    #[must_use]
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that are there.
    #[must_use]
    pub fn num_ready(&self) -> usize {
        self.num_ready
    }

    #[must_use]
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    #[must_use]
    pub fn num_cached(&self) -> usize {
        self.num_cached
    }

    #[must_use]
    pub fn num_used(&self) -> usize {
        self.num_ready - self.free.len() - self.num_cached
    }

    /// Blocks that [`Self::take`] can still hand out.
    #[must_use]
    pub fn num_available(&self) -> usize {
        self.free.len() + self.num_cached
    }

    /// Whether nobody holds the block.
    #[must_use]
    pub fn is_unused(&self, block: u32) -> bool {
        self.block(block).refs == 0
    }

    /// A free block, else the least recently used cached one; `None` when all are in use.
    pub fn take(&mut self) -> Option<Taken> {
        let (block, evicted) = match self.free.pop() {
            Some(block) => (block, false),
            None if self.oldest != NONE => (self.oldest, true),
            None => return None,
        };
        if evicted {
            self.unlink(block);
            self.block_mut(block).committed = false;
        }
        self.block_mut(block).refs = 1;
        Some(Taken { block, evicted })
    }

    /// One more reference to a used or cached block.
    pub fn share(&mut self, block: u32) {
        if self.block(block).refs == 0 {
            debug_assert!(self.block(block).committed, "a free block cannot be shared");
            self.unlink(block);
        }
        self.block_mut(block).refs += 1;
    }

    /// Marks a used block as findable by hash.
    pub fn commit(&mut self, block: u32) {
        debug_assert!(self.block(block).refs > 0, "only a used block is committed");
        self.block_mut(block).committed = true;
    }

    /// One reference less; the last one makes the block free, or cached when it is committed.
    pub fn release(&mut self, block: u32) {
        let entry = self.block_mut(block);
        debug_assert!(entry.refs > 0, "a block was released twice");
        entry.refs = entry.refs.saturating_sub(1);
        if entry.refs > 0 {
            return;
        }
        if entry.committed {
            self.link_newest(block);
        } else {
            self.free.push(block);
        }
    }

    /// Cached blocks, least recently used first.
    pub fn cached(&self) -> impl Iterator<Item = u32> + '_ {
        let first = (self.oldest != NONE).then_some(self.oldest);
        std::iter::successors(first, |&block| {
            let newer = self.block(block).newer;
            (newer != NONE).then_some(newer)
        })
        .take(self.blocks.len())
    }

    /// Verifies that every block is in exactly one state.
    ///
    /// # Errors
    /// A description of the first violated invariant.
    pub fn check(&self) -> Result<(), String> {
        let mut state = vec![0_u8; self.blocks.len()];
        for &block in &self.free {
            let entry = self.block(block);
            if entry.refs > 0 || entry.committed {
                return Err(format!("free block {block} is {entry:?}"));
            }
            state[block as usize] += 1;
        }
        let mut num_cached = 0;
        for block in self.cached() {
            let entry = self.block(block);
            if entry.refs > 0 || !entry.committed {
                return Err(format!("cached block {block} is {entry:?}"));
            }
            state[block as usize] += 1;
            num_cached += 1;
        }
        if num_cached != self.num_cached {
            return Err(format!("{num_cached} blocks are listed, {} counted", self.num_cached));
        }
        for (entry, state) in self.blocks.iter().zip(&mut state) {
            *state += u8::from(entry.refs > 0);
        }
        let wanted = |block: usize| u8::from(block < self.num_ready);
        match (0..state.len()).position(|block| state[block] != wanted(block)) {
            Some(block) => Err(format!("block {block} is in {} states", state[block])),
            None => Ok(()),
        }
    }

    fn block(&self, block: u32) -> &Block {
        &self.blocks[block as usize]
    }

    fn block_mut(&mut self, block: u32) -> &mut Block {
        &mut self.blocks[block as usize]
    }

    fn link_newest(&mut self, block: u32) {
        let previous = self.newest;
        let entry = self.block_mut(block);
        entry.older = previous;
        entry.newer = NONE;
        if previous == NONE {
            self.oldest = block;
        } else {
            self.block_mut(previous).newer = block;
        }
        self.newest = block;
        self.num_cached += 1;
    }

    fn unlink(&mut self, block: u32) {
        let Block { older, newer, .. } = *self.block(block);
        if older == NONE {
            self.oldest = newer;
        } else {
            self.block_mut(older).newer = newer;
        }
        if newer == NONE {
            self.newest = older;
        } else {
            self.block_mut(newer).older = older;
        }
        let entry = self.block_mut(block);
        entry.older = NONE;
        entry.newer = NONE;
        self.num_cached -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn evicts_the_least_recently_used() {
        let mut pool = BlockPool::new(3);
        let taken: Vec<u32> = (0..3).map(|_| pool.take().unwrap().block).collect();
        assert_eq!(taken, [0, 1, 2]);
        assert_eq!(pool.take(), None);
        for block in taken {
            pool.commit(block);
            pool.release(block);
        }
        pool.share(0);
        pool.release(0);
        assert_eq!(pool.cached().collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(pool.take(), Some(Taken { block: 1, evicted: true }));
        assert_eq!((pool.num_free(), pool.num_used(), pool.num_cached()), (0, 1, 2));
        pool.check().unwrap();
    }

    #[test]
    fn blocks_that_come_later_are_taken_last() {
        let mut pool = BlockPool::growing(2, 5);
        let take = |pool: &mut BlockPool| pool.take().map(|taken| taken.block);
        assert_eq!((take(&mut pool), take(&mut pool), take(&mut pool)), (Some(0), Some(1), None));
        pool.check().unwrap();
        pool.release(1);
        pool.grow_to(4);
        assert_eq!((pool.num_ready(), pool.num_free(), pool.num_used()), (4, 3, 1));
        pool.check().unwrap();
        let next: Vec<_> = (0..4).map(|_| take(&mut pool)).collect();
        assert_eq!(next, [Some(1), Some(2), Some(3), None]);
        pool.grow_to(3);
        assert_eq!(pool.num_ready(), 4, "it does not shrink");
        pool.grow_to(9);
        assert_eq!((pool.num_ready(), take(&mut pool)), (5, Some(4)));
        pool.check().unwrap();
    }

    #[test]
    fn a_block_without_a_hash_is_free_after_release() {
        let mut pool = BlockPool::new(1);
        let block = pool.take().unwrap().block;
        pool.share(block);
        pool.release(block);
        assert_eq!(pool.num_used(), 1);
        pool.release(block);
        assert_eq!(pool.num_free(), 1);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Take,
        Share(usize),
        Commit(usize),
        Release(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => Just(Op::Take),
            2 => any::<usize>().prop_map(Op::Share),
            2 => any::<usize>().prop_map(Op::Commit),
            4 => any::<usize>().prop_map(Op::Release),
        ]
    }

    proptest! {
        /// Whatever happens, no block is lost, and a block handed out was not held by anybody.
        #[test]
        fn conserves_blocks(size in 0_usize..12, ops in prop::collection::vec(op(), 0..200)) {
            let mut pool = BlockPool::new(size);
            let mut held: Vec<u32> = Vec::new();
            for op in ops {
                match op {
                    Op::Take => {
                        let available = pool.num_available();
                        let taken = pool.take();
                        prop_assert_eq!(taken.is_some(), available > 0);
                        if let Some(Taken { block, .. }) = taken {
                            prop_assert!(!held.contains(&block));
                            held.push(block);
                        }
                    }
                    Op::Share(pick) => {
                        let cached: Vec<u32> = pool.cached().chain(held.iter().copied()).collect();
                        if !cached.is_empty() {
                            let block = cached[pick % cached.len()];
                            pool.share(block);
                            held.push(block);
                        }
                    }
                    Op::Commit(pick) if !held.is_empty() => pool.commit(held[pick % held.len()]),
                    Op::Release(pick) if !held.is_empty() => {
                        let block = held.swap_remove(pick % held.len());
                        pool.release(block);
                    }
                    Op::Commit(_) | Op::Release(_) => {}
                }
                prop_assert_eq!(pool.check(), Ok(()));
                let mut distinct = held.clone();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(pool.num_used(), distinct.len());
                let total = pool.num_free() + pool.num_used() + pool.num_cached();
                prop_assert_eq!(total, size);
            }
        }
    }
}
