//! Bytes of request bodies that are in memory at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bodies up to this size may use the last quarter of the budget, which large ones may not: large
/// bodies that stall keep nobody with a small one waiting.
const SMALL: usize = 256 << 10;

/// Shared by all connections; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct BodyBudget {
    limit: usize,
    used: Arc<AtomicUsize>,
}

/// Bytes of one body; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: Arc::default() }
    }

    pub(crate) fn hold(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }
}

impl Held {
    /// Takes `more` bytes for the body; false if they are not to be had.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let bytes = self.bytes.saturating_add(more);
        let limit = self.budget.limit;
        let allowed = if bytes <= SMALL { limit } else { limit - limit / 4 };
        let take = |used: usize| used.checked_add(more).filter(|used| *used <= allowed);
        let taken = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_ok() {
            self.bytes = bytes;
        }
        taken.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_leave_room_for_small_ones() {
        let budget = BodyBudget::new(8 << 20);
        let mut large = budget.hold();
        assert!(large.grow(6 << 20));
        assert!(!large.grow(1), "a quarter is for small bodies");
        let mut small = budget.hold();
        assert!(small.grow(SMALL));
        assert!(!small.grow(1), "it is small no more");
        drop(large);
        assert!(small.grow(4 << 20));
        drop(small);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
