//! Bookkeeping of state pages: which are free, which sequences hold, and which are kept as snapshots.
//!
//! A model whose layers carry a state needs, to go on from a cached block, the state after that block's
//! last token. A snapshot is a page that stands behind a block. It takes the place of thousands of
//! tokens of KV, so it cannot stand behind every block; where snapshots pay is the scheduler's business
//! ([`super::scheduler`]).
//!
//! When no page is free, the snapshot goes that would cost the fewest tokens to compute again, counted
//! from the one before it, and that was longest of no use: its worth is that cost above a floor which
//! rises with every snapshot that is dropped (GreedyDual; N. Young 1994).

use std::collections::HashMap;

/// The state pages of one engine.
#[derive(Debug)]
pub struct StatePool {
    /// Holders of each page: sequences, and a snapshot.
    refs: Vec<u32>,
    free: Vec<u32>,
    /// By the block that they stand behind.
    snapshots: HashMap<u32, Snapshot>,
    /// What the snapshot that was dropped last was worth.
    floor: u64,
}

#[derive(Clone, Copy, Debug)]
struct Snapshot {
    page: u32,
    /// Tokens between the snapshot before and this one.
    cost: u64,
    worth: u64,
    /// A sequence has gone on from it.
    is_used: bool,
}

impl StatePool {
    /// A pool of free pages, numbered from 0.
    #[must_use]
    pub fn new(num_pages: usize) -> Self {
        let num_pages = u32::try_from(num_pages).unwrap_or(u32::MAX);
        Self {
            refs: vec![0; num_pages as usize],
            free: (0..num_pages).rev().collect(),
            snapshots: HashMap::new(),
            floor: 0,
        }
    }

    #[must_use]
    pub fn num_pages(&self) -> usize {
        self.refs.len()
    }

    /// Pages that [`Self::take`] can still hand out.
    #[must_use]
    pub fn num_available(&self) -> usize {
        let droppable = |snapshot: &&Snapshot| self.refs[snapshot.page as usize] == 1;
        self.free.len() + self.snapshots.values().filter(droppable).count()
    }

    #[must_use]
    pub fn num_snapshots(&self) -> usize {
        self.snapshots.len()
    }

    /// A free page, else that of the snapshot that is worth least; `None` when sequences hold all.
    pub fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let droppable = self.snapshots.iter();
            let droppable = droppable.filter(|(_, it)| self.refs[it.page as usize] == 1);
            // Ties are broken by the block, so that runs repeat.
            let least = droppable.min_by_key(|(block, it)| (it.worth, **block));
            let (block, worth) = least.map(|(block, it)| (*block, it.worth))?;
            self.floor = worth;
            self.forget(block);
        }
        let page = self.free.pop()?;
        self.refs[page as usize] = 1;
        Some(page)
    }

    /// Whether one holder alone has the page, which may thus write to it.
    #[must_use]
    pub fn is_exclusive(&self, page: u32) -> bool {
        self.refs[page as usize] == 1
    }

    /// One more holder of a held page.
    pub fn share(&mut self, page: u32) {
        debug_assert!(self.refs[page as usize] > 0, "a free page cannot be shared");
        self.refs[page as usize] += 1;
    }

    /// One holder less; after the last the page is free.
    pub fn release(&mut self, page: u32) {
        let refs = &mut self.refs[page as usize];
        debug_assert!(*refs > 0, "a page was released twice");
        *refs = refs.saturating_sub(1);
        if *refs == 0 {
            self.free.push(page);
        }
    }

    /// Makes a page that the caller holds the snapshot behind `block`; the caller's hold passes to it. One
    /// that is there already stays.
    pub fn keep(&mut self, block: u32, page: u32, cost: usize) {
        if self.snapshots.contains_key(&block) {
            self.release(page);
            return;
        }
        let cost = cost as u64;
        let worth = self.floor + cost;
        self.snapshots.insert(block, Snapshot { page, cost, worth, is_used: false });
    }

    /// Whether there is a snapshot behind the block.
    #[must_use]
    pub fn has(&self, block: u32) -> bool {
        self.snapshots.contains_key(&block)
    }

    /// The snapshot behind the block, from which a sequence goes on: its page, held once more.
    pub fn reuse(&mut self, block: u32) -> Option<u32> {
        let snapshot = self.snapshots.get_mut(&block)?;
        snapshot.is_used = true;
        snapshot.worth = self.floor + snapshot.cost;
        let page = snapshot.page;
        self.share(page);
        Some(page)
    }

    /// Drops the snapshot behind a block whose KV is gone.
    pub fn forget(&mut self, block: u32) {
        if let Some(snapshot) = self.snapshots.remove(&block) {
            self.release(snapshot.page);
        }
    }

    /// Drops a snapshot that nobody has gone on from.
    pub fn forget_unused(&mut self, block: u32) {
        if self.snapshots.get(&block).is_some_and(|snapshot| !snapshot.is_used) {
            self.forget(block);
        }
    }

    /// Verifies that every page is free or held, by those in `held` and by snapshots, as often as it is
    /// counted, and that snapshots stand behind blocks of which `is_findable` is true.
    ///
    /// # Errors
    /// A description of the first violated invariant.
    pub fn check(
        &self,
        held: impl Iterator<Item = u32>,
        is_findable: impl Fn(u32) -> bool,
    ) -> Result<(), String> {
        let mut counted = vec![0; self.refs.len()];
        held.for_each(|page| counted[page as usize] += 1);
        for (block, snapshot) in &self.snapshots {
            counted[snapshot.page as usize] += 1;
            if !is_findable(*block) {
                return Err(format!("a snapshot stands behind block {block}, which is not cached"));
            }
        }
        if let Some(page) = (0..counted.len()).find(|&page| counted[page] != self.refs[page]) {
            let (refs, held) = (self.refs[page], counted[page]);
            return Err(format!("page {page} has {refs} references and {held} holders"));
        }
        let mut free = self.free.clone();
        free.sort_unstable();
        free.dedup();
        let unheld = self.refs.iter().filter(|refs| **refs == 0).count();
        if free.len() != self.free.len() || unheld != free.len() {
            return Err(format!("{unheld} pages are held by nobody, {} are free", self.free.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snapshot_that_costs_least_goes_first() {
        let mut pool = StatePool::new(3);
        for (block, cost) in [(10, 500), (11, 40), (12, 60)] {
            let page = pool.take().unwrap();
            pool.keep(block, page, cost);
        }
        assert_eq!((pool.num_available(), pool.num_snapshots()), (3, 3));
        let page = pool.take().unwrap();
        assert!(!pool.has(11) && pool.has(10) && pool.has(12));
        pool.release(page);
        // What was kept before loses against what is new and as dear, once others were dropped.
        let page = pool.take().unwrap();
        pool.keep(13, page, 30);
        let held = pool.reuse(12).unwrap();
        let page = pool.take().unwrap();
        assert!(!pool.has(13) && pool.has(12), "30 above a floor of 40 is less than 60 above it");
        let never = |_| true;
        pool.check([page, held].into_iter(), never).unwrap();
        assert!(pool.check([page].into_iter(), never).is_err());
        assert!(pool.check([page, held].into_iter(), |block| block != 12).is_err());
        // Of the two that are left, one is held by a sequence too.
        assert!(pool.take().is_some() && !pool.has(10));
        assert_eq!((pool.take(), pool.num_available()), (None, 0));
    }

    #[test]
    fn a_page_has_one_writer() {
        let mut pool = StatePool::new(2);
        let page = pool.take().unwrap();
        assert!(pool.is_exclusive(page));
        pool.share(page);
        pool.keep(5, page, 1);
        assert!(!pool.is_exclusive(page));
        pool.forget_unused(5);
        assert!(pool.is_exclusive(page));
        pool.share(page);
        pool.keep(5, page, 1);
        assert_eq!(pool.reuse(5), Some(page));
        pool.forget_unused(5);
        assert!(pool.has(5), "it was gone on from");
        assert_eq!(pool.reuse(6), None);
    }
}
