//! How many prompt rows a step may take so that those who decode beside them wait no longer than a
//! target. Only speed depends on it: a chunk's size never changes a result.

use std::time::Duration;

use super::scheduler::Budget;

/// Rows below which a chunk is not cut: the weights are read once a step whatever its size.
const MIN_CHUNK_ROWS: usize = 16;

/// With nobody decoding, only newcomers wait for a step to end.
const ALONE_FACTOR: f64 = 4.0;

/// Weight of the newest measurement.
const SMOOTHING: f64 = 0.5;

/// Learns the time a row takes from the steps that ran.
///
/// A step of `rows` takes `fixed + rows * cost`. Dividing the whole time by the rows and asking for
/// `target / that` rows converges to the size whose step takes exactly `target`.
#[derive(Clone, Debug)]
pub struct StepBudget {
    max_rows: usize,
    target_s: Option<f64>,
    seconds_per_row: Option<f64>,
}

impl StepBudget {
    /// `target` is the wanted time of a step in which a prompt's chunk and decoding share; without
    /// it, steps are as large as `max_rows`.
    #[must_use]
    pub fn new(max_rows: usize, target: Option<Duration>) -> Self {
        Self { max_rows, target_s: target.map(|t| t.as_secs_f64()), seconds_per_row: None }
    }

    /// Limits of the next step.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget {
            max_rows: self.max_rows,
            chunk_rows: self.rows_within(ALONE_FACTOR),
            chunk_rows_beside_decode: self.rows_within(1.0),
        }
    }

    /// Learns from a step of `rows` rows; small steps say little about a row's cost.
    pub fn observe(&mut self, rows: usize, elapsed: Duration) {
        if rows < MIN_CHUNK_ROWS {
            return;
        }
        let measured = elapsed.as_secs_f64() / rows as f64;
        let mean = self.seconds_per_row.unwrap_or(measured);
        self.seconds_per_row = Some(mean + SMOOTHING * (measured - mean));
    }

    fn rows_within(&self, factor: f64) -> usize {
        match (self.target_s, self.seconds_per_row) {
            (Some(target), Some(per_row)) if per_row > 0.0 => {
                let rows = (factor * target / per_row) as usize;
                rows.clamp(MIN_CHUNK_ROWS.min(self.max_rows), self.max_rows)
            }
            // Nothing is known before the first chunk: begin small when there is a target.
            (Some(_), None) => (MIN_CHUNK_ROWS * 4).min(self.max_rows),
            _ => self.max_rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converges_to_the_target() {
        // A step takes 20 ms and 1 ms a row: 80 rows take the target of 100 ms.
        let mut budget = StepBudget::new(512, Some(Duration::from_millis(100)));
        for _ in 0..50 {
            let rows = budget.budget().chunk_rows_beside_decode;
            budget.observe(rows, Duration::from_millis(20 + rows as u64));
        }
        let rows = budget.budget().chunk_rows_beside_decode;
        assert!((78..=82).contains(&rows), "{rows} rows");
    }

    #[test]
    fn stays_within_limits() {
        let mut slow = StepBudget::new(64, Some(Duration::from_millis(1)));
        slow.observe(64, Duration::from_secs(10));
        assert_eq!(slow.budget().chunk_rows_beside_decode, MIN_CHUNK_ROWS);
        let mut fast = StepBudget::new(64, Some(Duration::from_secs(1)));
        fast.observe(64, Duration::from_micros(1));
        assert_eq!(fast.budget().chunk_rows_beside_decode, 64);
        let fixed = StepBudget::new(64, None).budget();
        assert_eq!(fixed, Budget { max_rows: 64, chunk_rows: 64, chunk_rows_beside_decode: 64 });
        assert_eq!(StepBudget::new(4, Some(Duration::ZERO)).budget().chunk_rows, 4);
    }
}
