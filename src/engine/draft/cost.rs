//! What further rows cost a step, learned from the steps themselves.

use std::time::Duration;

/// Numbers of rows for which the cost is kept; between them it is interpolated.
const KNOTS: [usize; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];

/// Cost of a row where nothing has been measured, as a part of a step of one row: a little more than
/// processors need, whose steps mostly wait for weights.
const ASSUMED: f64 = 0.125;

/// Weight of the newest comparison, and the largest surprise that is believed, as a factor.
const RATE: f64 = 0.2;
const MAX_SURPRISE: f64 = 1.5;

/// Times of steps by their rows, relative to each other.
///
/// Only steps that follow one another are compared, and only if the same number of sequences decoded
/// in them and nothing else: between those lie the guesses alone. Whatever else makes steps slower,
/// longer contexts or a busy machine, is in both and cancels out.
#[derive(Clone, Debug)]
pub struct RowCost {
    /// Logarithms, by [`KNOTS`].
    shape: [f64; KNOTS.len()],
    /// Rows, sequences and seconds of the step before, if it may be compared with.
    last: Option<(usize, usize, f64)>,
    is_free: bool,
}

impl Default for RowCost {
    fn default() -> Self {
        let shape = KNOTS.map(|rows| (ASSUMED * (rows - 1) as f64).ln_1p());
        Self { shape, last: None, is_free: false }
    }
}

impl RowCost {
    /// Rows that cost nothing, whatever is measured: every guess is computed.
    #[must_use]
    pub fn free() -> Self {
        Self { shape: [0.0; KNOTS.len()], last: None, is_free: true }
    }

    /// Time of a step, in units that only compare.
    #[must_use]
    pub fn of(&self, rows: usize) -> f64 {
        let (knot, part) = locate(rows);
        let Some(next) = self.shape.get(knot + 1) else {
            // Beyond the last knot the time is that of computing, which grows with the rows.
            let rows_more = rows as f64 / KNOTS[knot] as f64;
            return if self.is_free { 1.0 } else { self.shape[knot].exp() * rows_more };
        };
        (self.shape[knot] + part * (next - self.shape[knot])).exp()
    }

    /// Learns from a step in which `sequences` decoded.
    pub fn observe(&mut self, rows: usize, sequences: usize, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let last = self.last.replace((rows, sequences, seconds));
        let Some((last_rows, _, last_seconds)) =
            last.filter(|last| last.0 != rows && last.1 == sequences && !self.is_free)
        else {
            return;
        };
        let expected = (self.of(rows) / self.of(last_rows)).ln();
        let surprise = (seconds / last_seconds).ln() - expected;
        let surprise = surprise.clamp(-MAX_SURPRISE.ln(), MAX_SURPRISE.ln());
        // Either of the two may be to blame.
        self.shift(rows, RATE * surprise / 2.0);
        self.shift(last_rows, -RATE * surprise / 2.0);
    }

    /// What follows cannot be compared with what was.
    pub fn interrupt(&mut self) {
        self.last = None;
    }

    /// Moves the cost of some rows; more rows never cost less.
    fn shift(&mut self, rows: usize, by: f64) {
        let (knot, part) = locate(rows);
        self.shape[knot] += by * (1.0 - part);
        if let Some(next) = self.shape.get_mut(knot + 1) {
            *next += by * part;
        }
        let pivot = if part > 0.5 { knot + 1 } else { knot };
        for larger in pivot + 1..KNOTS.len() {
            self.shape[larger] = self.shape[larger].max(self.shape[larger - 1]);
        }
        for smaller in (0..pivot).rev() {
            self.shape[smaller] = self.shape[smaller].min(self.shape[smaller + 1]);
        }
    }
}

/// The last knot that is not above, and how far towards the next.
fn locate(rows: usize) -> (usize, f64) {
    let knot = KNOTS.partition_point(|&knot| knot <= rows).saturating_sub(1);
    let part = KNOTS
        .get(knot + 1)
        .map_or(0.0, |next| (rows.max(1) - KNOTS[knot]) as f64 / (next - KNOTS[knot]) as f64);
    (knot, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_become_those_of_the_steps() {
        // Two machines: rows cost nothing up to eight, or as much as a step each.
        for (name, time) in [
            ("flat", (|rows| 1000 + 100 * rows.max(8)) as fn(u64) -> u64),
            ("steep", |rows| 1000 * rows),
        ] {
            let mut cost = RowCost::default();
            for i in 0..2000_u64 {
                let rows = 1 + i * 7919 % 13;
                // The machine becomes slower all the while.
                cost.observe(
                    rows as usize,
                    1,
                    Duration::from_micros(time(rows) + time(rows) * i / 500),
                );
            }
            let ratio = cost.of(8) / cost.of(1);
            let real = time(8) as f64 / time(1) as f64;
            assert!((ratio / real - 1.0).abs() < 0.1, "{name}: {ratio}, not {real}");
            assert!((0..400).is_sorted_by(|a, b| cost.of(*a) <= cost.of(*b)));
        }
    }

    #[test]
    fn only_neighbours_are_compared() {
        let mut cost = RowCost::default();
        let before = cost.shape;
        for i in 0..20 {
            cost.observe(1, 1, Duration::from_micros(10));
            cost.observe(1, 1, Duration::from_micros(900));
            cost.observe(4, 2 + i, Duration::from_micros(10));
            cost.interrupt();
            cost.observe(2, 2 + i, Duration::from_micros(10));
            cost.interrupt();
        }
        assert_eq!(cost.shape, before);
        assert_eq!(RowCost::free().of(300), RowCost::free().of(1));
    }
}
