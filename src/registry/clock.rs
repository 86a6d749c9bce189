//! Time as the registry sees it: the system's clock, or one that a test moves by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A source of [`Instant`]s. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    manual: Option<Manual>,
}

#[derive(Clone, Debug)]
struct Manual {
    start: Instant,
    passed_ms: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that stands still until [`Clock::advance`].
    #[must_use]
    pub fn manual() -> Self {
        let manual = Manual { start: Instant::now(), passed_ms: Arc::default() };
        Self { manual: Some(manual) }
    }

    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.manual {
            None => Instant::now(),
            Some(manual) => {
                manual.start + Duration::from_millis(manual.passed_ms.load(Ordering::Acquire))
            }
        }
    }

    /// Moves a manual clock forward, in whole milliseconds; a system clock moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.manual {
            manual.passed_ms.fetch_add(by.as_millis() as u64, Ordering::AcqRel);
        }
    }
}
