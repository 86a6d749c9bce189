//! Places for work of which so much is done at once, so much may wait, and the rest is refused.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded queue in front of a bounded number of turns.
#[derive(Clone, Debug)]
pub struct Slots {
    limit: usize,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// A place among those that work or wait.
#[derive(Debug)]
pub struct Place {
    _place: OwnedSemaphorePermit,
    turns: Arc<Semaphore>,
}

/// The right to work now.
#[derive(Debug)]
pub struct Turn {
    // Nobody closes the semaphore: there always is a permit.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Slots {
    /// `at_once` work, at least one, while `queue` more wait.
    #[must_use]
    pub fn new(at_once: usize, queue: usize) -> Self {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS / 2);
        let limit = at_once + queue.min(Semaphore::MAX_PERMITS / 2);
        let places = Arc::new(Semaphore::new(limit));
        Self { limit, places, turns: Arc::new(Semaphore::new(at_once)) }
    }

    /// How many may work or wait together.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A place; `None` when all are taken.
    #[must_use]
    pub fn enter(&self) -> Option<Place> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { _place: place, turns: Arc::clone(&self.turns) })
    }
}

impl Place {
    /// Waits in order of arrival. A place has one turn at a time, and may have several one after the
    /// other.
    pub async fn turn(&self) -> Turn {
        Turn { _turn: Arc::clone(&self.turns).acquire_owned().await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[tokio::test]
    async fn some_work_some_wait_the_rest_is_refused() {
        let slots = Slots::new(1, 1);
        assert_eq!(slots.limit(), 2);
        let (first, second) = (slots.enter().unwrap(), slots.enter().unwrap());
        assert!(slots.enter().is_none());
        let turn = first.turn().await;
        let mut waiting = Box::pin(second.turn());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop((turn, first));
        waiting.await;
        assert!(slots.enter().is_some());
    }
}
