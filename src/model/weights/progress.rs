//! Says now and then how far a long load has come.

use std::time::{Duration, Instant};

/// Time between two lines; shorter loads say nothing.
const INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct Progress {
    start: Instant,
    /// When the next line is due, from the start.
    next: Duration,
    num_layers: usize,
}

impl Progress {
    pub(super) fn new(num_layers: usize) -> Self {
        Self { start: Instant::now(), next: INTERVAL, num_layers }
    }

    /// Layers `0..=index` are loaded.
    pub(super) fn loaded(&mut self, index: usize) {
        if self.is_due(self.start.elapsed()) {
            tracing::info!(layer = index + 1, of = self.num_layers, "loading weights");
        }
    }

    fn is_due(&mut self, elapsed: Duration) -> bool {
        let is_due = elapsed >= self.next;
        if is_due {
            self.next = elapsed + INTERVAL;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_after_each_interval() {
        let mut progress = Progress::new(1);
        let cases =
            [(0, false), (1999, false), (2000, true), (3999, false), (7000, true), (8999, false)];
        for (ms, want) in cases {
            assert_eq!(progress.is_due(Duration::from_millis(ms)), want, "{ms} ms");
        }
    }
}
